"""Where a model's weights and caches live; a tied matrix has two homes."""

from dataclasses import dataclass, replace

from graphsched.arch.stored import EMBEDDING, OUTPUT
from graphsched.graph.graph import Graph, replace_operands
from graphsched.graph.tensor import Tensor, layer_of
from graphsched.schedule.placement import Home, Placement, place
from graphsched.session.model import Model
from graphsched.session.options import SessionOptions
from graphsched.types.shapes import TensorType


@dataclass(frozen=True)
class Homes:
    """The device in whose memory each weight and cache of a model is."""

    placement: Placement
    is_tied: bool  # the output matrix is the embedding, stored once

    def of(self, leaf: Tensor) -> Home:
        """The device that holds a weight or cache, and why."""
        if leaf.kind == "cache":
            return self.placement.kv[layer_of(leaf.name)]
        return self.placement.homes[leaf.name]

    def device(self, leaf: Tensor) -> str:
        """The device that holds a weight or cache."""
        return self.of(leaf).device

    def untied(self, graph: Graph) -> Graph:
        """The graph in which a tied output matrix is a tensor of its own, if it lives elsewhere than the embedding."""
        homes = self.placement.homes
        if not self.is_tied or homes[OUTPUT].device == homes[EMBEDDING].device:
            return graph
        return replace_operands(graph, _as_output)


def homes_of(
    model: Model, options: SessionOptions, devices: tuple[str, ...], default_shares: tuple[float, ...] = ()
) -> Homes:
    """The homes that options ask for; devices in order of priority, with the shares of layers that they get if not."""
    types: dict[str, TensorType] = {name: model.types[name] for name in model.file.tensors}
    if OUTPUT not in types and EMBEDDING in types:
        types[OUTPUT] = types[EMBEDDING]  # a tied matrix is two tensors to placement
    placement = place(types, model.config.n_layer, devices, options.placement, default_shares)
    # Patterns are about names of the file: what is derived from its tensors lives beside them.
    homes = dict(placement.homes)
    homes |= {name: homes[weight.sources[0].name] for name, weight in model.derived.items()}
    placement = replace(placement, homes=homes)
    return Homes(placement, model.weights.stored_as(OUTPUT) == EMBEDDING)


def _as_output(node: Tensor, source: Tensor) -> Tensor:
    tied = source.name == EMBEDDING and node.traits.product
    return replace(source, name=OUTPUT) if tied else source
