"""The models that `synth` imitates: their keys and the shapes of their tensors, as published."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

Shapes = Iterator[tuple[str, tuple[int, ...]]]
Keys = Mapping[str, Any]


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


def llama_block(k: Keys, i: int) -> Shapes:
    """Tensors of layer i: attention and a gated feed-forward."""
    yield from _attention(k)
    yield from _dense(k)


def qwen3moe_block(k: Keys, i: int) -> Shapes:
    """Tensors of layer i: attention with normed heads, experts."""
    yield from _attention(k)
    yield "attn_q_norm.weight", (k["attention.key_length"],)
    yield "attn_k_norm.weight", (k["attention.key_length"],)
    yield from _experts(k)


def llama4_block(k: Keys, i: int) -> Shapes:
    """Tensors of layer i: attention, and experts in every so many layers."""
    yield from _attention(k)
    if (i + 1) % k["interleave_moe_layer_step"]:
        yield from _dense(k)
    else:
        yield from _experts(k)
        yield from _ffn(k["embedding_length"], k["expert_feed_forward_length"], "_shexp")


def bitnet_block(k: Keys, i: int) -> Shapes:
    """Tensors of layer i: attention and feed-forward with norms inside."""
    yield from _attention(k)
    yield "attn_sub_norm.weight", (k["embedding_length"],)
    yield from _dense(k)
    yield "ffn_sub_norm.weight", (k["feed_forward_length"],)


def deepseek2_block(k: Keys, i: int) -> Shapes:
    """Tensors of layer i: latent attention, experts behind the leading dense layers."""
    yield from _latent_attention(k)
    if i < k["leading_dense_block_count"]:
        yield from _dense(k)
        return
    yield from _experts(k)
    if "expert_group_count" in k:
        yield "exp_probs_b.bias", (k["expert_count"],)
    width = k["expert_feed_forward_length"] * k["expert_shared_count"]
    yield from _ffn(k["embedding_length"], width, "_shexp")


def _attention(k: Keys) -> Shapes:
    width, heads, kv = k["embedding_length"], k["attention.head_count"], k["attention.head_count_kv"]
    size = k.get("attention.key_length", width // heads)
    yield "attn_norm.weight", (width,)
    yield "attn_q.weight", (heads * size, width)
    yield "attn_k.weight", (kv * size, width)
    yield "attn_v.weight", (kv * size, width)
    yield "attn_output.weight", (width, heads * size)


def _latent_attention(k: Keys) -> Shapes:
    """MLA: V3 with low-rank queries and the two halves of kv_b apart, Lite with plain queries and kv_b."""
    width, heads, lora = k["embedding_length"], k["attention.head_count"], k["attention.kv_lora_rank"]
    key = k.get("attention.key_length_mla", k["attention.key_length"])
    value = k.get("attention.value_length_mla", k["attention.value_length"])
    rope = k["rope.dimension_count"]
    yield "attn_norm.weight", (width,)
    yield "attn_kv_a_mqa.weight", (lora + rope, width)
    yield "attn_kv_a_norm.weight", (lora,)
    if "attention.q_lora_rank" in k:
        rank = k["attention.q_lora_rank"]
        yield "attn_q_a.weight", (rank, width)
        yield "attn_q_a_norm.weight", (rank,)
        yield "attn_q_b.weight", (heads * key, rank)
        yield "attn_k_b.weight", (heads, lora, key - rope)
        yield "attn_v_b.weight", (heads, value, lora)
    else:
        yield "attn_q.weight", (heads * key, width)
        yield "attn_kv_b.weight", (heads * (key - rope + value), lora)
    yield "attn_output.weight", (width, heads * value)


def _dense(k: Keys) -> Shapes:
    yield "ffn_norm.weight", (k["embedding_length"],)
    yield from _ffn(k["embedding_length"], k["feed_forward_length"])


def _ffn(width: int, inner: int, suffix: str = "") -> Shapes:
    yield f"ffn_gate{suffix}.weight", (inner, width)
    yield f"ffn_up{suffix}.weight", (inner, width)
    yield f"ffn_down{suffix}.weight", (width, inner)


def _experts(k: Keys) -> Shapes:
    width, n, inner = k["embedding_length"], k["expert_count"], k["expert_feed_forward_length"]
    yield "ffn_norm.weight", (width,)
    yield "ffn_gate_inp.weight", (n, width)
    for name, shape in _ffn(width, inner, "_exps"):
        yield name, (n, *shape)


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
}
