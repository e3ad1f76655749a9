"""Rows of models with recurrent state: small, odd sizes, in F32.

Value heads share keys, heads share inputs and outputs of their state, states are not as wide as heads: what a mistake
changes shows.
"""

from collections.abc import Callable
from typing import Any

from tiny.family import (
    CHOICE,
    DIM,
    HEADS,
    IN_FRONT,
    KV,
    MOE,
    PER_HEAD,
    D,
    attention,
    dense,
    experts,
    norms,
    row,
    sizes,
)
from tiny.table import Row, Shapes

KEYS, VALUES, SIZE, KERNEL = 2, 6, 16, 4  # heads of the delta rule, their size; what a convolution sees
SHARED = 40
FRONT = norms("attn_norm", "post_attention_norm")
DELTA = {
    "ssm.conv_kernel": KERNEL,
    "ssm.state_size": SIZE,
    "ssm.group_count": KEYS,
    "ssm.time_step_rank": VALUES,
    "ssm.inner_size": VALUES * SIZE,
}
CHANNELS = (2 * KEYS + VALUES) * SIZE
GATED_SHARED: Shapes = experts(SHARED) | {"ffn_gate_inp_shexp.weight": (D,)}
DELTA_COMMON: Shapes = {
    "ssm_conv1d.weight": (CHANNELS, KERNEL),
    "ssm_dt.bias": (VALUES,),
    "ssm_a": (VALUES,),
    "ssm_norm.weight": (SIZE,),
    "ssm_out.weight": (D, VALUES * SIZE),
}
PROJECTED: Shapes = {"attn_qkv.weight": (CHANNELS, D), "attn_gate.weight": (VALUES * SIZE, D)}
IN_ONE: Shapes = {"ssm_in.weight": (CHANNELS + VALUES * SIZE, D)}
APART: Shapes = {"ssm_beta.weight": (VALUES, D), "ssm_alpha.weight": (VALUES, D)}
BY_HEAD: Shapes = {"ssm_ba.weight": (2 * VALUES, D)}


def gated(dim: int) -> Shapes:
    """Attention whose queries bring the gates of its output."""
    queries: Shapes = {"attn_q.weight": (2 * HEADS * dim, D)}
    return attention(dim=dim) | queries | norms("attn_q_norm", "attn_k_norm", width=dim)


def delta(linear: Shapes, feed_forward: Shapes, dim: int = DIM) -> Callable[[int], Shapes]:
    """Layers of the delta rule, each third of attention instead."""
    return lambda il: FRONT | feed_forward | (DELTA_COMMON | linear if (il + 1) % 3 else gated(dim))


# --- state spaces ---

SCAN_HEADS, GROUPS, N_STATE, INNER = 6, 3, 20, 2 * D - 8  # 120 = 6 heads of 20 = 3 groups of 40
SCAN = {
    "ssm.conv_kernel": KERNEL,
    "ssm.inner_size": INNER,
    "ssm.state_size": N_STATE,
    "ssm.time_step_rank": SCAN_HEADS,
    "ssm.group_count": GROUPS,
}


