"""Plans arenas: lifetimes of buffers, over items in running order, become offsets in one arena per device."""

from collections.abc import Iterable, Sequence

from graphsched.run import memory
from graphsched.run.memory import Arena, Lifetime
from graphsched.run.operand import Buffer, Item
from graphsched.types.devices import HOST


def plan_arenas(items: Sequence[Item], keep: Iterable[Buffer]) -> dict[str, Arena]:
    """Arena offsets of all planned buffers, per device and its staging ring; those in `keep` live to the end."""
    first: dict[Buffer, int] = {}
    last: dict[Buffer, int] = {}
    for i, item in enumerate(items):
        for operand in (*item.reads(), *item.writes()):
            if operand.buffer.is_planned:
                first.setdefault(operand.buffer, i)
                last[operand.buffer] = i
    for buffer in keep:
        if buffer in first:
            last[buffer] = len(items)
    lives: dict[str, list[Lifetime]] = {HOST: []}
    for b in first:
        lives.setdefault(b.arena, []).append(Lifetime(b, b.nbytes, first[b], last[b], b.reuse))
    return {name: memory.plan(own) for name, own in lives.items()}
