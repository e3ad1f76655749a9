"""Costs that decisions compare: seconds on a described machine, else bytes that cross a link."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from graphsched.graph.cost import used_share
from graphsched.graph.tensor import Tensor, TensorType
from graphsched.types.devices import HOST
from graphsched.types.shapes import Lengths

if TYPE_CHECKING:
    from graphsched.schedule.assign import Target
    from graphsched.schedule.scheduler import Schedule

WORTH_WAITING = 0.9  # share of experts used up to which an upload waits for the ids


class Costs(Protocol):
    """Costs of work, all in one unit."""

    def compute(self, device: str, node: Tensor, lengths: Mapping[str, int]) -> float:
        """A node on a device at actual lengths, its launch included."""

    def copy(self, nbytes: float, source: str, device: str) -> float:
        """Bytes brought from one device to another."""

    def total(self, schedule: "Schedule", lengths: Mapping[str, int]) -> float:
        """A whole schedule at actual lengths."""


class CrossingBytes:
    """Bytes that cross a link."""

    def compute(self, device: str, node: Tensor, lengths: Mapping[str, int]) -> float:
        """Zero: only copies count."""
        return 0.0

    def copy(self, nbytes: float, source: str, device: str) -> float:
        """Bytes over links; twice where both ends are devices."""
        return nbytes * ((source != HOST) + (device != HOST)) if source != device else 0.0

    def total(self, schedule: "Schedule", lengths: Mapping[str, int]) -> float:
        """Bytes that a schedule copies over links."""
        crossing = ((c, _actual(c.source, lengths).nbytes) for c in schedule.copies)
        return sum(self.copy(nbytes, c.from_device, c.to_device) for c, nbytes in crossing)


CROSSING_BYTES = CrossingBytes()


def expert_ids(node: Tensor, lengths: Mapping[str, int]) -> Tensor | None:
    """The ids operand of an op by expert, if it is expected to leave experts unused: only those it names are sent.

    Where nearly all are used, waiting for the ids costs more than it saves: the upload may start layers ahead.
    """
    if not node.traits.chosen_by:
        return None
    ids = node.operand(node.traits.chosen_by)
    return ids if share_of_experts(node, lengths) < WORTH_WAITING else None


def share_of_experts(node: Tensor, lengths: Mapping[str, int]) -> float:
    """Expected share of its experts that a node uses; 1 without any."""
    if not node.traits.chosen_by:
        return 1.0
    matrix, ids = node.operand(node.traits.product[0]), node.operand(node.traits.chosen_by)
    return used_share(matrix.shape[0], _actual(ids, lengths).shape)


def _actual(tensor: Tensor, lengths: Mapping[str, int]) -> TensorType:
    return TensorType(tensor.dtype, Lengths(lengths).shape(tensor.shape))


def finished(nodes: Iterable[Tensor], place: Mapping[Tensor, str], reader: str, target: "Target") -> float:
    """When the last of some nodes is done and its result is where its reader is, in the unit of `target.costs`.

    nodes: in running order, each in its `place`; all else that they read is there when they begin. Devices compute
    at the same time, one node after the other; the weights of a device arrive one after the other.
    """
    costs, lengths = target.costs, target.lengths
    # Simulates the nodes on a clock: when each device, its link and each result is free or ready.
    link: dict[str, float] = {}
    free: dict[str, float] = {}
    ready: dict[Tensor, float] = {}
    end, last = 0.0, reader
    for node in nodes:
        last, needs = place[node], [free.get(place[node], 0.0)]
        for s in node.sources:
            if s in ready:
                crossing = costs.copy(_actual(s, lengths).nbytes, place[s], last)
                needs.append(ready[s] + crossing)
            elif s.kind == "weight" and not target.shared(s) and target.home(s) != last:
                link[last] = link.get(last, 0.0) + _upload(node, s, last, target)
                needs.append(link[last])
        end = max(needs) + costs.compute(last, node, lengths)
        free[last] = ready[node] = end
    return end + costs.copy(_actual(node, lengths).nbytes, last, reader)


def _upload(node: Tensor, weight: Tensor, device: str, target: "Target") -> float:
    """Cost of an upload; ids that choose experts are first copied to the host."""
    ids = expert_ids(node, target.lengths)
    if ids is None:
        return target.costs.copy(weight.type.nbytes, target.home(weight), device)
    waiting = target.costs.copy(_actual(ids, target.lengths).nbytes, device, HOST)
    nbytes = weight.type.nbytes * share_of_experts(node, target.lengths)
    return waiting + target.costs.copy(nbytes, target.home(weight), device)
