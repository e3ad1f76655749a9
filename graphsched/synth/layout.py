"""What a synthetic model is made of: its keys, and the names and shapes of its tensors."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graphsched.errors import OptionError
from graphsched.synth.blocks import Keys, Shapes


@dataclass(frozen=True)
class Layout:
    """An architecture, a title, the keys without the architecture's prefix, and the tensors of one block."""

    arch: str
    title: str
    keys: Keys
    block: Callable[[Keys, int], Shapes]
    is_tied: bool = False
    has_rope_freqs: bool = False
    type: str = "Q4_0"
    final_norm: str = "output_norm"

    def shapes(self) -> Shapes:
        """All tensors in the order of a file, outermost dimension first."""
        width, vocabulary = self.keys["embedding_length"], self.keys["vocab_size"]
        yield "token_embd.weight", (vocabulary, width)
        if self.has_rope_freqs:
            yield "rope_freqs.weight", (self.keys["rope.dimension_count"] // 2,)
        for i in range(self.keys["block_count"]):
            for name, shape in self.block(self.keys, i):
                yield f"blk.{i}.{name}", shape
        yield f"{self.final_norm}.weight", (width,)
        if not self.is_tied:
            yield "output.weight", (vocabulary, width)

    def cut(self, n: int) -> "Layout":
        """Its first n layers alone. OptionError for less than one or more than it has."""
        whole = self.keys["block_count"]
        if not 1 <= n <= whole:
            raise OptionError(f"{n} layers, the layout has {whole}: a number from 1 to that is needed")
        by_layer = {k: v[:n] for k, v in self.keys.items() if isinstance(v, np.ndarray) and len(v) == whole}
        return replace(self, keys={**self.keys, **by_layer, "block_count": n})


def sizes(layers: int, width: int, ffn: int, heads: int, kv: int, vocab: int, context: int) -> dict[str, Any]:
    """Keys that every model has."""
    return {
        "block_count": layers,
        "context_length": context,
        "embedding_length": width,
        "feed_forward_length": ffn,
        "attention.head_count": heads,
        "attention.head_count_kv": kv,
        "vocab_size": vocab,
    }


def rope(dim: int, base: float, eps: float = 1e-5) -> dict[str, Any]:
    """Keys of the rotation, and the constant of the norms."""
    return {"rope.dimension_count": dim, "rope.freq_base": base, "attention.layer_norm_rms_epsilon": eps}


def head(key: int, value: int) -> dict[str, Any]:
    """Widths of a head's keys and values."""
    return {"attention.key_length": key, "attention.value_length": value}


def moe(experts: int, used: int, ffn: int) -> dict[str, Any]:
    """Keys of the experts: how many, how many a token uses, the width of one."""
    return {"expert_count": experts, "expert_used_count": used, "expert_feed_forward_length": ffn}


def state(inner: int, size: int, heads: int, groups: int) -> dict[str, Any]:
    """Keys of a recurrent state: all heads' values, a head's state, heads, groups."""
    sizes = {"inner_size": inner, "state_size": size, "time_step_rank": heads, "group_count": groups}
    return {"ssm.conv_kernel": 4} | {f"ssm.{name}": n for name, n in sizes.items()}


def deepseek(dense: int, shared: int, log_multiplier: float) -> dict[str, Any]:
    """Keys of DeepSeek's latent attention with YaRN, and of its leading dense layers."""
    return {
        "leading_dense_block_count": dense,
        "expert_shared_count": shared,
        "attention.kv_lora_rank": 512,
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": 40.0,
        "rope.scaling.original_context_length": 4096,
        "rope.scaling.yarn_log_multiplier": log_multiplier,
    }


def by_layer(pattern: str, of: dict[str, int]) -> "np.ndarray[Any, np.dtype[np.int32]]":
    """A number for each layer, 0 where the pattern has another letter."""
    return np.array([of.get(letter, 0) for letter in pattern], np.int32)
