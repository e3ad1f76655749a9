"""The tensors of one block of models of 2025 and 2026 without recurrent layers."""

from graphsched.synth.blocks import (
    Keys,
    Shapes,
    attention,
    deepseek2_block,
    dense,
    experts,
    ffn,
    head_norms,
    normed_behind_attention,
    qwen3moe_block,
    with_biases,
)


def qwen3_block(k: Keys, i: int) -> Shapes:
    """Tensors of layer i: attention with normed heads, a gated feed-forward."""
    yield from attention(k)
    yield from head_norms(k)
    yield from dense(k)


def gemma3_block(k: Keys, i: int) -> Shapes:
    """Tensors of layer i: Qwen3's, with norms behind attention and feed-forward too."""
    yield from qwen3_block(k, i)
    yield "post_attention_norm.weight", (k["embedding_length"],)
    yield "post_ffw_norm.weight", (k["embedding_length"],)


def seed_oss_block(k: Keys, i: int) -> Shapes:
    """Tensors of layer i: attention with biases, a gated feed-forward."""
    yield from with_biases(attention(k), "attn_q", "attn_k", "attn_v")
    yield from normed_behind_attention(dense(k))


def glm4moe_block(k: Keys, i: int) -> Shapes:
    """Tensors of layer i: attention with biases, experts behind the leading dense layers."""
    yield from with_biases(attention(k), "attn_q", "attn_k", "attn_v")
    if i < k["leading_dense_block_count"]:
        yield from normed_behind_attention(dense(k))
        return
    yield from normed_behind_attention(experts(k))
    yield "exp_probs_b.bias", (k["expert_count"],)
    yield from ffn(k["embedding_length"], k["expert_feed_forward_length"], "_shexp")


def glm46_block(k: Keys, i: int) -> Shapes:
    """Tensors of layer i: GLM-4.5-Air's, with normed heads."""
    yield from glm4moe_block(k, i)
    yield from head_norms(k)


def gpt_oss_block(k: Keys, i: int) -> Shapes:
    """Tensors of layer i: attention with sinks, experts; biases everywhere."""
    yield from with_biases(attention(k), "attn_q", "attn_k", "attn_v", "attn_output")
    yield "attn_sinks.weight", (k["attention.head_count"],)
    yield from with_biases(
        normed_behind_attention(experts(k)), "ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"
    )


def minimax_m2_block(k: Keys, i: int) -> Shapes:
    """Tensors of layer i: attention whose heads are normed together, experts."""
    yield from attention(k)
    yield "attn_q_norm.weight", (k["attention.head_count"] * k["attention.key_length"],)
    yield "attn_k_norm.weight", (k["attention.head_count_kv"] * k["attention.key_length"],)
    yield from experts(k)
    yield "exp_probs_b.bias", (k["expert_count"],)


def hunyuan_moe_block(k: Keys, i: int) -> Shapes:
    """Tensors of layer i: Qwen3-MoE's, and a shared expert."""
    yield from qwen3moe_block(k, i)
    yield from ffn(k["embedding_length"], k["expert_shared_feed_forward_length"], "_shexp")


def deepseek32_block(k: Keys, i: int) -> Shapes:
    """Tensors of layer i: DeepSeek-V3's, and the indexer."""
    heads, size = k["attention.indexer.head_count"], k["attention.indexer.key_length"]
    yield from deepseek2_block(k, i)
    yield "indexer.k_norm.weight", (size,)
    yield "indexer.k_norm.bias", (size,)
    yield "indexer.proj.weight", (heads, k["embedding_length"])
    yield "indexer.attn_k.weight", (size, k["embedding_length"])
    yield "indexer.attn_q_b.weight", (heads * size, k["attention.q_lora_rank"])
