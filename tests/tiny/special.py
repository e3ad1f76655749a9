"""Rows of models with parts of their own: streams beside each other, latents, gates, temperatures; small, in F32."""

from collections.abc import Callable
from typing import Any

from tiny.family import (
    BEHIND,
    CHOICE,
    DIM,
    EXPERTS,
    HEADS,
    IN_FRONT,
    KV,
    MOE,
    PER_HEAD,
    PLAIN,
    ROUTED,
    WIDTH,
    WINDOW,
    YARN,
    D,
    attention,
    behind_dense,
    dense,
    experts,
    joined,
    norms,
    row,
    sizes,
)
from tiny.recurrent import CHANNEL, GROUPED, KERNEL, LOW, MLA, NOPE, ROPE, SIGMOID, SIZE, V_DIM, R, heads_in
from tiny.table import QKV, Row, Shapes

LOW_RANK = 20
LOW_QUERIES: Shapes = {n: s for n, s in MLA.items() if n != "attn_q.weight"} | {
    "attn_q_a.weight": (LOW_RANK, D),
    "attn_q_a_norm.weight": (LOW_RANK,),
    "attn_q_b.weight": (HEADS * (NOPE + ROPE), LOW_RANK),
}
ONE_MATRIX: Shapes = {n: s for n, s in LOW_QUERIES.items() if not n.startswith(("attn_k_b", "attn_v_b"))} | {
    "attn_kv_b.weight": (HEADS * (NOPE + V_DIM), R)
}
MLA_KEYS = {
    "attention.head_count_kv": 1,
    "attention.key_length": R + ROPE,
    "attention.value_length": R,
    "attention.key_length_mla": NOPE + ROPE,
    "attention.value_length_mla": V_DIM,
    "attention.kv_lora_rank": R,
    "attention.q_lora_rank": LOW_RANK,
    "rope.dimension_count": ROPE,
}
SHARED = 40

# --- gemma3n: as many layers as show all kinds: sparse ones, and those that read the caches of others

STREAMS, RANK, PER_LAYER, GEMMA_DIM = 4, 12, 10, 16
GEMMA3N: Shapes = {
    **attention(dim=GEMMA_DIM),
    **norms("attn_q_norm", "attn_k_norm", width=GEMMA_DIM),
    **IN_FRONT,
    **BEHIND,
    **dense(48),
    "altup_correct_coef.weight": (STREAMS, STREAMS),
    "altup_correct_scale.weight": (D,),
    "altup_predict_coef.weight": (STREAMS**2, STREAMS),
    "altup_router.weight": (STREAMS, D),
    "altup_router_norm.weight": (D,),
    "inp_gate.weight": (PER_LAYER, D),
    "laurel_l.weight": (RANK, D),
    "laurel_post_norm.weight": (D,),
    "laurel_r.weight": (D, RANK),
    "post_norm.weight": (D,),
    "proj.weight": (D, PER_LAYER),
}
GEMMA3N_LAYERS = 15


# --- kimi-k3

K3_LATENT = 32
K3_DELTA: Shapes = CHANNEL | {
    "ssm_a": (HEADS,),
    "ssm_f_a.weight": (SIZE, D),
    "ssm_f_b.weight": (HEADS * SIZE, SIZE),
    "ssm_g.weight": (HEADS * SIZE, D),
}
K3_FRONT: Shapes = IN_FRONT | norms("attn_res_score", "ffn_res_score")
K3_EXPERTS: Shapes = experts(SHARED, CHOICE) | {
    "ffn_gate_exps.weight": (EXPERTS, WIDTH, K3_LATENT),
    "ffn_up_exps.weight": (EXPERTS, WIDTH, K3_LATENT),
    "ffn_down_exps.weight": (EXPERTS, K3_LATENT, WIDTH),
    "ffn_routed_down.weight": (K3_LATENT, D),
    "ffn_routed_norm.weight": (K3_LATENT,),
    "ffn_routed_up.weight": (D, K3_LATENT),
}
K3_LATENT_LAYER: Shapes = LOW_QUERIES | {"attn_gate.weight": (HEADS * V_DIM, D)}


