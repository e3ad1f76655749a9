"""The op table: one declaration per op, to which reference, costs, cases and lowerings are attached.

An op is one function. Its signature is what models call, its body infers shape and dtype, its docstring is the
formula. Attached to it: the numpy reference (the oracle), flops, bytes, test cases, and per backend a lowering.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, ParamSpec

import numpy as np
from numpy.typing import NDArray

from graphsched.errors import OptionError, ShapeError
from graphsched.graph.numbers import FIRST_USER_OP as FIRST_USER_OP
from graphsched.graph.numbers import AnyOp as AnyOp
from graphsched.graph.numbers import Op as Op
from graphsched.graph.numbers import UserOp as UserOp
from graphsched.graph.tensor import Tensor, TensorType
from graphsched.graph.traits import Traits
from graphsched.types.dtypes import DType

P = ParamSpec("P")
Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """One test case: operand types (weights may be quantised), attributes, and ranges of integer operands."""

    types: tuple[TensorType, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    ints: Mapping[int, tuple[int, int]] = field(default_factory=dict)  # operand index -> [low, high)
    tolerance: float = 1e-9  # NMSE against the reference


# Draws the values of one operand of a case, given the types of all by name; WEIGHT says that it is noise, and a weight
# of the model.
Draw = Callable[[Mapping[str, TensorType], np.random.Generator], Array]
WEIGHT: Literal["weight"] = "weight"


def case(
    *types: TensorType,
    ints: Mapping[int, tuple[int, int]] | None = None,
    tolerance: float = 1e-9,
    **attrs: Any,
) -> Case:
    """A test case of an op. ints: [low, high) by operand, for integers. tolerance: largest NMSE of a kernel."""
    return Case(types, attrs, ints or {}, tolerance)


@dataclass(frozen=True)
class Lowering:
    """How a backend runs an op: valid if each operand named in `types` has one of the dtypes given.

    `strided`: operands whose rows may be apart, parts of wider rows or in another order; `permuted`: operands whose
    elements may be apart, too. All others come dense (`run.lowering.Low.operand`).
    """

    types: Mapping[str, tuple[DType, ...]]
    emit: Callable[..., None]
    when: Callable[[Tensor], bool] | None = None
    strided: tuple[str, ...] = ()
    permuted: tuple[str, ...] = ()

    def accepts(self, node: Tensor, names: Iterable[str]) -> bool:
        """Whether this lowering takes a node: types of operands by name, then its own condition."""
        operands = dict(zip(names, node.sources, strict=False))
        fits = all(operands[n].dtype in kinds for n, kinds in self.types.items() if n in operands)
        return fits and (self.when is None or self.when(node))


class OpDef(Generic[P]):
    """One op: call it to build a node."""

    def __init__(
        self,
        number: AnyOp,
        infer: Callable[P, TensorType],
        rowwise: Callable[[Tensor], bool],
        traits: Traits,
    ) -> None:
        self.op, self.infer, self.rowwise, self.traits = number, infer, rowwise, traits
        self.name = infer.__name__
        self.doc = (infer.__doc__ or "").strip()
        parameters = inspect.signature(infer).parameters.values()
        self.operands = tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
        self.defaults = {
            p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty
        }
        for operand in traits.operands:
            if operand not in self.operands:
                raise TypeError(f"op {self.name} has no operand {operand}, which its declaration names")
        self.lowerings: dict[str, list[Lowering]] = {}
        self.run_reference: Callable[..., Array] | None = None
        self.count_flops: Callable[..., int] = lambda *_, **__: 0
        self.count_bytes: Callable[..., int] | None = None
        self.list_cases: Callable[[], Iterator[Case]] | None = None
        self.roles: dict[str, Draw | Literal["weight"]] = {}
        # Of an op of several results: the nodes that compute them one by one (ops/several.py).
        self.compose: Callable[..., tuple[Tensor, ...]] | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        sources = tuple(a for a in args if isinstance(a, Tensor))
        type = self.infer(*args, **kwargs)
        return Tensor(type, opdef=self, sources=sources, attrs={**self.defaults, **kwargs})

    def reference(self, fn: Callable[..., Array]) -> Callable[..., Array]:
        """Attaches the numpy reference: arrays in, array out, attributes by keyword."""
        fn.__qualname__ = f"{self.name}.reference"
        self.run_reference = fn
        return fn

    def evaluate(self, *arrays: Array, **attrs: Any) -> Array:
        """The result by the numpy reference."""
        assert self.run_reference is not None, f"op {self.name} has no reference"
        return self.run_reference(*arrays, **attrs)

    def flops(self, fn: Callable[..., int]) -> Callable[..., int]:
        """Attaches the count of floating-point operations, from operand types and attributes."""
        self.count_flops = fn
        return fn

    def nbytes(self, fn: Callable[..., int]) -> Callable[..., int]:
        """Attaches the bytes touched, for ops that do not read every operand once."""
        self.count_bytes = fn
        return fn

    def cases(self, fn: Callable[[], Iterator[Case]]) -> Callable[[], Iterator[Case]]:
        """Attaches the test cases."""
        self.list_cases = fn
        return fn

    def draw(self, **operands: "Draw | Literal['weight']") -> None:
        """Says how cases draw operands: by default as noise, and integers from the range that a case gives.

        A function is for values that depend on other operands, like slots of a cache, WEIGHT for a weight of the model.
        """
        self.roles |= operands

    def lowering(
        self,
        backend: str,
        when: Callable[[Tensor], bool] | None = None,
        strided: tuple[str, ...] = (),
        permuted: tuple[str, ...] = (),
        **types: Iterable[DType],
    ) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Attaches a backend's lowering for operands of the given dtypes, and for nodes that `when` accepts.

        It gets every operand dense but those that it names as `strided` or `permuted` (see `Lowering`). TypeError for
        a name that is no operand.
        """
        # A name with a typing error would make a lowering that is never chosen, or reads the wrong strides.
        for name in (*strided, *permuted, *types):
            if name not in self.operands:
                raise TypeError(
                    f"op {self.name} has no operand {name}, which its lowering on {backend} names"
                )

        def attach(emit: Callable[..., None]) -> Callable[..., None]:
            emit.__qualname__ = f"{self.name}.lowering[{backend}]"
            row = Lowering({k: tuple(v) for k, v in types.items()}, emit, when, strided, permuted)
            self.lowerings.setdefault(backend, []).append(row)
            return emit

        return attach


