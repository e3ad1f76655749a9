"""Programmatic dependent launch: a kernel begins while the one before it in its stream still runs.

What makes it safe (docs/launches.md): every kernel calls gs_pdl_wait() in every thread before it touches what kernels
write, and that returns when the kernel before is done, whose own wait has made all those before it done. Until then
kernels fetch weights only. So only a kernel right behind a kernel overlaps: behind a copy, or a wait for another stream
that may have brought the weights, it does not.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from graphsched.backends.cuda.launch.call import Launched, Product
from graphsched.backends.cuda.launch.lowering import At, Launch, Make
from graphsched.run.operand import Item

OLDEST = 90  # sm_90 and newer can


def can_overlap(arch: str) -> bool:
    """Whether the kernels of an architecture, "sm_90", wait for what they depend on by themselves."""
    return int(arch.removeprefix("sm_").rstrip("af")) >= OLDEST


def chained(items: Sequence[Item]) -> list[Item]:
    """Items of one stream in order, in which launches right behind launches overlap, and empty ones are left out."""
    out: list[Item] = []
    for before, item in zip((None, *items), items, strict=False):
        if isinstance(item, Launch):
            item = replace(item, make=_overlapping(item.make, isinstance(before, Launch)))
        out.append(item)
    return out


def _overlapping(make: Make, behind: bool) -> Make:
    """`behind`: the item before is a launch, too, though it may come to nothing."""

    def made(at: At) -> Iterable[Launched]:
        at.behind_kernel &= behind
        for call in make(at):
            if call.is_empty:  # where no logits are wanted
                continue
            if isinstance(call, Product):  # whose kernels do not say when others may begin
                yield call
            else:
                yield replace(call, overlaps=at.behind_kernel and not at.apart)
            at.behind_kernel = not isinstance(call, Product)

    return made