def kimi_k3(il: int) -> Shapes:
    mixer = K3_LATENT_LAYER if il == 2 else K3_DELTA
    return K3_FRONT | mixer | (K3_EXPERTS if il else dense())


def laguna(count: Callable[[int], int], per_element: bool) -> Callable[[int], Shapes]:
    def layer(il: int) -> Shapes:
        heads = count(il)
        gate: Shapes = {"attn_gate.weight": (heads * DIM if per_element else heads, D)}
        moe = experts(SHARED, CHOICE) if il else dense()
        return attention(heads) | PER_HEAD | IN_FRONT | gate | moe

    return layer


# --- sparse attention: fewer positions than a prompt has, heads enough that no two scores are 0

INDEX_HEADS, INDEX_DIM, TOP_K = 8, 16, 5
INDEX_KEYS = {
    "attention.indexer.head_count": INDEX_HEADS,
    "attention.indexer.key_length": INDEX_DIM,
    "attention.indexer.top_k": TOP_K,
}
INDEXER: Shapes = {
    "indexer.attn_q_b.weight": (INDEX_HEADS * INDEX_DIM, LOW_RANK),
    "indexer.attn_k.weight": (INDEX_DIM, D),
    "indexer.k_norm.weight": (INDEX_DIM,),
    "indexer.k_norm.bias": (INDEX_DIM,),
    "indexer.proj.weight": (INDEX_HEADS, D),
}
BLOCKS: Shapes = {
    "indexer.q_proj.weight": (KV * INDEX_DIM, D),
    "indexer.k_proj.weight": (INDEX_DIM, D),
    "indexer.q_norm.weight": (INDEX_DIM,),
    "indexer.k_norm.weight": (INDEX_DIM,),
}
POOL = 3
POOLED: Shapes = INDEXER | {
    "indexer_compressor_gate.weight": (INDEX_DIM, D),
    "indexer_compressor_ape.weight": (POOL, INDEX_DIM),
}
WIDE = STREAMS * (STREAMS + 2)
CONNECTED: Shapes = {
    f"hc_{name}_{part}.weight": shape
    for name in ("attn", "ffn")
    for part, shape in (("fn", (WIDE, STREAMS * D)), ("base", (WIDE,)), ("scale", (3,)))
}
STILL_MLA: Shapes = LOW_QUERIES | {
    "attn_q_b.weight": (HEADS * (NOPE + ROPE), LOW_RANK),
    "attn_kv_a_mqa.weight": (R, D),
    "attn_k_b.weight": (HEADS, R, NOPE + ROPE),
}
G5_DELTA: Shapes = CHANNEL | LOW | {"ssm_a": (HEADS,)}


def glm5_next(il: int) -> Shapes:
    mixer = STILL_MLA | (POOLED if il == 1 else {}) if il % 2 else G5_DELTA
    return IN_FRONT | CONNECTED | mixer | (experts(SHARED, CHOICE) if il else dense())


# --- deepseek4