OPS: dict[AnyOp, OpDef[Any]] = {}


def op(
    number: int, *, rowwise: bool | Callable[[Tensor], bool] = False, **traits: Any
) -> Callable[[Callable[P, TensorType]], OpDef[P]]:
    """Declares an op: a member of `Op`, or in another package a number from 1000 up.

    `rowwise`: row i of the result depends on row i of the operands with as many rows. Other properties are those of
    `Traits`; TypeError for an unknown one, or for one that names no operand.
    """

    def declare(infer: Callable[P, TensorType]) -> OpDef[P]:
        known = number if isinstance(number, Op) else _user_op(number, infer)
        made = OpDef(known, infer, rowwise if callable(rowwise) else lambda _: rowwise, Traits(**traits))
        OPS[known] = made
        return made

    return declare


def _user_op(number: int, infer: Callable[..., Any]) -> UserOp:
    """The number of another package's op; two ops never share a number or a name, `-op` takes either."""
    made = UserOp(number, infer.__name__.upper())
    if number < FIRST_USER_OP:
        raise OptionError(f"op {made.name} has number {int(number)}, {FIRST_USER_OP} or more is needed")
    for other in every_op():
        if other != made and other.name != made.name:
            continue
        again = (other, other.name) == (made, made.name) and OPS[other].infer.__module__ == infer.__module__
        if not again:  # as a reload of its module does
            raise OptionError(f"op {made.name} with number {int(made)}: {other.name} has number {int(other)}")
    return made


def every_op() -> list[AnyOp]:
    """All numbers in order: those of `Op`, then what other packages have declared so far."""
    return [*Op, *sorted(number for number in OPS if not isinstance(number, Op))]


def lowering_for(backend: str, node: Tensor) -> Lowering | None:
    """The backend's lowering that accepts this node's operand types, or None."""
    rows = node.declaration.lowerings.get(backend, [])
    return next((row for row in rows if row.accepts(node, node.declaration.operands)), None)


def flops(node: Tensor) -> int:
    """Floating-point operations of a node at its planned capacity."""
    return node.declaration.count_flops(*(s.type for s in node.sources), **node.attrs)


def nbytes(node: Tensor) -> int:
    """Bytes a node reads and writes at its planned capacity."""
    if node.declaration.count_bytes:
        return node.declaration.count_bytes(*(s.type for s in node.sources), **node.attrs)
    return node.type.nbytes + sum(s.type.nbytes for s in node.sources)


def require(condition: bool, sentence: str, *values: Any) -> None:
    """Shape inference's assertion: raises ShapeError with the sentence, each {} in it one of the values."""
    if not condition:
        raise ShapeError(sentence.format(*values) if values else sentence)


def as_f32(x: Array) -> NDArray[np.float32]:
    """The array in float32; itself if it is that already."""
    return np.asarray(x, dtype=np.float32)
