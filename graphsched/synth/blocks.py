"""The tensors of one block, by kind of model: names, and shapes with the outermost dimension first."""

from collections.abc import Iterator, Mapping
from typing import Any

Shapes = Iterator[tuple[str, tuple[int, ...]]]
Keys = Mapping[str, Any]


def llama_block(k: Keys, i: int) -> Shapes:
    """Tensors of layer i: attention and a gated feed-forward."""
    yield from attention(k)
    yield from dense(k)


def qwen3moe_block(k: Keys, i: int) -> Shapes:
    """Tensors of layer i: attention with normed heads, experts."""
    yield from attention(k)
    yield from head_norms(k)
    yield from experts(k)


def llama4_block(k: Keys, i: int) -> Shapes:
    """Tensors of layer i: attention, and experts in every so many layers."""
    yield from attention(k)
    if (i + 1) % k["interleave_moe_layer_step"]:
        yield from dense(k)
    else:
        yield from experts(k)
        yield from ffn(k["embedding_length"], k["expert_feed_forward_length"], "_shexp")


def bitnet_block(k: Keys, i: int) -> Shapes:
    """Tensors of layer i: attention and feed-forward with norms inside."""
    yield from attention(k)
    yield "attn_sub_norm.weight", (k["embedding_length"],)
    yield from dense(k)
    yield "ffn_sub_norm.weight", (k["feed_forward_length"],)


def deepseek2_block(k: Keys, i: int) -> Shapes:
    """Tensors of layer i: latent attention, experts behind the leading dense layers."""
    yield from _latent_attention(k)
    if i < k["leading_dense_block_count"]:
        yield from dense(k)
        return
    yield from experts(k)
    if "expert_group_count" in k:
        yield "exp_probs_b.bias", (k["expert_count"],)
    width = k["expert_feed_forward_length"] * k["expert_shared_count"]
    yield from ffn(k["embedding_length"], width, "_shexp")


def attention(k: Keys) -> Shapes:
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


def dense(k: Keys) -> Shapes:
    yield "ffn_norm.weight", (k["embedding_length"],)
    yield from ffn(k["embedding_length"], k["feed_forward_length"])


def ffn(width: int, inner: int, suffix: str = "") -> Shapes:
    yield f"ffn_gate{suffix}.weight", (inner, width)
    yield f"ffn_up{suffix}.weight", (inner, width)
    yield f"ffn_down{suffix}.weight", (width, inner)


def experts(k: Keys) -> Shapes:
    width, n, inner = k["embedding_length"], k["expert_count"], k["expert_feed_forward_length"]
    yield "ffn_norm.weight", (width,)
    yield "ffn_gate_inp.weight", (n, width)
    for name, shape in ffn(width, inner, "_exps"):
        yield name, (n, *shape)


def head_norms(k: Keys) -> Shapes:
    yield "attn_q_norm.weight", (k["attention.key_length"],)
    yield "attn_k_norm.weight", (k["attention.key_length"],)


def with_biases(shapes: Shapes, *names: str) -> Shapes:
    """The tensors, and a bias behind each matrix, or each expert's matrix, of these names."""
    for name, shape in shapes:
        yield name, shape
        if name.removesuffix(".weight") in names:
            yield name.removesuffix("weight") + "bias", shape[:-1]


def normed_behind_attention(shapes: Shapes) -> Shapes:
    """A feed-forward's tensors, with its norm under the name that it has in files of such models."""
    for name, shape in shapes:
        yield "post_attention_norm.weight" if name == "ffn_norm.weight" else name, shape
