"""What models with recurrent layers share: which layers recur, and the convolution over the last few tokens."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from graphsched.arch.blocks.attention import Pattern, PerLayerHeadsConfig
from graphsched.arch.config import Config, key
from graphsched.arch.inputs import Inputs
from graphsched.arch.weights import Weights
from graphsched.graph.ops import ssm_conv
from graphsched.graph.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class RecurrentConfig(Config):
    """Keys of recurrent layers: how many tokens a convolution sees."""

    kernel: int = key("ssm.conv_kernel", low=2)


@dataclass(frozen=True, kw_only=True)
class IntervalConfig(Config):
    """Recurrent layers, but for each n-th with `recurrent` n, or one bool each."""

    recurrent: Pattern = key("attention.recurrent_layers", 4, low=1, or_key="full_attention_interval")

    def wrong(self) -> Iterator[tuple[str, str]]:
        """As `Config.wrong`: a list has a value for each layer."""
        yield from super().wrong()
        if isinstance(self.recurrent, np.ndarray) and len(self.recurrent) < self.n_layer:
            yield "recurrent", f"a number or one value for each of {self.n_layer} layers"

    def recurs(self, blk: Weights) -> bool:
        """Whether this layer is recurrent."""
        if isinstance(self.recurrent, np.ndarray):
            return bool(self.recurrent[blk.layer])
        return (blk.layer + 1) % self.recurrent != 0


@dataclass(frozen=True, kw_only=True)
class HybridHeadsConfig(PerLayerHeadsConfig):
    """Attention in the layers that have key and value heads; a layer's own config is `c.at(layer)`."""

    n_head: int = key("attention.head_count", per_layer=True)
    n_head_kv: int = key("attention.head_count_kv", lambda c: c.n_head, per_layer=True)
    head_dim: int = key("attention.key_length", lambda c: c.n_embd // int(np.max(c.n_head)), low=1)
    v_dim: int = key("attention.value_length", lambda c: c.n_embd // int(np.max(c.n_head)), low=1)


def convolved(
    blk: Weights, x: Tensor, inp: Inputs, kernel: int, weight: str = "ssm_conv1d", state: str = "cache_r"
) -> Tensor:
    """Σ over each token and the kernel - 1 before it, channel by channel [+ bias]. [T, C] -> [T, C]

    The tokens in front of this run are the layer's state of the name `state`.
    """
    n = int(x.shape[1])
    y = ssm_conv(inp.state(blk, state, kernel - 1, n), x, blk.shaped(weight, n, kernel), inp.where)
    return y + blk.sized(f"{weight}.bias", n) if f"{weight}.bias" in blk else y
