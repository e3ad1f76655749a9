"""The op table: one declaration per op, and everything else hangs off it.

An op is one function. Its signature is what models call, its body infers shape and dtype, its docstring is the
formula. Attached to it: the numpy reference (the oracle), flops, bytes, test cases, and per backend a lowering.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Generic, ParamSpec

import numpy as np
from numpy.typing import NDArray

from graphsched.errors import OptionError, ShapeError
from graphsched.graph.tensor import Tensor, TensorType
from graphsched.types.dtypes import DType

P = ParamSpec("P")
Array = NDArray[Any]


class Op(IntEnum):
    """Numbers that `-op` takes: the list of ik_llama.cpp's PR 405 below 81, our own from 128 up. They never move."""

    NONE = 0
    DUP = 1
    ADD = 2
    ADD1 = 3
    ACC = 4
    SUB = 5
    MUL = 6
    DIV = 7
    SQR = 8
    SQRT = 9
    LOG = 10
    SUM = 11
    SUM_ROWS = 12
    MEAN = 13
    ARGMAX = 14
    REPEAT = 15
    REPEAT_BACK = 16
    CONCAT = 17
    SILU_BACK = 18
    NORM = 19
    RMS_NORM = 20
    RMS_NORM_BACK = 21
    GROUP_NORM = 22
    FUSED_RMS_NORM = 23
    FUSED_MUL_UNARY = 24
    MULTI_ADD = 25
    MUL_MAT = 26
    MUL_MAT_ID = 27
    OUT_PROD = 28
    MOE_FUSED_UP_GATE = 29
    SCALE = 30
    SET = 31
    CPY = 32
    CONT = 33
    RESHAPE = 34
    VIEW = 35
    PERMUTE = 36
    TRANSPOSE = 37
    GET_ROWS = 38
    GET_ROWS_BACK = 39
    DIAG = 40
    DIAG_MASK_INF = 41
    DIAG_MASK_ZERO = 42
    SOFT_MAX = 43
    SOFT_MAX_BACK = 44
    ROPE = 45
    ROPE_BACK = 46
    CLAMP = 47
    CONV_TRANSPOSE_1D = 48
    IM2COL = 49
    CONV_TRANSPOSE_2D = 50
    POOL_1D = 51
    POOL_2D = 52
    UPSCALE = 53
    PAD = 54
    ARANGE = 55
    TIMESTEP_EMBEDDING = 56
    ARGSORT = 57
    ARGSORT_THRESH = 58
    LEAKY_RELU = 59
    SOFTCAP = 60
    SOFT_CAP_MAX = 61
    FLASH_ATTN_EXT = 62
    FLASH_ATTN_BACK = 63
    SSM_CONV = 64
    SSM_SCAN = 65
    WIN_PART = 66
    WIN_UNPART = 67
    GET_REL_POS = 68
    ADD_REL_POS = 69
    UNARY = 70
    MAP_UNARY = 71
    MAP_BINARY = 72
    MAP_CUSTOM1_F32 = 73
    MAP_CUSTOM2_F32 = 74
    MAP_CUSTOM3_F32 = 75
    MAP_CUSTOM1 = 76
    MAP_CUSTOM2 = 77
    MAP_CUSTOM3 = 78
    CROSS_ENTROPY_LOSS = 79
    CROSS_ENTROPY_LOSS_BACK = 80
    # Ops the list lacks.
    SET_ROWS = 128
    ADD_ID = 129
    GROUPED_TOPK = 130
    TEMPERATURE_SCALE = 131
    SWIGLU_OAI = 132
    PART = 133
    FUSED_ADD_RMS_NORM = 134
    FUSED_ROPE = 135
    MUL_MAT_QKV = 136
    TOPK_MOE = 137


FIRST_USER_OP = 1000  # numbers from here up belong to other packages


class UserOp(int):
    """The number of an op that another package declares; `name` is the function's in capitals, as `Op` has it."""

    name: str

    def __new__(cls, number: int, name: str) -> "UserOp":
        self = super().__new__(cls, number)
        self.name = name
        return self

    def __getnewargs__(self) -> tuple[int, str]:  # type: ignore[override]  # int's own takes the value only
        return int(self), self.name


AnyOp = Op | UserOp


