"""`-op auto`: a weight is uploaded where that takes less time than to compute with it on the host."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from graphsched.graph.graph import Graph
from graphsched.graph.tensor import Tensor
from graphsched.schedule.costs import Costs, expert_ids, share_of_experts
from graphsched.schedule.policy import MinBatch
from graphsched.types.devices import HOST
from graphsched.types.extents import N_KV, N_OUTPUTS, N_SEQUENCES, N_TOKENS

MOST_ROWS: Final = 1 << 16  # up to which one looks where a decision flips


@dataclass(frozen=True)
class Margin:
    """Seconds of both ways, and of the device's own work behind which a part of the upload runs that is no loss."""

    upload: float
    device: float
    host: float
    behind: float

    @property
    def uploads(self) -> bool:
        """Whether the upload pays."""
        return max(self.upload - self.behind, self.device) < self.host


@dataclass(frozen=True)
class ByCost:
    """A rule by times on a described machine, of its first device.

    beside: seconds of the device's own work for each second of uploads, in a run of so many rows that uploads all it
    can.
    """

    costs: Costs
    device: str
    beside: Callable[[int], float]

    def wants(self, node: Tensor, rows: int) -> bool:
        """Whether it takes less time to upload the node's weights than to compute on the host. Embeddings never pay.

        What multiplies no matrices, as a norm or a bias, goes with the product in front of it: what it costs to be on
        another device than its neighbours is more than what it costs to compute.
        """
        if node.traits.gathers:
            return False
        product = product_before(node)
        return self.margin(product, rows).uploads if product else rows >= MinBatch.min_batch

    def margin(self, node: Tensor, rows: int) -> Margin:
        """Both ways of a node with so many rows."""
        lengths = {N_TOKENS: rows, N_OUTPUTS: rows, N_SEQUENCES: 1}
        upload = self.costs.copy(uploaded_bytes(node, lengths), HOST, self.device)
        device, host = (self.costs.compute(on, node, lengths) for on in (self.device, HOST))
        # What waits for the ids of experts cannot begin earlier, nor can more run behind other work than there is.
        beside = 0.0 if expert_ids(node, lengths) is not None else min(self.beside(rows), 1.0)
        return Margin(upload, device, host, upload * beside)

    def flips_at(self, node: Tensor, rows: int) -> int | None:
        """The fewest rows for which weights are uploaded, if these are not all or none; None otherwise."""
        now = self.wants(node, rows)
        low, high = (0, rows) if now else (rows, MOST_ROWS)
        if self.wants(node, max(low, 1) if now else high) == now:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.wants(node, middle) else (middle, high)
        return high

    def why(self, node: Tensor, rows: int) -> str:
        """The decision with its margin and what would flip it, as a sentence."""
        if (product := product_before(node)) is not node:
            return "auto: as the product in front of it" if product else f"auto: by {rows} rows"
        m, flip = self.margin(node, rows), self.flips_at(node, rows)
        upload = f"upload {_ms(m.upload)}, {_ms(m.behind)} of it behind other work, {_ms(m.device)} there"
        ways = (upload, f"{_ms(m.host)} on the host")
        turn = "never flips" if flip is None else f"flips {'below' if m.uploads else 'from'} {flip} rows"
        return f"auto: {' < '.join(ways) if m.uploads else ' < '.join(ways[::-1])}; {turn}"

    def __str__(self) -> str:
        return "auto"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"


def product_before(node: Tensor) -> Tensor | None:
    """The node itself if it multiplies weights, else the nearest one in front of it that does; None without any."""
    front, seen = [node], {node}
    while front:
        for found in front:
            if found.traits.product and any(s.kind == "weight" for s in found.sources):
                return found
        sources = [s for n in front for s in n.sources if s.opdef is not None and s not in seen]
        front = list(dict.fromkeys(sources))
        seen.update(front)
    return None


def work_beside(
    graph: Graph, costs: Costs, device: str, is_on_host: Callable[[Tensor], bool], rows: int
) -> float:
    """Seconds of a device's own work for each second of uploads, in a run of so many rows that uploads all it can.

    is_on_host: whether a weight lives there.
    """
    lengths = {N_TOKENS: rows, N_OUTPUTS: 1, N_SEQUENCES: 1, N_KV: rows}
    own = uploads = 0.0
    for node in graph.nodes:
        if any(s.kind == "weight" and is_on_host(s) for s in node.sources):
            uploads += 0.0 if node.traits.gathers else costs.copy(uploaded_bytes(node, lengths), HOST, device)
        elif not node.traits.no_work:
            own += costs.compute(device, node, lengths)
    return own / uploads if uploads else 0.0


def uploaded_bytes(node: Tensor, lengths: dict[str, int]) -> float:
    """Bytes of the weights of a node that are uploaded for it: of experts those that are expected to be used."""
    nbytes = sum(s.type.nbytes for s in node.sources if s.kind == "weight")
    return nbytes * share_of_experts(node, lengths)
