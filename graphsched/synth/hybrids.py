"""The tensors of one block of models with recurrent layers."""

from graphsched.synth.blocks import (
    Keys,
    Shapes,
    attention,
    dense,
    experts,
    ffn,
    head_norms,
    normed_behind_attention,
)


def qwen35_block(k: Keys, i: int) -> Shapes:
    """Tensors of layer i: the delta rule, or each so many layers attention with gates; experts and a shared one."""
    width = k["embedding_length"]
    if (i + 1) % k["full_attention_interval"]:
        yield from _delta(k)
    else:
        for name, shape in attention(k):
            yield name, (2 * shape[0], width) if name == "attn_q.weight" else shape
        yield from head_norms(k)
    yield from normed_behind_attention(experts(k))
    yield "ffn_gate_inp_shexp.weight", (width,)
    yield from ffn(width, k["expert_shared_feed_forward_length"], "_shexp")


def qwen3next_block(k: Keys, i: int) -> Shapes:
    """Tensors of layer i: Qwen3.5's, with beta and alpha in one matrix."""
    for name, shape in qwen35_block(k, i):
        if name == "ssm_beta.weight":
            yield "ssm_ba.weight", (2 * shape[0], shape[1])
        elif name != "ssm_alpha.weight":
            yield name, shape


def granitehybrid_block(k: Keys, i: int) -> Shapes:
    """Tensors of layer i: attention or Mamba 2, then experts and a shared one."""
    kv = int(k["attention.head_count_kv"][i])
    yield from attention({**k, "attention.head_count_kv": kv}) if kv else _mamba2(k)
    yield from experts(k)
    yield from ffn(k["embedding_length"], k["expert_shared_feed_forward_length"], "_shexp")


def lfm2moe_block(k: Keys, i: int) -> Shapes:
    """Tensors of layer i: attention or a short convolution, experts behind the leading dense layers."""
    kv = int(k["attention.head_count_kv"][i])
    if kv:
        yield from attention({**k, "attention.head_count_kv": kv})
        yield from head_norms(k)
    else:
        yield from _short_convolution(k)
    if i < k["leading_dense_block_count"]:
        yield from dense(k)
        return
    yield from experts(k)
    yield "exp_probs_b.bias", (k["expert_count"],)


def nemotron_h_block(k: Keys, i: int) -> Shapes:
    """Tensors of layer i: experts and a shared one, attention, or Mamba 2."""
    if k["feed_forward_length"][i]:
        yield "attn_norm.weight", (k["embedding_length"],)
        yield from _up_and_down(k)
    elif k["attention.head_count_kv"][i]:
        yield from attention({**k, "attention.head_count_kv": int(k["attention.head_count_kv"][i])})
    else:
        yield from _mamba2(k)


def _up_and_down(k: Keys) -> Shapes:
    """Experts without gates."""
    shared = ffn(k["embedding_length"], k["expert_shared_feed_forward_length"], "_shexp")
    for name, shape in (*experts(k), ("exp_probs_b.bias", (k["expert_count"],)), *shared):
        if "gate_exps" not in name and "gate_shexp" not in name and name != "ffn_norm.weight":
            yield name, shape


def _delta(k: Keys) -> Shapes:
    width, heads, inner = k["embedding_length"], k["ssm.time_step_rank"], k["ssm.inner_size"]
    channels = 2 * k["ssm.group_count"] * k["ssm.state_size"] + inner
    yield "attn_norm.weight", (width,)
    yield "attn_qkv.weight", (channels, width)
    yield "attn_gate.weight", (inner, width)
    yield "ssm_conv1d.weight", (channels, k["ssm.conv_kernel"])
    yield "ssm_dt.bias", (heads,)
    yield "ssm_a", (heads,)
    yield "ssm_beta.weight", (heads, width)
    yield "ssm_alpha.weight", (heads, width)
    yield "ssm_norm.weight", (inner // heads,)
    yield "ssm_out.weight", (width, inner)


def _mamba2(k: Keys) -> Shapes:
    width, heads, inner = k["embedding_length"], k["ssm.time_step_rank"], k["ssm.inner_size"]
    groups = k["ssm.group_count"]
    channels = inner + 2 * groups * k["ssm.state_size"]
    yield "attn_norm.weight", (width,)
    yield "ssm_in.weight", (inner + channels + heads, width)
    yield "ssm_conv1d.weight", (channels, k["ssm.conv_kernel"])
    yield "ssm_conv1d.bias", (channels,)
    yield "ssm_dt.bias", (heads,)
    yield "ssm_a", (heads, 1)
    yield "ssm_d", (heads, 1)
    yield "ssm_norm.weight", (groups, inner // groups)
    yield "ssm_out.weight", (width, inner)


def _short_convolution(k: Keys) -> Shapes:
    width = k["embedding_length"]
    yield "attn_norm.weight", (width,)
    yield "shortconv.conv.weight", (width, k["shortconv.l_cache"])
    yield "shortconv.in_proj.weight", (3 * width, width)
    yield "shortconv.out_proj.weight", (width, width)
