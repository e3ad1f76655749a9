"""Tensors of the op graph: immutable nodes with a type, an op and sources.

Shapes are in numpy order, outermost dimension first, everywhere.
"""

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from operator import is_
from typing import TYPE_CHECKING, Any, Literal

from graphsched.graph.numbers import AnyOp, Op
from graphsched.graph.traits import NO_TRAITS, Traits
from graphsched.types.dtypes import DType
from graphsched.types.shapes import Extent as Extent
from graphsched.types.shapes import Pool as Pool
from graphsched.types.shapes import TensorType as TensorType
from graphsched.types.shapes import f32 as f32
from graphsched.types.shapes import i32 as i32
from graphsched.types.shapes import length_word as length_word

if TYPE_CHECKING:
    from graphsched.graph.opdef import OpDef

Kind = Literal["weight", "input", "cache", "copy", "node"]


_serial = itertools.count()


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Tensor:
    """A weight, an input, a cache, or the result of an op.

    `name` is set for leaves; the graph names nodes. `label` is set by rewrites that make a node, and by models; for all
    others the label table decides. `serial` orders nodes as the model wrote them.
    """

    type: TensorType
    kind: Kind = "node"
    name: str = ""
    opdef: "OpDef[Any] | None" = None
    sources: tuple["Tensor", ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    serial: int = field(default_factory=lambda: next(_serial))

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions, slowest first; numpy's order, not ggml's."""
        return self.type.shape

    @property
    def dtype(self) -> DType:
        """The type of the elements."""
        return self.type.dtype

    @property
    def op(self) -> AnyOp:
        """The number of a node's op; NONE of a leaf."""
        return self.opdef.op if self.opdef else Op.NONE

    @property
    def traits(self) -> Traits:
        """The properties of a node's op; a leaf has none."""
        return self.opdef.traits if self.opdef else NO_TRAITS

    @property
    def declaration(self) -> "OpDef[Any]":
        """The op of a node."""
        assert self.opdef is not None, f"{self} is a leaf"
        return self.opdef

    def operand(self, name: str) -> "Tensor":
        """The source that a node reads as the operand of this name."""
        return self.sources[self.declaration.operands.index(name)]

    def operands(self, names: Iterable[str]) -> tuple["Tensor", ...]:
        """The sources that are these operands; optional ones that the node lacks are left out."""
        there = dict(zip(self.declaration.operands, self.sources, strict=False))
        return tuple(there[name] for name in names if name in there)

    def over(self, sources: Iterable["Tensor"]) -> "Tensor":
        """The same node over other sources; itself if they are its own."""
        new = tuple(sources)
        assert len(new) == len(self.sources)
        if all(map(is_, new, self.sources)):
            return self
        return Tensor(self.type, self.kind, self.name, self.opdef, new, self.attrs, self.label, self.serial)

    def __add__(self, other: "Tensor") -> "Tensor":
        from graphsched.graph.ops.elementwise import add

        return add(self, other)

    def __mul__(self, other: "Tensor") -> "Tensor":
        from graphsched.graph.ops.elementwise import mul

        return mul(self, other)

    def __str__(self) -> str:
        return f"{self.name or self.label or (self.opdef.name if self.opdef else '?')} {self.type}"

    __repr__ = __str__


def weight(name: str, type: TensorType) -> Tensor:
    """The leaf for a weight of the model file."""
    return Tensor(type, kind="weight", name=name)


def input_tensor(name: str, type: TensorType, **attrs: int) -> Tensor:
    """An input; `attrs` tell the session what to feed."""
    return Tensor(type, kind="input", name=name, attrs=attrs)


def labelled(tensor: Tensor, label: str) -> Tensor:
    """The same node under the field's name for it, where the label table would give another."""
    return replace(tensor, label=label)


def is_state(leaf: Tensor) -> bool:
    """Whether a cache is recurrent state: a row per slot, where caches of keys and values have rows of an extent."""
    return leaf.kind == "cache" and not isinstance(leaf.shape[0], Extent)


def layer_of(name: str) -> int:
    """Layer number in a name such as blk.3.attn_q.weight, or -1."""
    match = re.match(r"blk\.(\d+)\.", name)
    return int(match.group(1)) if match else -1