def mamba2(groups: int = GROUPS) -> Shapes:
    wide = INNER + 2 * groups * N_STATE
    return {
        "ssm_in.weight": (INNER + wide + SCAN_HEADS, D),
        "ssm_conv1d.weight": (wide, KERNEL),
        "ssm_conv1d.bias": (wide,),
        "ssm_dt.bias": (SCAN_HEADS,),
        "ssm_a": (SCAN_HEADS, 1),
        "ssm_d": (SCAN_HEADS, 1),
        "ssm_norm.weight": (groups, INNER // groups),
        "ssm_out.weight": (D, INNER),
    }


MAMBA2 = mamba2()
RANK = 6
MAMBA: Shapes = {
    "ssm_in.weight": (4 * D, D),
    "ssm_conv1d.weight": (2 * D, KERNEL),
    "ssm_conv1d.bias": (2 * D,),
    "ssm_x.weight": (RANK + 2 * N_STATE, 2 * D),
    "ssm_dt.weight": (2 * D, RANK),
    "ssm_dt.bias": (2 * D,),
    "ssm_a": (2 * D, N_STATE),
    "ssm_d": (2 * D,),
    "ssm_out.weight": (D, 2 * D),
}
MAMBA_KEYS = {
    "ssm.conv_kernel": KERNEL,
    "ssm.inner_size": 2 * D,
    "ssm.state_size": N_STATE,
    "ssm.time_step_rank": RANK,
}
EPS = {"attention.layer_norm_rms_epsilon": 1e-3}
EPS_TWICE = {"attention.layer_norm_epsilon": 1e-3}
MIXER = norms("attn_norm")


def heads_in(*layers: int, count: int = 4, kv: int = KV) -> dict[str, Any]:
    """Key heads by layer, none in those that recur."""
    return {"attention.head_count_kv": [kv if il in layers else 0 for il in range(count)]}


def either(
    layers: tuple[int, ...], recurrent: Shapes, attends: Shapes, *common: Shapes
) -> Callable[[int], Shapes]:
    """Attention in some layers, recurrence in the others."""
    both: Shapes = {}
    for shapes in common:
        both |= shapes
    return lambda il: both | (attends if il in layers else recurrent)


def nemotron(il: int, feed_forward: Shapes) -> Shapes:
    """One sub-layer each: two recur, one attends, one is a feed-forward."""
    return MIXER | (attention() if il == 1 else feed_forward if il == 2 else MAMBA2)


LATENT = 32
UP_DOWN: Shapes = {n: s for n, s in dense().items() if "gate" not in n}
LATENT_EXPERTS: Shapes = {
    **{n: s for n, s in experts(SHARED, CHOICE).items() if "gate" not in n},
    "ffn_gate_inp.weight": (MOE["expert_count"], D),
    "ffn_up_exps.weight": (MOE["expert_count"], MOE["expert_feed_forward_length"], LATENT),
    "ffn_down_exps.weight": (MOE["expert_count"], LATENT, MOE["expert_feed_forward_length"]),
    "ffn_latent_down.weight": (LATENT, D),
    "ffn_latent_up.weight": (D, LATENT),
}

# --- short convolutions ---

SHORT: Shapes = {
    "shortconv.conv.weight": (D, 3),
    "shortconv.in_proj.weight": (3 * D, D),
    "shortconv.out_proj.weight": (D, D),
}

# --- decay by channel ---

CHANNEL: Shapes = {
    **{f"attn_{n}.weight": (HEADS * SIZE, D) for n in "qkv"},
    **{f"ssm_conv1d_{n}.weight": (1, HEADS * SIZE, 1, KERNEL) for n in "qkv"},
    "ssm_a": (1, 1, HEADS, 1),
    "ssm_beta.weight": (HEADS, D),
    "ssm_dt.bias": (HEADS * SIZE,),
    "ssm_norm.weight": (SIZE,),
    "attn_output.weight": (D, HEADS * SIZE),
}
LOW: Shapes = {
    "ssm_f_a.weight": (SIZE, D),
    "ssm_f_b.weight": (HEADS * SIZE, SIZE),
    "ssm_g_a.weight": (SIZE, D),
    "ssm_g_b.weight": (HEADS * SIZE, SIZE),
}
R, NOPE, ROPE, V_DIM = 24, 12, 8, 16
MLA: Shapes = {
    "attn_q.weight": (HEADS * (NOPE + ROPE), D),
    "attn_kv_a_mqa.weight": (R + ROPE, D),
    "attn_kv_a_norm.weight": (R,),
    "attn_k_b.weight": (HEADS, R, NOPE),
    "attn_v_b.weight": (HEADS, V_DIM, R),
    "attn_output.weight": (D, HEADS * V_DIM),
}
MLA_KEYS = {
    "attention.key_length": R + ROPE,
    "attention.value_length": R,
    "attention.key_length_mla": NOPE + ROPE,
    "attention.value_length_mla": V_DIM,
    "attention.kv_lora_rank": R,
    "rope.dimension_count": ROPE,
    "ssm.conv_kernel": KERNEL,
    "kda.head_dim": SIZE,
}
SIGMOID = MOE | {"expert_gating_func": 2}
GRANITE = {"embedding_scale": 5.0, "residual_scale": 0.4, "attention.scale": 0.3, "logit_scale": 3.0}


def first_dense(
    attends: tuple[int, ...], recurrent: Shapes, attention: Shapes, moe: Shapes
) -> Callable[[int], Shapes]:
    """The first layer's feed-forward dense, the others' of experts."""
    mixer = either(attends, recurrent, attention, IN_FRONT)
    return lambda il: mixer(il) | (moe if il else dense())


FULL: Shapes = {
    **{f"ssm_{n}_a.weight": (HEADS * SIZE, D) for n in "fg"},
    "ssm_a": (HEADS, 1),
}
GATED_MLA: Shapes = {n: s for n, s in MLA.items() if n != "attn_q.weight"} | {
    "attn_q_a.weight": (20, D),
    "attn_q_a_norm.weight": (20,),
    "attn_q_b.weight": (HEADS * (NOPE + ROPE), 20),
    "attn_gate.weight": (HEADS, D),
}
BOUNDED = {
    "kda.gate_lower_bound": -5.0,
    "kda.safe_gate": True,
    "swiglu_clamp_exp": [0.0, 0.7, 0.5, 0.0],
    "swiglu_clamp_shexp": [0.6, 0.0, 0.5, 0.4],
}
PARTS_NORMED: Shapes = {
    "ssm_dt_norm.weight": (RANK,),
    "ssm_b_norm.weight": (N_STATE,),
    "ssm_c_norm.weight": (N_STATE,),
}
PLAMO_BLOCK: Shapes = {
    **norms("attn_norm", "ffn_norm"),
    "post_attention_norm": (D,),
    "post_ffw_norm": (D,),
    "ffn_up.weight": (192, D),
    "ffn_down.weight": (D, 96),
}
PLAMO_MAMBA: Shapes = {
    "ssm_in.weight": (2 * INNER, D),
    "ssm_conv1d.weight": (INNER, KERNEL),
    "ssm_x.weight": (64 + 2 * N_STATE, INNER),
    "ssm_dt.weight": (SCAN_HEADS, 64),
    "ssm_dt.bias": (SCAN_HEADS,),
    "ssm_a": (SCAN_HEADS,),
    "ssm_d": (SCAN_HEADS,),
    "ssm_out.weight": (D, INNER),
    "ssm_dt_norm": (64,),
    "ssm_b_norm": (N_STATE,),
    "ssm_c_norm": (N_STATE,),
}
PLAMO_ATTENTION: Shapes = {
    "attn_qkv.weight": ((HEADS + 2 * KV) * DIM, D),
    "attn_q_norm.weight": (HEADS, DIM),
    "attn_k_norm.weight": (KV, DIM),
    "attn_output.weight": (D, HEADS * DIM),
}
LIGHTNING: Shapes = {
    "attn_qkv.weight": (3 * HEADS * DIM, D),
    "attn_gate.weight": (HEADS * DIM, D),
    "attn_norm_2.weight": (HEADS * DIM,),
    "attn_output.weight": (D, HEADS * DIM),
}
ROUTED_SIGMOID = SIGMOID | {"expert_weights_norm": True, "expert_weights_scale": 2.5}
GROUPED = {"expert_group_count": 4, "expert_group_used_count": 2}

RECURRENT: dict[str, Row] = {
    "bailingmoe3": row(
        "bailingmoe3",
        sizes()
        | MLA_KEYS
        | {"attention.q_lora_rank": 20}
        | BOUNDED
        | ROUTED_SIGMOID
        | GROUPED
        | heads_in(2, kv=1),
        first_dense((2,), CHANNEL | FULL, GATED_MLA, experts(SHARED, CHOICE)),
    ),
    "bailingmoe3-sections": row(
        "bailingmoe3",
        sizes()
        | MLA_KEYS
        | {"rope.dimension_sections": [2, 1, 0, 1]}
        | BOUNDED
        | ROUTED_SIGMOID
        | heads_in(2, kv=1),
        first_dense((2,), CHANNEL | FULL, MLA | {"attn_gate.weight": (HEADS, D)}, experts(SHARED, CHOICE)),
    ),
    "falcon-h1": row(
        "falcon-h1",
        sizes() | SCAN,
        attention() | MAMBA2 | MIXER | dense() | {"ffn_norm": (D,)},
        layers=3,
    ),
    "granitehybrid": row(
        "granitehybrid",
        sizes(rope__scaling__finetuned=True) | SCAN | GRANITE | MOE | heads_in(1, count=3),
        either((1,), MAMBA2, attention(), IN_FRONT, experts(SHARED)),
        layers=3,
    ),
    "granitehybrid-still": row(
        "granitehybrid",
        sizes(rope__scaling__finetuned=False)
        | SCAN
        | {"ssm.group_count": 1}
        | GRANITE
        | heads_in(1, count=3),
        either((1,), mamba2(1), attention(), IN_FRONT, dense()),
        layers=3,
    ),
    "jamba": row(
        "jamba",
        sizes() | MAMBA_KEYS | {"expert_count": 8, "expert_used_count": 3} | heads_in(1),
        lambda il: (
            either((1,), MAMBA | PARTS_NORMED, attention(), IN_FRONT)(il) | (experts() if il % 2 else dense())
        ),
    ),
    "kimi-linear": row(
        "kimi-linear",
        sizes()
        | MLA_KEYS
        | SIGMOID
        | heads_in(2, kv=1)
        | {"expert_weights_scale": 2.5, "expert_shared_count": 1},
        first_dense((2,), CHANNEL | LOW, MLA, experts(SHARED, CHOICE)),
    ),
    "lfm2": row(
        "lfm2",
        sizes() | {"shortconv.l_cache": 3, "attention.sliding_window": 7} | heads_in(1, 3),
        either((1, 3), SHORT, attention() | PER_HEAD, IN_FRONT, dense()),
        final="token_embd_norm",
    ),
    "lfm2moe": row(
        "lfm2moe",
        sizes() | {"shortconv.l_cache": 3, "leading_dense_block_count": 1} | SIGMOID | heads_in(1, 3),
        first_dense((1, 3), SHORT, attention() | PER_HEAD, experts(bias=CHOICE)),
        final="token_embd_norm",
    ),
    "mamba": row("mamba", EPS | MAMBA_KEYS, MIXER | MAMBA, layers=3),
    "mamba-normed": row("mamba", EPS | MAMBA_KEYS | {"ssm.dt_b_c_rms": True}, MIXER | MAMBA, layers=3),
    "mamba2": row("mamba2", EPS | SCAN, MIXER | MAMBA2, layers=3),
    "minimax-01": row(
        "minimax-01",
        sizes(full_attention_interval=3, rope__dimension_count=12, residual_scale=1.6) | MOE,
        lambda il: IN_FRONT | experts() | (LIGHTNING if (il + 1) % 3 else attention()),
    ),
    "nemotron_h": row(
        "nemotron_h",
        sizes() | SCAN | EPS_TWICE | heads_in(1) | {"feed_forward_length": [0, 0, 96, 0]},
        lambda il: nemotron(il, UP_DOWN),
    ),
    "nemotron_h_moe": row(
        "nemotron_h_moe",
        sizes(moe_latent_size=LATENT, expert_weights_norm=True, expert_weights_scale=2.5)
        | {"expert_group_count": 4, "expert_group_used_count": 2}
        | {"feed_forward_length": [0, 0, 96, 0]}
        | SCAN
        | EPS_TWICE
        | MOE
        | heads_in(1),
        lambda il: nemotron(il, LATENT_EXPERTS),
    ),
    "plamo2": row(
        "plamo2",
        sizes()
        | SCAN
        | heads_in(0, 2)
        | {"attention.head_count": [HEADS, 0, HEADS, 0], "ssm.group_count": 0},
        either((0, 2), PLAMO_MAMBA, PLAMO_ATTENTION, PLAMO_BLOCK),
    ),
    "qwen35": row(
        "qwen35",
        sizes(full_attention_interval=3, rope__dimension_count=12)
        | DELTA
        | {"rope.dimension_sections": [3, 1, 1, 1]},
        delta(PROJECTED | APART, dense()),
        layers=3,
    ),
    "qwen35moe": row(
        "qwen35moe",
        sizes(full_attention_interval=3, rope__dimension_count=12)
        | {"rope.dimension_sections": [2, 2, 2, 0]}
        | {"attention.key_length": 32, "attention.value_length": 32}  # which all types of caches can hold
        | DELTA
        | MOE,
        delta(PROJECTED | APART, GATED_SHARED, dim=32),
        layers=3,
    ),
    "qwen3next": row(
        "qwen3next",
        sizes(full_attention_interval=3, rope__dimension_count=12) | DELTA | MOE,
        delta(PROJECTED | BY_HEAD, GATED_SHARED),
        layers=3,
    ),
    "qwen3next-old": row(
        "qwen3next",
        sizes(full_attention_interval=3, rope__dimension_count=12) | DELTA | MOE,
        delta(IN_ONE | BY_HEAD, GATED_SHARED),
        layers=3,
    ),
}
