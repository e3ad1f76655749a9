"""Rows of models with LayerNorm, attention beside the feed-forward, learned positions: small, odd sizes, in F32."""

from typing import Any

from tiny.family import (
    DIM,
    FFN,
    HEADS,
    IN_FRONT,
    KV,
    MOE,
    PER_HEAD,
    PLAIN,
    ROUTED,
    SHARED,
    WINDOW,
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
from tiny.table import QKV, Shapes, biases

EPSILON = "attention.layer_norm_epsilon"
MATRICES = (*QKV, "attn_output", "ffn_up", "ffn_down")
OUTPUT_NORM: Shapes = {"output_norm.bias": (D,)}
POSITIONS: Shapes = {"position_embd.weight": (512, D)}
ONE_NORM = attention() | norms("attn_norm") | dense()


def early(**more: Any) -> dict[str, Any]:
    """Keys of a model with LayerNorm, heads as wide as the stream divided by their number."""
    keys = sizes(**more)
    del keys["attention.layer_norm_rms_epsilon"]
    return keys | {EPSILON: 1e-3}


def without(shapes: Shapes, *names: str) -> Shapes:
    return {n: s for n, s in shapes.items() if n.partition(".")[0] not in names}


def biased_norms(shapes: Shapes) -> Shapes:
    """With a bias for each norm of the stream."""
    return shapes | {
        f"{n.removesuffix('.weight')}.bias": s
        for n, s in shapes.items()
        if n.endswith(("attn_norm.weight", "ffn_norm.weight", "attn_norm_2.weight"))
    }


UNGATED = without(PLAIN, "ffn_gate")
ALL_BIASES = biased_norms(biases(UNGATED, *MATRICES))
IN_ONE = joined(attention(), "attn_qkv", *QKV)
ONE_MATRIX = biased_norms(biases(IN_ONE | IN_FRONT | without(dense(), "ffn_gate"), "attn_qkv", *MATRICES[3:]))


def openelm(il: int) -> Shapes:
    heads, kv = OPENELM_HEADS[il], OPENELM_KV[il]
    return joined(attention(heads, kv), "attn_qkv", *QKV) | PER_HEAD | IN_FRONT | dense(OPENELM_FFN[il])


OPENELM_HEADS, OPENELM_KV, OPENELM_FFN = [4, 4, 6, 8], [1, 2, 2, 4], [48, 64, 96, 80]
SIX = attention(6, 6) | norms("attn_norm", "ffn_norm")  # heads: slopes of those behind the fourth lie between
SIX_IN_ONE = joined(SIX, "attn_qkv", *QKV)
ALIBI = {"attention.head_count": 6, "attention.head_count_kv": 6, "attention.max_alibi_bias": 8.0}

EARLY = {
    "apertus": row(
        "apertus",
        sizes()
        | {"xielu.alpha_n": [0.3, 0.5, 0.7, 0.9], "xielu.alpha_p": [0.4, 0.6, 0.8, 1.0]}
        | {"xielu.beta": [0.5, 0.4, 0.5, 0.6], "xielu.eps": [-1e-6, -1e-6, -0.5, -1e-6]},
        biases(UNGATED | PER_HEAD, "attn_output"),
        more=norms("rope_freqs", width=DIM // 2),
    ),
    "baichuan": row("baichuan", sizes(), PLAIN, layers=32),
    "baichuan-13b": row("baichuan", sizes(), PLAIN, layers=40),
    "bloom": row(
        "bloom",
        early() | {n: v for n, v in ALIBI.items() if "alibi" not in n},
        biased_norms(biases(SIX_IN_ONE | without(dense(), "ffn_gate"), "attn_qkv", *MATRICES[3:])),
        more=OUTPUT_NORM | norms("token_embd_norm") | {"token_embd_norm.bias": (D,)},
    ),
    "cohere2": row("cohere2", early(logit_scale=0.4) | WINDOW, ONE_NORM, head=False),
    "cohere2moe": row(
        "cohere2moe",
        early(logit_scale=0.4, leading_dense_block_count=1)
        | {"attention.sliding_window_pattern": [False, True, True, False]}
        | WINDOW
        | ROUTED,
        behind_dense(
            joined(experts(SHARED), "ffn_gate_up_exps", "ffn_gate_exps", "ffn_up_exps"),
            attention() | norms("attn_norm"),
        ),
    ),
    "cohere2moe-rms": row(
        "cohere2moe", sizes(logit_scale=0.4) | WINDOW | MOE, attention() | norms("attn_norm") | experts()
    ),
    "command-r": row("command-r", early(logit_scale=0.4), ONE_NORM, head=False),
    "command-r-plus": row(
        "command-r",
        early(logit_scale=0.4),
        ONE_NORM | {"attn_q_norm.weight": (HEADS, DIM), "attn_k_norm.weight": (KV, DIM)},
        layers=64,
        head=False,
    ),
    "dbrx": row(
        "dbrx",
        early(attention__clamp_kqv=0.8) | MOE,
        IN_ONE | norms("attn_norm", "attn_output_norm") | experts(),
    ),
    "dream": row("dream", sizes(), biases(PLAIN, *QKV), more={"output.bias": (512,)}),
    "exaone": row("exaone", sizes(), PLAIN, more=norms("rope_freqs", width=DIM // 2)),
    "falcon": row(
        "falcon",
        early(),
        biased_norms(IN_ONE | norms("attn_norm") | without(dense(), "ffn_gate")),
        more=OUTPUT_NORM,
    ),
    "falcon-40b": row(
        "falcon",
        early(),
        biased_norms(IN_ONE | norms("attn_norm", "attn_norm_2") | without(dense(), "ffn_gate")),
        more=OUTPUT_NORM,
    ),
    "gpt2": row("gpt2", early(), ONE_MATRIX, more=OUTPUT_NORM | POSITIONS),
    "gptneox": row(
        "gptneox",
        early(rope__dimension_count=8, use_parallel_residual=True),
        ONE_MATRIX,
        more=OUTPUT_NORM,
    ),
    "gptneox-seq": row(
        "gptneox",
        early(rope__dimension_count=8, use_parallel_residual=False),
        ONE_MATRIX,
        more=OUTPUT_NORM,
    ),
    "jais": row(
        "jais",
        early() | ALIBI,
        biased_norms(biases(SIX_IN_ONE | dense(), "attn_qkv", *MATRICES[3:], "ffn_gate")),
        more=OUTPUT_NORM,
    ),
    "llada": row(
        "llada",
        sizes(),
        biases(PLAIN, "attn_output", "ffn_gate", "ffn_up", "ffn_down"),
        more=norms("rope_freqs", width=DIM // 2),
    ),
    "mpt": row(
        "mpt",
        early(attention__clamp_kqv=0.8) | ALIBI,
        norms("attn_q_norm", "attn_k_norm", width=6 * DIM)
        | SIX_IN_ONE
        | without(dense(), "ffn_gate")
        | {"ffn.act.scales": (FFN,)},
        more=POSITIONS,
    ),
    "nemotron": row(
        "nemotron",
        early(rope__dimension_count=8),
        biased_norms(biases(UNGATED, "attn_output", "ffn_up", "ffn_down")),
        more=OUTPUT_NORM,
    ),
    "olmo": row("olmo", early(attention__clamp_kqv=0.8), attention() | dense(), final=""),
    "openelm": row(
        "openelm",
        sizes()
        | {"attention.head_count": OPENELM_HEADS, "attention.head_count_kv": OPENELM_KV}
        | {"feed_forward_length": OPENELM_FFN},
        openelm,
        head=False,
    ),
    "orion": row("orion", early(), biased_norms(PLAIN), more=OUTPUT_NORM),
    "pangu-embedded": row("pangu-embedded", sizes(), biases(PLAIN, *QKV, "attn_output")),
    "phi2": row(
        "phi2",
        early(rope__dimension_count=8),
        without(ALL_BIASES, "ffn_norm"),
        more=OUTPUT_NORM | {"output.bias": (512,)},
    ),
    "plamo": row("plamo", sizes(), ONE_NORM),
    "qwen": row("qwen", sizes(), biases(IN_ONE | IN_FRONT | dense(), "attn_qkv")),
    "rnd1": row("rnd1", sizes() | MOE, attention() | PER_HEAD | IN_FRONT | experts()),
    "stablelm": row(
        "stablelm",
        early(rope__dimension_count=8),
        biased_norms(biases(PLAIN, *QKV)),
        more=OUTPUT_NORM,
    ),
    "stablelm-12b": row(
        "stablelm",
        early(rope__dimension_count=8),
        biased_norms(ONE_NORM | {"attn_q_norm.weight": (HEADS, DIM), "attn_k_norm.weight": (KV, DIM)}),
        more=OUTPUT_NORM,
    ),
    "starcoder": row("starcoder", early(), ONE_MATRIX, more=OUTPUT_NORM | POSITIONS),
    "starcoder2": row("starcoder2", early(), ALL_BIASES, more=OUTPUT_NORM),
}
