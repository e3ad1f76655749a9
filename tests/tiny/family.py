"""Rows of the families of attention and experts: small, odd sizes, in F32.

Heads are not as wide as the stream divided by their number, several heads share a key, windows are shorter than a
prompt, experts are more than are used: what a mistake changes shows.
"""

from collections.abc import Callable
from typing import Any

from tiny.table import QKV, Row, Shapes, biases

D, HEADS, KV, DIM, FFN, EXPERTS, USED, WIDTH, SHARED = 64, 4, 2, 24, 96, 8, 3, 48, 40


def attention(heads: int = HEADS, kv: int = KV, dim: int = DIM, v_dim: int = 0) -> Shapes:
    return {
        "attn_q.weight": (heads * dim, D),
        "attn_k.weight": (kv * dim, D),
        "attn_v.weight": (kv * (v_dim or dim), D),
        "attn_output.weight": (D, heads * (v_dim or dim)),
    }


def norms(*names: str, width: int = D) -> Shapes:
    return {f"{name}.weight": (width,) for name in names}


def dense(width: int = FFN, suffix: str = "") -> Shapes:
    return {
        f"ffn_gate{suffix}.weight": (width, D),
        f"ffn_up{suffix}.weight": (width, D),
        f"ffn_down{suffix}.weight": (D, width),
    }


def experts(shared: int = 0, bias: str = "") -> Shapes:
    stacked = {name: (EXPERTS, *shape) for name, shape in dense(WIDTH, "_exps").items()}
    choice = {"ffn_gate_inp.weight": (EXPERTS, D)} | ({bias: (EXPERTS,)} if bias else {})
    return choice | stacked | (dense(shared, "_shexp") if shared else {})


def joined(shapes: Shapes, one: str, *names: str) -> Shapes:
    """Several matrices as one, their rows one after the other."""
    parts = [shapes[f"{name}.weight"] for name in names]
    whole = (*parts[0][:-2], sum(p[-2] for p in parts), parts[0][-1])
    return {n: s for n, s in shapes.items() if n.removesuffix(".weight") not in names} | {
        f"{one}.weight": whole
    }


IN_FRONT = norms("attn_norm", "ffn_norm")
BEHIND = norms("post_attention_norm", "post_ffw_norm")
PER_HEAD = norms("attn_q_norm", "attn_k_norm", width=DIM)
WHOLE = norms("attn_q_norm", width=HEADS * DIM) | norms("attn_k_norm", width=KV * DIM)
GATE: Shapes = {"attn_gate.weight": (HEADS * DIM, D)}
NORM_BIASES: Shapes = {"attn_norm.bias": (D,), "ffn_norm.bias": (D,)}
CHOICE = "exp_probs_b.bias"


def sizes(**more: Any) -> dict[str, Any]:
    """Keys that every file has; `__` in a keyword is a dot."""
    keys: dict[str, Any] = {
        "feed_forward_length": FFN,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV,
        "attention.key_length": DIM,
        "attention.value_length": DIM,
        "attention.layer_norm_rms_epsilon": 1e-3,
        "rope.freq_base": 1e3,
    }
    return keys | {name.replace("__", "."): value for name, value in more.items()}


MOE = {"expert_count": EXPERTS, "expert_used_count": USED, "expert_feed_forward_length": WIDTH}
ROUTED = MOE | {"expert_weights_norm": True, "expert_weights_scale": 2.5, "expert_gating_func": 2}
WINDOW = {"attention.sliding_window": 6}
YARN = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 32,
}


def row(architecture: str, keys: dict[str, Any], layer: Shapes | Callable[[int], Shapes], **more: Any) -> Row:
    each = layer if callable(layer) else (lambda il: layer)
    return Row(architecture, keys, each, n_embd=D, **{"layers": 4, **more})


def behind_dense(moe: Shapes, common: Shapes) -> Callable[[int], Shapes]:
    """The first layer dense, the others of experts."""
    return lambda il: common | (moe if il else dense())


def step35(il: int) -> Shapes:
    heads = HEADS if il % 3 == 0 else 6
    common = attention(heads) | PER_HEAD | IN_FRONT | {"attn_gate.weight": (heads, D)}
    return common | (experts(SHARED, CHOICE) if il else dense())


def mimo2(il: int) -> Shapes:
    common = attention(HEADS, KV if il % 2 else 1, v_dim=16) | IN_FRONT
    sinks = {"attn_sinks.weight": (HEADS,)} if il % 2 else {}
    return common | sinks | (experts(bias=CHOICE) if il else dense())


GEMMA4_SLIDES = [True, True, False, True, True, False]
P = 20  # width of what gemma4's layers are given of each token


def gemma4_attention(il: int) -> Shapes:
    dim = 16 if GEMMA4_SLIDES[il] else 32
    shapes = attention(HEADS, KV if GEMMA4_SLIDES[il] else 1, dim) | norms(
        "attn_q_norm", "attn_k_norm", width=dim
    )
    scale: Shapes = {"layer_output_scale.weight": (1,)}
    return shapes | IN_FRONT | BEHIND | scale


