"""Lowering: each node becomes items over symbolic operands.

A lowering is a function `(low, node) -> None` attached to its op: it takes operands from `low`, and adds items. Views
are operands with strides. A lowering says which operands it reads so; it gets the others dense, as copies where they
are not: what a lowering forgets costs time, and never changes a number.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsched.graph.opdef import Lowering, lowering_for
from graphsched.graph.ops.several import between, made_of, starts
from graphsched.graph.tensor import Tensor, TensorType
from graphsched.run.operand import Buffer, Item, Memory, Operand, PythonStep, dense
from graphsched.types import dtypes
from graphsched.types.devices import HOST


@dataclass
class _Lowered:
    """The node that is being lowered, by which lowering, and the dense copies that were made for it."""

    node: Tensor
    row: Lowering
    copies: dict[Tensor, Operand] = field(default_factory=dict)

    def takes(self, tensor: Tensor, operand: Operand) -> bool:
        """Whether the lowering reads the operand with its strides, so that it needs no dense copy.

        A tensor that is no operand of the node (an inner node of a fused op) is left as it is.
        """
        pairs = zip(self.node.declaration.operands, self.node.sources, strict=False)
        names = {name for name, source in pairs if source is tensor}
        if not names or operand.is_contiguous or names <= set(self.row.permuted):
            return True
        return operand.has_whole_rows and names <= {*self.row.strided, *self.row.permuted}


@dataclass
class Low:
    """The lowerer: turns nodes into items of one device. Lowerings take it as `low`.

    leaf: returns the operand of a weight, input or cache. adopt: keeps a constant in the device's memory. readers: the
    nodes and copies that read each tensor of the schedule.
    """

    backend: str  # whose lowerings apply
    leaf: Callable[[Tensor], Operand]
    items: list[Item]  # in running order, those of all devices
    adopt: Callable[[NDArray[np.uint8]], Memory]
    n_threads: int = 1
    device: str = HOST
    readers: Mapping[Tensor, Sequence[Tensor]] = field(default_factory=dict)
    _operands: dict[Tensor, Operand] = field(default_factory=dict)
    _shared: dict[Hashable, tuple[Operand, ...]] = field(default_factory=dict)
    _parts: dict[tuple[Tensor, int], Operand] = field(default_factory=dict)
    _node: int = -1
    _at: "_Lowered | None" = None

    def lower(self, node: Tensor, index: int) -> None:
        """Adds the items of a node, the `index`-th of its schedule.

        A node without a lowering for its types becomes the nodes that it fuses or, if it fuses none, a Python step."""
        self._node = index
        row = lowering_for(self.backend, node)
        if row is not None:
            # Lowerings nest: one of a fused op may lower inner nodes, which declare their own operands.
            around, self._at = self._at, _Lowered(node, row)
            row.emit(self, node)
            self._at = around
        elif node.sources[:1] and (node.sources[0], node.attrs.get("start")) in self._parts:
            self.part(node)
        elif made_of(node) != (node,):
            self.lower_unfused(node)
        else:
            sources = tuple(map(self.operand, node.sources))
            self.items.append(PythonStep(node, sources, self.result(node), index))

    def operand(self, tensor: Tensor) -> Operand:
        """The operand of a tensor for the lowering at work: with strides if that declares to take them, else dense."""
        if tensor not in self._operands:
            assert tensor.kind != "node", f"{tensor} is used before it is computed"
            self._operands[tensor] = self.leaf(tensor)
        found = self._operands[tensor]
        if self._at is None or self._at.takes(tensor, found):
            return found
        if tensor not in self._at.copies:  # of one node only: caches change between nodes
            self._at.copies[tensor] = self.dense(found)
        return self._at.copies[tensor]

    def dense(self, operand: Operand) -> Operand:
        """The operand if it is dense, else a dense copy, for which an item is added."""
        if operand.is_contiguous:
            return operand
        raise NotImplementedError(f"backend {self.backend} cannot copy {operand.buffer.name}")

    def result(self, node: Tensor, in_place_of: tuple[Tensor, ...] = ()) -> Operand:
        """A new dense buffer for a node. in_place_of: sources whose memory it may take over if they die here."""
        self._operands[node] = self._made(str(node), node.type, in_place_of)
        return self._operands[node]

    def results(
        self, node: Tensor, in_place_of: tuple[Tensor, ...] = (), pairwise: bool = False
    ) -> tuple[Operand, ...]:
        """One dense buffer per result of a multi-result op, as `result` makes it; its PART nodes alias them.

        `pairwise`: the first result may take over the memory of the first source of `in_place_of` only, and so on.
        """
        types = [n.type for n in made_of(node)]
        reused = [in_place_of[i : i + 1] if pairwise else in_place_of for i in range(len(types))]
        made = [self._made(f"{node} {i}", t, r) for i, (t, r) in enumerate(zip(types, reused, strict=True))]
        self.alias_results(node, *made)
        return tuple(made)

    def alias_results(self, node: Tensor, *made: Operand) -> None:
        """Makes the results of a fused op views of existing memory."""
        types = [n.type for n in made_of(node)]
        if len(types) == 1:
            self.alias(node, made[0])
        else:
            self._parts |= {(node, start): o for start, o in zip(starts(types), made, strict=True)}

    def lower_unfused(self, node: Tensor) -> None:
        """Lowers a fused op as the nodes that it stands for, one by one."""
        made = made_of(node)
        for inner in between(node.sources, made):
            self.lower(inner, self._node)
        self.alias_results(node, *map(self.operand, made))

    def part(self, node: Tensor) -> None:
        """Aliases a PART node to the buffer of its result."""
        self.alias(node, self._parts[node.sources[0], node.attrs["start"]])

    def part_node(self, node: Tensor, number: int) -> Tensor | None:
        """The PART that is a result of a multi-result op, the first one's number 0; None if nothing reads it."""
        start = starts([n.type for n in made_of(node)])[number]
        return next((n for n in self.readers.get(node, ()) if n.attrs["start"] == start), None)

    def _made(self, name: str, type: TensorType, in_place_of: tuple[Tensor, ...]) -> Operand:
        # Rows of a source that is a part of wider rows are not where the result's rows are.
        sources = [self.operand(s) for s in in_place_of if s.kind == "node"]
        reuse = tuple(s.buffer for s in sources if s.is_contiguous and s.buffer.nbytes == type.nbytes)
        return dense(Buffer(name, type.nbytes, reuse=reuse, device=self.device), type)

    def alias(self, node: Tensor, operand: Operand) -> None:
        """Makes a node a view of existing memory."""
        self._operands[node] = operand

    def scratch(self, name: str, type: TensorType) -> Operand:
        """Memory that a kernel uses while it runs, planned in an arena."""
        return dense(Buffer(name, type.nbytes, device=self.device), type)

    def constant(self, array: NDArray[Any]) -> Operand:
        """Read-only data of the program."""
        memory = self.adopt(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        size = array.nbytes
        return dense(Buffer("constant", size, memory, device=self.device), TensorType(dtypes.I8, (size,)))

    def shared(self, key: Hashable, make: Callable[[], tuple[Operand, ...]]) -> tuple[Operand, ...]:
        """Operands that several nodes share (quantised activations, rotation tables): `make` is called once per key."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]


def has_kernel(node: Tensor) -> bool:
    """Whether the host, and devices that compute as it does, have a kernel for a node."""
    return lowering_for("cpu", node) is not None


def is_python_step(node: Tensor) -> bool:
    """Whether the program is cut at a node, as it, or a node that it fuses, has a numpy reference and no kernel."""
    return not (has_kernel(node) or all(map(has_kernel, between(node.sources, made_of(node)))))