@dataclass(frozen=True)
class Case:
    """One test case: operand types (weights may be quantised), attributes, and ranges of integer operands."""

    types: tuple[TensorType, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    ints: Mapping[int, tuple[int, int]] = field(default_factory=dict)  # operand index -> [low, high)
    tolerance: float = 1e-9  # NMSE against the reference


def case(
    *types: TensorType,
    ints: Mapping[int, tuple[int, int]] | None = None,
    tolerance: float = 1e-9,
    **attrs: Any,
) -> Case:
    return Case(types, attrs, ints or {}, tolerance)


@dataclass(frozen=True)
class Lowering:
    """How a backend runs an op: valid if each operand named in `types` has one of the dtypes given."""

    types: Mapping[str, tuple[DType, ...]]
    emit: Callable[..., None]
    when: Callable[[Tensor], bool] | None = None

    def accepts(self, node: Tensor, names: Iterable[str]) -> bool:
        operands = dict(zip(names, node.sources, strict=False))
        fits = all(operands[n].dtype in kinds for n, kinds in self.types.items() if n in operands)
        return fits and (self.when is None or self.when(node))


class OpDef(Generic[P]):
    """One op: call it to build a node."""

    def __init__(
        self, number: AnyOp, infer: Callable[P, TensorType], rowwise: Callable[[Tensor], bool]
    ) -> None:
        self.op, self.infer, self.rowwise = number, infer, rowwise
        self.name = infer.__name__
        self.doc = (infer.__doc__ or "").strip()
        parameters = inspect.signature(infer).parameters.values()
        self.operands = tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
        self.defaults = {
            p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty
        }
        self.lowerings: dict[str, list[Lowering]] = {}
        self.run_reference: Callable[..., Array] | None = None
        self.count_flops: Callable[..., int] = lambda *_, **__: 0
        self.count_bytes: Callable[..., int] | None = None
        self.list_cases: Callable[[], Iterator[Case]] | None = None
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

    def flops(self, fn: Callable[..., int]) -> Callable[..., int]:
        """Attaches the count of floating-point operations, from operand types and attributes."""
        self.count_flops = fn
        return fn

    def nbytes(self, fn: Callable[..., int]) -> Callable[..., int]:
        """Attaches the bytes touched, for ops that do not read every operand once."""
        self.count_bytes = fn
        return fn

    def cases(self, fn: Callable[[], Iterator[Case]]) -> Callable[[], Iterator[Case]]:
        self.list_cases = fn
        return fn

    def lowering(
        self, backend: str, when: Callable[[Tensor], bool] | None = None, **types: Iterable[DType]
    ) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Attaches a backend's lowering for operands of the given dtypes."""

        def attach(emit: Callable[..., None]) -> Callable[..., None]:
            emit.__qualname__ = f"{self.name}.lowering[{backend}]"
            row = Lowering({k: tuple(v) for k, v in types.items()}, emit, when)
            self.lowerings.setdefault(backend, []).append(row)
            return emit

        return attach


OPS: dict[AnyOp, OpDef[Any]] = {}


def op(
    number: int, *, rowwise: bool | Callable[[Tensor], bool] = False
) -> Callable[[Callable[P, TensorType]], OpDef[P]]:
    """Declares an op: a member of `Op`, or in another package a number from 1000 up.

    `rowwise`: row i of the result depends on row i of the operands with as many rows.
    """

    def declare(infer: Callable[P, TensorType]) -> OpDef[P]:
        known = number if isinstance(number, Op) else _user_op(number, infer)
        made = OpDef(known, infer, rowwise if callable(rowwise) else lambda _: rowwise)
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
    assert node.opdef is not None
    rows = node.opdef.lowerings.get(backend, [])
    return next((row for row in rows if row.accepts(node, node.opdef.operands)), None)


def flops(node: Tensor) -> int:
    """Floating-point operations of a node at its planned capacity."""
    assert node.opdef is not None
    return node.opdef.count_flops(*(s.type for s in node.sources), **node.attrs)


def nbytes(node: Tensor) -> int:
    """Bytes a node reads and writes at its planned capacity."""
    assert node.opdef is not None
    if node.opdef.count_bytes:
        return node.opdef.count_bytes(*(s.type for s in node.sources), **node.attrs)
    return node.type.nbytes + sum(s.type.nbytes for s in node.sources)


def require(condition: bool, sentence: str) -> None:
    """Shape inference's assertion: raises ShapeError with the sentence."""
    if not condition:
        raise ShapeError(sentence)


def as_f32(x: Array) -> NDArray[np.float32]:
    return np.asarray(x, dtype=np.float32)