def gemma4(il: int) -> Shapes:
    shapes = gemma4_attention(il) | dense(FFN if il < 3 else 160)
    if il >= 3:  # they read the caches of the layers in front
        shapes = {n: s for n, s in shapes.items() if not n.startswith(("attn_k", "attn_v"))}
    elif not GEMMA4_SLIDES[il]:
        del shapes["attn_v.weight"]
    given = {"inp_gate.weight": (P, D), "proj.weight": (D, P)} | norms("post_norm")
    return shapes | given


def gemma4_moe(il: int) -> Shapes:
    scales = {"ffn_gate_inp.scale": (D,), "ffn_down_exps.scale": (EXPERTS,)}
    moe = joined(experts(), "ffn_gate_up_exps", "ffn_gate_exps", "ffn_up_exps")
    around = norms("post_ffw_norm_1", "post_ffw_norm_2", "pre_ffw_norm_2")
    return gemma4_attention(il) | dense() | moe | scales | around


GEMMA4 = (
    sizes(
        rope__freq_base=1e5, rope__freq_base_swa=1e3, rope__dimension_count=32, rope__dimension_count_swa=16
    )
    | {"attention.key_length": 32, "attention.value_length": 32}
    | {"attention.key_length_swa": 16, "attention.value_length_swa": 16}
    | {"attention.head_count_kv": [KV if slides else 1 for slides in GEMMA4_SLIDES]}
    | {"attention.sliding_window_pattern": GEMMA4_SLIDES, "final_logit_softcapping": 5.0}
    | WINDOW
)
HALVES = norms("rope_freqs", width=DIM // 2)
SECTIONS = {"rope.dimension_sections": [4, 3, 3, 2]}
PLAIN = attention() | IN_FRONT | dense()
SCALES = {"embedding_scale": 5.0, "residual_scale": 0.4, "attention.scale": 0.3, "logit_scale": 3.0}
LISTED = WINDOW | {"attention.sliding_window_pattern": [False, True, True, False]}

FAMILY = {
    "afmoe": row(
        "afmoe",
        sizes(rope__freq_base_swa=500.0) | WINDOW | ROUTED,
        behind_dense(
            experts(SHARED, CHOICE),
            attention() | PER_HEAD | IN_FRONT | BEHIND | {"attn_gate.weight": (HEADS * DIM, D)},
        ),
    ),
    "arcee": row(
        "arcee",
        sizes(),
        {n: s for n, s in PLAIN.items() if "ffn_gate" not in n},
        more=HALVES,
    ),
    "bailingmoe": row(
        "bailingmoe",
        sizes(rope__dimension_count=DIM) | ROUTED | {"expert_gating_func": 1},
        attention() | IN_FRONT | experts(SHARED),
    ),
    "bailingmoe2": row(
        "bailingmoe2",
        sizes(rope__dimension_count=12) | ROUTED | {"expert_group_count": 4, "expert_group_used_count": 2},
        behind_dense(experts(SHARED, CHOICE), joined(attention(), "attn_qkv", *QKV) | PER_HEAD | IN_FRONT),
    ),
    "chatglm": row(
        "chatglm",
        sizes(rope__dimension_count=12),
        joined(biases(PLAIN, *QKV), "ffn_up", "ffn_gate", "ffn_up"),
    ),
    "deepseek": row(
        "deepseek",
        sizes(expert_weights_scale=1.5) | MOE,
        behind_dense(experts(SHARED), attention() | IN_FRONT),
    ),
    "dots1": row(
        "dots1",
        sizes(attention__head_count_kv=HEADS) | ROUTED,
        behind_dense(experts(SHARED, CHOICE), attention(kv=HEADS) | PER_HEAD | IN_FRONT),
    ),
    "ernie4_5": row("ernie4_5", sizes(), PLAIN | {"attn_output.bias": (D,)}),
    "ernie4_5-moe": row(
        "ernie4_5-moe",
        sizes() | MOE,
        behind_dense(experts(SHARED, CHOICE), attention() | IN_FRONT | {"attn_output.bias": (D,)}),
    ),
    "exaone-moe": row(
        "exaone-moe",
        sizes() | WINDOW | ROUTED,
        behind_dense(experts(SHARED, CHOICE), attention() | PER_HEAD | IN_FRONT),
    ),
    "exaone4": row("exaone4", sizes(), attention() | PER_HEAD | BEHIND | dense()),
    "exaone4-64": row("exaone4", sizes() | WINDOW, attention() | PER_HEAD | BEHIND | dense(), layers=64),
    "gemma": row("gemma", sizes(), PLAIN, head=False),
    "gemma4": row(
        "gemma4",
        GEMMA4 | {"embedding_length_per_layer_input": P, "attention.shared_kv_layers": 3},
        gemma4,
        layers=6,
        more={
            "rope_freqs.weight": (16,),
            "per_layer_token_embd.weight": (512, 6 * P),
            "per_layer_model_proj.weight": (6 * P, D),
            "per_layer_proj_norm.weight": (P,),
        },
    ),
    "gemma4-moe": row("gemma4", GEMMA4 | MOE, gemma4_moe, layers=6, more={"rope_freqs.weight": (16,)}),
    "glm4": row(
        "glm4",
        sizes(rope__dimension_count=12),
        joined(biases(PLAIN, *QKV), "ffn_up", "ffn_gate", "ffn_up") | BEHIND,
    ),
    "glm4-vision": row(
        "glm4", sizes() | SECTIONS, joined(biases(PLAIN, *QKV), "ffn_up", "ffn_gate", "ffn_up") | BEHIND
    ),
    "granite": row("granite", sizes() | SCALES, PLAIN),
    "granite-still": row("granite", sizes() | SCALES | {"rope.scaling.finetuned": False}, PLAIN),
    "granitemoe": row("granitemoe", sizes() | SCALES | MOE, attention() | IN_FRONT | experts(SHARED)),
    "grok": row(
        "grok",
        sizes(embedding_scale=5.0, attention__output_scale=0.3, attn_logit_softcapping=3.0)
        | {"final_logit_softcapping": 4.0, "logit_scale": 0.6}
        | MOE,
        PLAIN | experts() | norms("attn_output_norm", "layer_output_norm"),
    ),
    "hunyuan-dense": row("hunyuan-dense", sizes(rope__scaling__alpha=50.0), PLAIN | PER_HEAD),
    "hunyuan-moe": row("hunyuan-moe", sizes() | MOE, attention() | PER_HEAD | IN_FRONT | experts(SHARED)),
    "hy_v3": row(
        "hy_v3",
        sizes() | ROUTED,
        behind_dense(
            joined(experts(SHARED, "exp_probs_b"), "ffn_gate_up_exps", "ffn_gate_exps", "ffn_up_exps"),
            attention() | PER_HEAD | IN_FRONT,
        ),
    ),
    "internlm2": row("internlm2", sizes(), PLAIN),
    "mimo2": row(
        "mimo2",
        sizes(rope__dimension_count=12, rope__freq_base_swa=500.0, attention__value_scale=0.5)
        | {"attention.value_length": 16, "attention.head_count_kv": [1, KV, 1, KV]}
        | {"attention.sliding_window_pattern": [False, True, False, True]}
        | WINDOW
        | MOE,
        mimo2,
    ),
    "minicpm": row("minicpm", sizes(), biases(PLAIN, "attn_output", "ffn_gate", "ffn_up", "ffn_down")),
    "minimax-m2": row(
        "minimax-m2",
        sizes(rope__dimension_count=12, expert_gating_func=2) | MOE,
        attention() | WHOLE | IN_FRONT | experts(bias=CHOICE),
    ),
    "olmo2": row("olmo2", sizes() | YARN, attention() | WHOLE | BEHIND | dense()),
    "olmo2-window": row("olmo2", sizes() | YARN | WINDOW, attention() | WHOLE | BEHIND | dense()),
    "olmoe": row("olmoe", sizes() | MOE, attention() | WHOLE | IN_FRONT | experts()),
    "phimoe": row(
        "phimoe",
        sizes() | MOE,
        biases(attention() | IN_FRONT, *QKV, "attn_output")
        | {"attn_norm.bias": (D,), "ffn_norm.bias": (D,)}
        | experts(),
        more={"output.bias": (512,), "output_norm.bias": (D,), **norms("rope_factors_short", width=DIM // 2)},
    ),
    "qwen2vl": row("qwen2vl", sizes() | SECTIONS, biases(PLAIN, *QKV)),
    "qwen3vl": row("qwen3vl", sizes() | {"rope.dimension_sections": [5, 4, 3, 0]}, PLAIN | PER_HEAD),
    "qwen3vlmoe": row(
        "qwen3vlmoe",
        sizes() | {"rope.dimension_sections": [5, 4, 3, 0]} | MOE,
        attention() | PER_HEAD | IN_FRONT | experts(),
    ),
    "seed_oss": row(
        "seed_oss",
        sizes(),
        biases(attention(), *QKV) | norms("attn_norm", "post_attention_norm") | dense(),
    ),
    "smollm3": row("smollm3", sizes(), PLAIN),
    "step35": row(
        "step35",
        sizes(rope__freq_base_swa=500.0)
        | {"attention.head_count": [HEADS, 6, 6, HEADS]}
        | {"swiglu_clamp_exp": [0.0, 0.0, 0.7, 0.5], "swiglu_clamp_shexp": [0.0, 0.6, 0.0, 0.5]}
        | LISTED
        | ROUTED,
        step35,
        more=HALVES,
    ),
    "xverse": row("xverse", sizes(), PLAIN),
}