OUT_GROUPS, OUT_RANK, V4_DIM, V4_INDEX = 2, 12, 20, 12
V4_COMMON: Shapes = {
    **IN_FRONT,
    **CONNECTED,
    **experts(SHARED, CHOICE),
    "attn_q_a.weight": (LOW_RANK, D),
    "attn_q_a_norm.weight": (LOW_RANK,),
    "attn_q_b.weight": (HEADS * V4_DIM, LOW_RANK),
    "attn_kv.weight": (V4_DIM, D),
    "attn_kv_a_norm.weight": (V4_DIM,),
    "attn_sinks.weight": (HEADS,),
    "attn_output_a.weight": (OUT_GROUPS, OUT_RANK, HEADS * V4_DIM // OUT_GROUPS),
    "attn_output_b.weight": (D, OUT_GROUPS * OUT_RANK),
}


def compressor(name: str, dim: int, ratio: int) -> Shapes:
    width = dim * (2 if ratio == 4 else 1)
    return {
        f"{name}_ape.weight": (ratio, width),
        f"{name}_gate.weight": (width, D),
        f"{name}_kv.weight": (width, D),
        f"{name}_norm.weight": (dim,),
    }


V4_RATIOS = [0, 4, 5]
V4_INDEXER: Shapes = compressor("indexer_compressor", V4_INDEX, 4) | {
    "indexer.attn_q_b.weight": (INDEX_HEADS * V4_INDEX, LOW_RANK),
    "indexer.proj.weight": (INDEX_HEADS, D),
}


def deepseek4(il: int) -> Shapes:
    ratio = V4_RATIOS[il]
    rows = compressor("attn_compressor", V4_DIM, ratio) if ratio else {}
    return V4_COMMON | rows | (V4_INDEXER if ratio == 4 else {})


def v4_keys(window: int) -> dict[str, Any]:
    return (
        sizes(rope__dimension_count=8)
        | ROUTED
        | INDEX_KEYS
        | {"attention.head_count_kv": 1, "attention.key_length": V4_DIM, "attention.value_length": V4_DIM}
        | {"attention.indexer.key_length": V4_INDEX, "attention.indexer.top_k": 2}
        | {"attention.sliding_window": window, "attention.compress_ratios": V4_RATIOS}
        | {"attention.compress_rope_freq_base": 4e3, "attention.q_lora_rank": LOW_RANK}
        | {"attention.output_group_count": OUT_GROUPS, "attention.output_lora_rank": OUT_RANK}
        | {"hyper_connection.count": STREAMS, "hyper_connection.sinkhorn_iterations": 3}
        | {"hyper_connection.epsilon": 1e-3, "expert_gating_func": 4, "swiglu_clamp_exp": 0.7}
        | YARN
    )


V4_MORE: Shapes = {
    "output_hc_fn.weight": (STREAMS, STREAMS * D),
    "output_hc_scale.weight": (1,),
    "output_hc_base.weight": (STREAMS,),
}


SPECIAL: dict[str, Row] = {
    "deepseek4": row("deepseek4", v4_keys(6), deepseek4, layers=3, more=V4_MORE),
    "deepseek4-wide": row("deepseek4", v4_keys(9), deepseek4, layers=3, more=V4_MORE),
    "deepseek32": row(
        "deepseek32",
        sizes()
        | MLA_KEYS
        | INDEX_KEYS
        | ROUTED
        | GROUPED
        | YARN
        | {"rope.scaling.yarn_log_multiplier": 0.05},
        behind_dense(experts(SHARED, CHOICE), LOW_QUERIES | INDEXER | IN_FRONT),
        layers=3,
    ),
    "glm-dsa": row(
        "glm-dsa",
        sizes() | MLA_KEYS | INDEX_KEYS | ROUTED | YARN | {"attention.indexer.types": [1, 0, 1]},
        behind_dense(experts(SHARED, CHOICE), LOW_QUERIES | INDEXER | IN_FRONT),
        layers=3,
    ),
    "glm5-next": row(
        "glm5-next",
        sizes()
        | MLA_KEYS
        | INDEX_KEYS
        | ROUTED
        | heads_in(1, 3, kv=1)
        | {"rope.dimension_count": 0, "attention.key_length": R, "attention.layer_norm_epsilon": 1e-4}
        | {"attention.indexer.kpool": POOL, "attention.indexer.top_k": 2 * POOL}
        | {"attention.indexer.types": [0, 1, 0, 0], "ssm.conv_kernel": KERNEL, "kda.head_dim": SIZE}
        | {"hyper_connection.count": STREAMS, "hyper_connection.sinkhorn_iterations": 3}
        | {"hyper_connection.epsilon": 1e-3, "kda.gate_lower_bound": -5.0}
        | {"swiglu_clamp_exp": [0.0, 0.7, 0.5, 0.0], "swiglu_clamp_shexp": [0.6, 0.0, 0.5, 0.4]},
        glm5_next,
    ),
    "minimax-m3": row(
        "minimax-m3",
        sizes(rope__dimension_count=12)
        | ROUTED
        | INDEX_KEYS
        | {"attention.indexer.head_count": KV, "attention.indexer.top_k": 3}
        | {"attention.indexer.block_size": 4, "attention.indexer.local_blocks": 1},
        lambda il: (
            attention()
            | PER_HEAD
            | IN_FRONT
            | (BLOCKS if il else {})
            | (experts(SHARED, CHOICE) if il else dense())
        ),
    ),
    "gemma3n": row(
        "gemma3n",
        sizes(rope__freq_base=1e5, rope__freq_base_swa=1e3, feed_forward_length=48)
        | {"attention.key_length": GEMMA_DIM, "attention.value_length": GEMMA_DIM}
        | {"attention.sliding_window_pattern": 5, "embedding_length_per_layer_input": PER_LAYER}
        | {"attention.shared_kv_layers": 5}
        | WINDOW,
        GEMMA3N,
        layers=GEMMA3N_LAYERS,
        head=False,
        more={
            "altup_proj.weight": (STREAMS - 1, D, D),
            "altup_unembd_proj.weight": (STREAMS - 1, D, D),
            "per_layer_token_embd.weight": (512, GEMMA3N_LAYERS * PER_LAYER),
            "per_layer_model_proj.weight": (GEMMA3N_LAYERS * PER_LAYER, D),
            "per_layer_proj_norm.weight": (PER_LAYER,),
        },
    ),
    "kimi-k3": row(
        "kimi-k3",
        sizes()
        | MLA_KEYS
        | SIGMOID
        | heads_in(2, kv=1)
        | {"attention.head_count": [0, 0, HEADS, 0], "ssm.conv_kernel": KERNEL, "kda.head_dim": SIZE}
        | {"kda.gate_lower_bound": -5.0, "expert_weights_norm": True, "expert_weights_scale": 2.5}
        | {"attn_res.block_size": 2, "expert_latent_length": K3_LATENT, "expert_shared_count": 1}
        | {"activation.situ_beta": 0.8, "activation.situ_linear_beta": 1.5},
        kimi_k3,
        more=norms("output_res_score"),
    ),
    "laguna": row(
        "laguna",
        sizes(rope__dimension_count=12, rope__dimension_count_swa=20, rope__freq_base_swa=500.0)
        | {"attention.head_count": [HEADS, 6, 6, 6]}
        | YARN
        | WINDOW
        | ROUTED,
        laguna(lambda il: 6 if il else HEADS, per_element=False),
    ),
    "laguna-full": row("laguna", sizes() | ROUTED, laguna(lambda il: HEADS, per_element=True), layers=3),
    "minicpm3": row(
        "minicpm3",
        sizes() | MLA_KEYS | {"attention.key_length": NOPE + ROPE, "attention.value_length": V_DIM},
        ONE_MATRIX | IN_FRONT | dense(),
    ),
    "mistral3": row(
        "mistral3",
        sizes(attention__temperature_scale=0.3)
        | YARN
        | {"rope.scaling.original_context_length": 8, "rope.scaling.yarn_log_multiplier": 0.5}
        | {"rope.scaling.yarn_beta_fast": 0.1, "rope.scaling.yarn_beta_slow": 0.02},
        PLAIN,
    ),
    "mistral3-moe": row("mistral3", sizes() | YARN | MOE, attention() | IN_FRONT | experts()),
    "mistral4": row(
        "mistral4",
        sizes(attention__temperature_scale=0.3, attention__temperature_length=8)
        | MLA_KEYS
        | ROUTED
        | GROUPED
        | {"expert_gating_func": 1}
        | YARN
        | {"rope.scaling.yarn_log_multiplier": 0.05},
        behind_dense(
            joined(experts(SHARED, CHOICE), "ffn_gate_up_exps", "ffn_gate_exps", "ffn_up_exps"),
            LOW_QUERIES | IN_FRONT,
        ),
    ),
    "muse-glimmer": row(
        "muse-glimmer",
        sizes(logit_scale=0.6, final_logit_softcapping=4.0) | WINDOW,
        PLAIN | PER_HEAD | BEHIND | {"attn_gate.weight": (HEADS * DIM, D)},
    ),
    "plamo3": row(
        "plamo3",
        sizes(rope__freq_base_swa=500.0) | {"attention.sliding_window_pattern": [True, False, True]} | WINDOW,
        joined(joined(PLAIN, "ffn_up", "ffn_gate", "ffn_up"), "attn_qkv", *QKV)
        | PER_HEAD
        | {"post_attention_norm": (D,), "post_ffw_norm": (D,)},
        layers=3,
    ),
}
