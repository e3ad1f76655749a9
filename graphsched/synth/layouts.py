"""The models that `synth` imitates: their keys and the shapes of their tensors, as published."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from graphsched.errors import OptionError
from graphsched.synth.blocks import (
    Keys,
    Shapes,
    bitnet_block,
    deepseek2_block,
    llama4_block,
    llama_block,
    qwen3moe_block,
)
from graphsched.synth.hybrids import nemotron_h_block, qwen35_block


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

    def shapes(self) -> Shapes:
        """All tensors in the order of a file, outermost dimension first."""
        width, vocabulary = self.keys["embedding_length"], self.keys["vocab_size"]
        yield "token_embd.weight", (vocabulary, width)
        if self.has_rope_freqs:
            yield "rope_freqs.weight", (self.keys["rope.dimension_count"] // 2,)
        for i in range(self.keys["block_count"]):
            for name, shape in self.block(self.keys, i):
                yield f"blk.{i}.{name}", shape
        yield "output_norm.weight", (width,)
        if not self.is_tied:
            yield "output.weight", (vocabulary, width)

    def cut(self, n: int) -> "Layout":
        """Its first n layers alone. OptionError for less than one or more than it has."""
        whole = self.keys["block_count"]
        if not 1 <= n <= whole:
            raise OptionError(f"{n} layers, the layout has {whole}: a number from 1 to that is needed")
        by_layer = {k: v[:n] for k, v in self.keys.items() if isinstance(v, np.ndarray) and len(v) == whole}
        return replace(self, keys={**self.keys, **by_layer, "block_count": n})


def _sizes(
    layers: int, width: int, ffn: int, heads: int, kv: int, vocab: int, context: int
) -> dict[str, Any]:
    return {
        "block_count": layers,
        "context_length": context,
        "embedding_length": width,
        "feed_forward_length": ffn,
        "attention.head_count": heads,
        "attention.head_count_kv": kv,
        "vocab_size": vocab,
    }


def _rope(dim: int, base: float, eps: float = 1e-5) -> dict[str, Any]:
    return {"rope.dimension_count": dim, "rope.freq_base": base, "attention.layer_norm_rms_epsilon": eps}


def _head(key: int, value: int) -> dict[str, Any]:
    return {"attention.key_length": key, "attention.value_length": value}


def _moe(experts: int, used: int, ffn: int) -> dict[str, Any]:
    return {"expert_count": experts, "expert_used_count": used, "expert_feed_forward_length": ffn}


def _state(inner: int, size: int, heads: int, groups: int) -> dict[str, Any]:
    sizes = {"inner_size": inner, "state_size": size, "time_step_rank": heads, "group_count": groups}
    return {"ssm.conv_kernel": 4} | {f"ssm.{name}": n for name, n in sizes.items()}


def _deepseek(dense: int, shared: int, log_multiplier: float) -> dict[str, Any]:
    return {
        "leading_dense_block_count": dense,
        "expert_shared_count": shared,
        "attention.kv_lora_rank": 512,
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": 40.0,
        "rope.scaling.original_context_length": 4096,
        "rope.scaling.yarn_log_multiplier": log_multiplier,
    }


def _by_layer(pattern: str, of: dict[str, int]) -> "np.ndarray[Any, np.dtype[np.int32]]":
    """A number for each layer, 0 where the pattern has another letter."""
    return np.array([of.get(letter, 0) for letter in pattern], np.int32)


# M is Mamba 2, E experts, * attention.
_NEMOTRON_NANO: Final = "MEMEM*" + 4 * "EMEMEM*" + "EMEMEMEM*" + "EMEMEMEME"


# The config.json of each model, under the names that llama.cpp's converter gives them.
LAYOUTS: Final = {
    "llama-1.1b": Layout(
        "llama", "TinyLlama 1.1B", _sizes(22, 2048, 5632, 32, 4, 32000, 2048) | _rope(64, 1e4), llama_block
    ),
    "llama-8b": Layout(
        "llama",
        "Llama 3.1 8B",
        _sizes(32, 4096, 14336, 32, 8, 128256, 131072) | _rope(128, 5e5),
        llama_block,
        has_rope_freqs=True,
    ),
    "qwen3-30b-a3b": Layout(
        "qwen3moe",
        "Qwen3 30B-A3B",
        _sizes(48, 2048, 6144, 32, 4, 151936, 40960)
        | _rope(128, 1e6, 1e-6)
        | _head(128, 128)
        | _moe(128, 8, 768),
        qwen3moe_block,
    ),
    "deepseek-v2-lite": Layout(
        "deepseek2",
        "DeepSeek V2 Lite",
        _sizes(27, 2048, 10944, 16, 16, 102400, 163840)
        | _rope(64, 1e4, 1e-6)
        | _head(192, 128)
        | _moe(64, 6, 1408)
        | _deepseek(1, 2, 0.0707)
        | {"expert_weights_scale": 1.0, "expert_weights_norm": False, "expert_gating_func": 1},
        deepseek2_block,
    ),
    "deepseek-v3": Layout(
        "deepseek2",
        "DeepSeek V3",
        _sizes(61, 7168, 18432, 128, 1, 129280, 163840)
        | _rope(64, 1e4, 1e-6)
        | _head(576, 512)
        | {"attention.key_length_mla": 192, "attention.value_length_mla": 128, "attention.q_lora_rank": 1536}
        | _moe(256, 8, 2048)
        | _deepseek(3, 1, 0.1)
        | {"expert_weights_scale": 2.5, "expert_weights_norm": True, "expert_gating_func": 2}
        | {"expert_group_count": 8, "expert_group_used_count": 4},
        deepseek2_block,
    ),
    "maverick": Layout(
        "llama4",
        "Llama 4 Maverick 17B-128E",
        _sizes(48, 5120, 16384, 40, 8, 202048, 1048576)
        | _rope(128, 5e5)
        | _head(128, 128)
        | _moe(128, 1, 8192)
        | {"interleave_moe_layer_step": 2},
        llama4_block,
    ),
    "bitnet-2b": Layout(
        "bitnet-b1.58",
        "BitNet b1.58 2B-4T",
        _sizes(30, 2560, 6912, 20, 5, 128256, 4096) | _rope(128, 5e5),
        bitnet_block,
        is_tied=True,
        type="IQ2_BN",
    ),
    "qwen3.5-35b-a3b": Layout(
        "qwen35moe",
        "Qwen3.5 35B-A3B",
        _sizes(40, 2048, 512, 16, 2, 248320, 262144)
        | _rope(64, 1e7, 1e-6)
        | {"rope.dimension_sections": np.array([11, 11, 10, 0], np.int32)}
        | _head(256, 256)
        | _moe(256, 8, 512)
        | {"expert_shared_feed_forward_length": 512, "full_attention_interval": 4}
        | _state(inner=4096, size=128, heads=32, groups=16),
        qwen35_block,
    ),
    "nemotron-3-nano-30b-a3b": Layout(
        "nemotron_h_moe",
        "Nemotron 3 Nano 30B-A3B",
        _sizes(52, 2688, 1856, 32, 2, 131072, 262144)
        | _rope(128, 1e4)
        | {"attention.layer_norm_epsilon": 1e-5}
        | _head(128, 128)
        | _moe(128, 6, 1856)
        | {"expert_shared_feed_forward_length": 3712, "expert_shared_count": 1}
        | {"expert_weights_norm": True, "expert_weights_scale": 2.5}
        | {"expert_group_count": 1, "expert_group_used_count": 1}
        | {"feed_forward_length": _by_layer(_NEMOTRON_NANO, {"E": 1856})}
        | {"attention.head_count_kv": _by_layer(_NEMOTRON_NANO, {"*": 2})}
        | _state(inner=4096, size=128, heads=64, groups=8),
        nemotron_h_block,
    ),
}
