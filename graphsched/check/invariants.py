"""Invariants of every plan: the order and devices of its nodes, and its memory."""

from collections.abc import Mapping
from typing import Any

from graphsched.errors import Error
from graphsched.graph.tensor import Tensor
from graphsched.run.executable import Executable
from graphsched.schedule.scheduler import Schedule


class ValidationError(Error):
    """A plan or a kernel that is wrong; the sentence names the node."""


def check_schedule(schedule: Schedule) -> None:
    """ValidationError unless every node runs once, after all its sources, each on its device or copied to it."""
    runs: dict[Tensor, str] = {}
    for split in schedule.splits:
        here = {c.tensor for c in split.inputs}
        for copy in split.inputs:
            source = schedule.placed.get(copy.source, copy.source)
            if source.kind == "node" and source not in runs:
                raise ValidationError(f"{_named(schedule, source)} is copied before it is computed")
        for node in split.nodes:
            if node in runs:
                raise ValidationError(f"node {_named(schedule, node)} runs twice")
            for source in node.sources:
                _check_source(schedule, node, source, split.device, runs, here)
            runs[node] = split.device
    for node in schedule.graph.nodes:
        if node in schedule.placed and schedule.placed[node] not in runs:
            raise ValidationError(f"node {_named(schedule, schedule.placed[node])} never runs")


def _check_source(
    schedule: Schedule,
    node: Tensor,
    source: Tensor,
    device: str,
    runs: Mapping[Tensor, str],
    here: set[Tensor],
) -> None:
    what = f"node {_named(schedule, node)} reads {_named(schedule, source)}"
    if source.kind == "node" and source not in runs:
        raise ValidationError(f"{what} before it is computed")
    if source.kind == "node" and runs[source] != device:
        raise ValidationError(f"{what} on {device}, it is on {runs[source]}")
    if source.kind == "copy" and source not in here and not _copied_before(schedule, source, device):
        raise ValidationError(f"{what}, which is not copied to {device}")


def _copied_before(schedule: Schedule, copy: Tensor, device: str) -> bool:
    return any(c.tensor is copy and c.to_device == device for s in schedule.splits for c in s.inputs)


def _named(schedule: Schedule, tensor: Tensor) -> str:
    origin = schedule.origin.get(tensor, tensor)
    return schedule.graph.names.get(origin, tensor.name or str(tensor))


def check_memory(executable: Executable) -> None:
    """ValidationError unless operands lie in their buffers, buffers in their arena, and live buffers do not overlap."""
    for items in executable.streams.values():
        uses: dict[Any, tuple[int, int]] = {}
        for i, item in enumerate(items):
            for operand in (*item.reads(), *item.writes()):
                _check_operand(operand)
                if operand.buffer.is_planned:
                    uses[operand.buffer] = (uses.get(operand.buffer, (i, i))[0], i)
        if len(executable.streams) == 1:  # else the order of items is not that of time
            _check_arenas(uses, executable.addresses.plans)


def _check_operand(operand: Any) -> None:
    *outer, last = (int(d) for d in operand.type.shape)
    strides = operand.strides
    item = strides[-1] * (last - 1) + operand.type.dtype.nbytes if strides[-1] else 0
    row = item or operand.type.dtype.row_bytes(last)
    end = operand.offset + sum((d - 1) * s for d, s in zip(outer, strides, strict=False)) + row
    if operand.offset < 0 or end > operand.buffer.nbytes:
        raise ValidationError(
            f"{operand.type} ends at byte {end} of the {operand.buffer.nbytes} of {operand.buffer.name}"
        )


def _check_arenas(uses: Mapping[Any, tuple[int, int]], plans: Mapping[str, Any]) -> None:
    alive: list[Any] = []
    for buffer in sorted(uses, key=lambda b: uses[b]):
        first, plan = uses[buffer][0], plans[buffer.arena]
        start = plan.offsets[buffer]
        if start + buffer.nbytes > plan.nbytes:
            raise ValidationError(f"buffer {buffer.name} ends behind its arena of {plan.nbytes} bytes")
        alive = [b for b in alive if uses[b][1] >= first]
        for other in alive:
            at = plan.offsets.get(other)
            # In place: the donor dies in the step that writes this buffer.
            is_taken_over = other in buffer.reuse and uses[other][1] == first
            if (
                at is not None
                and not is_taken_over
                and at < start + buffer.nbytes
                and start < at + other.nbytes
            ):
                raise ValidationError(f"buffers {other.name} and {buffer.name} overlap while both are in use")
        alive.append(buffer)
