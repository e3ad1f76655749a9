"""The order in which work is issued: weight uploads go ahead of the ops that read them, as far as the ring allows.

Uploaded weights pass through a ring of RING staging buffers: an upload may start once the op that read the upload RING
places before it has been issued. Copies of activations stay where their split needs them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from graphsched.graph.tensor import Tensor
from graphsched.schedule.assign import root
from graphsched.schedule.scheduler import Copy, Schedule

RING = 3  # staging buffers: one in use, one arriving, one whose op has just been queued


@dataclass(frozen=True)
class Issue:
    """A copy or a node, and the number of its split."""

    split: int
    work: Copy | Tensor


def issue_order(schedule: Schedule) -> list[Issue]:
    """All copies and nodes of a schedule in the order in which they are issued; each after what it reads."""
    order = list(_by_split(schedule))
    ahead = _places_of_uploads(schedule, order)
    if not ahead:
        return order
    out: list[Issue] = []
    for i, issue in enumerate(order):
        out += ahead.get(i, [])
        if not _is_upload(issue):
            out.append(issue)
    return out


def _by_split(schedule: Schedule) -> Iterator[Issue]:
    for number, split in enumerate(schedule.splits):
        yield from (Issue(number, copy) for copy in split.inputs)
        yield from (Issue(number, node) for node in split.nodes)
    yield from (Issue(len(schedule.splits), copy) for copy in schedule.results)


def _is_upload(issue: Issue) -> bool:
    return isinstance(issue.work, Copy) and issue.work.is_weight


def _places_of_uploads(schedule: Schedule, order: list[Issue]) -> dict[int, list[Issue]]:
    """Position in `order` -> uploads that are issued right before it."""
    produced: dict[Tensor, int] = {}  # position of the issue that computes or copies a tensor
    last_reader: dict[Tensor, int] = {}
    for i, issue in enumerate(order):
        produced[issue.work.tensor if isinstance(issue.work, Copy) else issue.work] = i
        if not isinstance(issue.work, Copy):
            last_reader |= dict.fromkeys(map(root, issue.work.sources), i)
    uploads: dict[int, list[Issue]] = {}
    rings: dict[str, list[Copy]] = {}
    for issue in order:
        copy = issue.work
        if not isinstance(copy, Copy) or not copy.is_weight:
            continue
        ring = rings.setdefault(copy.to_device, [])
        first = 0
        # Which experts are sent is known once the ids are; which buffer is free, once its last reader is issued.
        if copy.ids is not None:
            ids = root(copy.ids)
            first = produced.get(schedule.placed.get(ids, ids), -1) + 1
        if len(ring) >= RING:
            first = max(first, last_reader[ring[-RING].tensor] + 1)
        ring.append(copy)
        uploads.setdefault(first, []).append(issue)
    return uploads
