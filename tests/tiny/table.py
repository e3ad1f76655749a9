"""Tiny models, a row each: keys and the shapes of tensors [out, in], as the files of real models have them.

All have 512 tokens. A row of an architecture shows every formula that its graph has: no two sizes that a mistake could
mix up, biases and norm weights away from 0 and 1, windows shorter than a test's prompt.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

Shapes = dict[str, tuple[int, ...]]
V, D = 512, 128


@dataclass(frozen=True)
class Row:
    """A model: `layer(il)` gives the tensors of a layer, `head` whether the output matrix is one of its own.

    `final` is the norm in front of the output, "" where that has no weights.
    """

    architecture: str
    keys: dict[str, Any]
    layer: Callable[[int], Shapes]
    layers: int = 2
    n_embd: int = D
    head: bool = True
    final: str = "output_norm"
    more: Shapes = field(default_factory=dict)


def attention(heads: int, kv: int, dim: int = 64, n_embd: int = D) -> Shapes:
    return {
        "attn_norm.weight": (n_embd,),
        "attn_q.weight": (heads * dim, n_embd),
        "attn_k.weight": (kv * dim, n_embd),
        "attn_v.weight": (kv * dim, n_embd),
        "attn_output.weight": (n_embd, heads * dim),
    }


def biases(shapes: Shapes, *names: str) -> Shapes:
    """With a bias for each of the matrices."""
    also = {f"{name}.bias": shapes[f"{name}.weight"][:-1] for name in names}
    return shapes | also


def gated(width: int, suffix: str = "", n_embd: int = D) -> Shapes:
    return {
        f"ffn_gate{suffix}.weight": (width, n_embd),
        f"ffn_up{suffix}.weight": (width, n_embd),
        f"ffn_down{suffix}.weight": (n_embd, width),
    }


def experts(count: int, width: int) -> Shapes:
    stacked = {name: (count, *shape) for name, shape in gated(width, "_exps").items()}
    return {"ffn_gate_inp.weight": (count, D)} | stacked


def norms(*names: str, width: int = D) -> Shapes:
    return {f"{name}.weight": (width,) for name in names}


QK_NORM = norms("attn_q_norm", "attn_k_norm", width=64)
QKV = ("attn_q", "attn_k", "attn_v")


def sizes(heads: int, kv: int, ffn: int, eps: float, **more: Any) -> dict[str, Any]:
    """Keys that every file has; `more` in the spelling of keywords: one _ for each dot is not possible, so two."""
    keys = {
        "feed_forward_length": ffn,
        "attention.head_count": heads,
        "attention.head_count_kv": kv,
        "attention.layer_norm_rms_epsilon": eps,
    }
    return keys | {name.replace("__", "."): value for name, value in more.items()}


def llama(ffn: int = 256, n_embd: int = D, heads: int = 2) -> Callable[[int], Shapes]:
    shapes = attention(heads, heads // 2, n_embd=n_embd) | norms("ffn_norm", width=n_embd)
    return lambda il: shapes | gated(ffn, n_embd=n_embd)


def bitnet(kv: int, heads: int = 2, n_embd: int = D) -> Callable[[int], Shapes]:
    shapes = attention(heads, kv, n_embd=n_embd) | gated(2 * n_embd, n_embd=n_embd)
    inner = norms("attn_sub_norm", "ffn_norm", width=n_embd) | norms("ffn_sub_norm", width=2 * n_embd)
    return lambda il: shapes | inner


def gemma(ffn: int) -> Shapes:
    around = norms("ffn_norm", "post_attention_norm", "post_ffw_norm")
    return attention(2, 1) | around | gated(ffn)


def deepseek2(queries: Shapes, rank: int, latent: Shapes, moe: Shapes) -> Callable[[int], Shapes]:
    """The first layer dense, the others of experts."""
    row = {
        "attn_kv_a_mqa.weight": (rank + 32, D),
        "attn_kv_a_norm.weight": (rank,),
        "attn_output.weight": (D, 256),
    }
    shapes = norms("attn_norm", "ffn_norm") | queries | row | latent
    return lambda il: shapes | (moe if il else gated(256))


def llama4(il: int) -> Shapes:
    moe = experts(4, 128) | gated(128, "_shexp")
    return attention(2, 1) | norms("ffn_norm") | (moe if il % 2 else gated(256))


def glm4moe(il: int) -> Shapes:
    shapes = biases(attention(2, 1), *QKV) | QK_NORM | norms("post_attention_norm")
    moe = experts(8, 128) | {"exp_probs_b.bias": (8,)} | gated(128, "_shexp")
    return shapes | (moe if il else gated(256))


def gpt_oss(il: int) -> Shapes:
    shapes = biases(attention(2, 1), *QKV, "attn_output") | {"attn_sinks.weight": (2,)}
    moe = biases(experts(8, 128), "ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
    return shapes | norms("post_attention_norm") | moe


def phi3(il: int) -> Shapes:
    joined = {"attn_qkv.weight": (3 * D, D), "ffn_up.weight": (512, D), "ffn_down.weight": (D, 256)}
    return norms("attn_norm", "ffn_norm") | joined | {"attn_output.weight": (D, D)}


ROPE_FREQS: Shapes = {"rope_freqs.weight": (32,)}
YARN = {"rope__scaling__type": "yarn", "rope__scaling__original_context_length": 64}
HEAD_64 = {"attention__key_length": 64, "attention__value_length": 64}
MLA_KEYS = {
    "leading_dense_block_count": 1,
    "rope__dimension_count": 32,
    "rope__freq_base": 1e4,
    "rope__scaling__factor": 40.0,
    "expert_shared_count": 1,
} | YARN

SMALL = Row(  # odd sizes and five layers, in F32
    "llama",
    sizes(8, 4, 172, 1e-5, rope__dimension_count=8),
    lambda il: attention(8, 4, 8, 64) | norms("ffn_norm", width=64) | gated(172, n_embd=64),
    layers=5,
    n_embd=64,
    head=False,
)

ROWS = {
    "llama": Row(
        "llama",
        sizes(2, 1, 256, 1e-5, rope__dimension_count=64, rope__freq_base=5e5),
        llama(),
        more=ROPE_FREQS,
    ),
    "mixtral": Row(
        "llama",
        sizes(2, 1, 128, 1e-2, rope__dimension_count=64, expert_count=8, expert_used_count=2),
        lambda il: attention(2, 1) | norms("ffn_norm") | experts(8, 128),
    ),
    "qwen2": Row(
        "qwen2",
        sizes(2, 1, 256, 1e-6, rope__freq_base=1e6),
        lambda il: biases(attention(2, 1), *QKV) | norms("ffn_norm") | gated(256),
        head=False,
    ),
    "qwen2moe": Row(
        "qwen2moe",
        sizes(2, 2, 256, 1e-6, expert_count=8, expert_used_count=4)
        | {"expert_feed_forward_length": 128, "expert_shared_feed_forward_length": 128},
        lambda il: (
            biases(attention(2, 2), *QKV)
            | norms("ffn_norm")
            | experts(8, 128)
            | gated(128, "_shexp")
            | {"ffn_gate_inp_shexp.weight": (D,)}
        ),
    ),
    "qwen3": Row(
        "qwen3",
        sizes(4, 2, 256, 1e-6, **HEAD_64, rope__freq_base=1e6),
        lambda il: attention(4, 2) | QK_NORM | norms("ffn_norm") | gated(256),
        head=False,
    ),
    "qwen3moe": Row(
        "qwen3moe",
        sizes(4, 2, 256, 1e-2, **HEAD_64, rope__freq_base=1e6, expert_count=16, expert_used_count=4)
        | {"expert_feed_forward_length": 128},
        lambda il: attention(4, 2) | QK_NORM | norms("ffn_norm") | experts(16, 128),
    ),
    "gemma2": Row(
        "gemma2",
        sizes(2, 1, 256, 1e-6, **HEAD_64, attention__sliding_window=16)
        | {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 5.0},
        lambda il: gemma(256),
        head=False,
    ),
    "gemma3": Row(
        "gemma3",
        sizes(2, 1, 128, 1e-6, **HEAD_64, attention__sliding_window=16, rope__freq_base=1e6),
        lambda il: gemma(128) | QK_NORM,
        layers=7,
        head=False,
    ),
    "phi3": Row("phi3", sizes(2, 2, 256, 1e-5, rope__dimension_count=64), phi3),
    "llama4": Row(
        "llama4",
        sizes(2, 1, 256, 1e-5, **HEAD_64, rope__dimension_count=64, rope__freq_base=5e5)
        | {"expert_count": 4, "expert_used_count": 1, "expert_feed_forward_length": 128}
        | {"interleave_moe_layer_step": 2},
        llama4,
        layers=4,
    ),
    "deepseek2-lite": Row(
        "deepseek2",
        sizes(4, 4, 256, 1e-6, **MLA_KEYS, rope__scaling__yarn_log_multiplier=0.0707)
        | {"attention.kv_lora_rank": 128, "attention.key_length": 96, "attention.value_length": 64}
        | {"expert_feed_forward_length": 64, "expert_count": 4, "expert_used_count": 2}
        | {"expert_weights_scale": 1.0, "expert_gating_func": 1},
        deepseek2(
            {"attn_q.weight": (384, D)},
            128,
            {"attn_kv_b.weight": (512, 128)},
            experts(4, 64) | gated(64, "_shexp"),
        ),
        layers=27,
    ),
    "deepseek2-v3": Row(
        "deepseek2",
        sizes(4, 1, 256, 1e-6, **MLA_KEYS, rope__scaling__yarn_log_multiplier=0.1)
        | {"attention.kv_lora_rank": 256, "attention.q_lora_rank": 128}
        | {"attention.key_length": 288, "attention.value_length": 256}
        | {"attention.key_length_mla": 96, "attention.value_length_mla": 64}
        | {"expert_feed_forward_length": 128, "expert_count": 16, "expert_used_count": 4}
        | {"expert_weights_scale": 2.5, "expert_weights_norm": True, "expert_gating_func": 2}
        | {"expert_group_count": 4, "expert_group_used_count": 2},
        deepseek2(
            {"attn_q_a.weight": (128, D), "attn_q_a_norm.weight": (128,), "attn_q_b.weight": (384, 128)},
            256,
            {"attn_k_b.weight": (4, 256, 64), "attn_v_b.weight": (4, 64, 256)},
            experts(16, 128) | {"exp_probs_b.bias": (16,)} | gated(128, "_shexp"),
        ),
    ),
    "glm4moe": Row(
        "glm4moe",
        sizes(2, 1, 256, 1e-5, **HEAD_64, rope__dimension_count=32, leading_dense_block_count=1)
        | {"expert_count": 8, "expert_used_count": 2, "expert_feed_forward_length": 128}
        | {"expert_shared_count": 1, "expert_weights_scale": 1.0, "expert_weights_norm": True}
        | {"expert_gating_func": 2},
        glm4moe,
        layers=3,
    ),
    "gpt-oss": Row(
        "gpt-oss",
        sizes(2, 1, 128, 1e-5, **HEAD_64, attention__sliding_window=16, rope__freq_base=150000.0)
        | {"expert_count": 8, "expert_used_count": 4, "expert_feed_forward_length": 128}
        | {"rope.scaling.type": "yarn", "rope.scaling.factor": 32.0}
        | {"rope.scaling.original_context_length": 64},
        gpt_oss,
    ),
    "bitnet": Row(
        "bitnet",
        sizes(2, 2, 256, 1e-5, rope__dimension_count=64)
        | {"rope.scaling.type": "linear", "rope.scaling.factor": 1.0},
        bitnet(2),
        head=False,
    ),
    "bitnet-b1.58": Row(
        "bitnet-b1.58",
        sizes(2, 1, 256, 1e-5, rope__dimension_count=64, rope__freq_base=5e5),
        bitnet(1),
        head=False,
    ),
    "bitnet-25": Row(
        "bitnet-25", sizes(2, 1, 256, 1e-5, rope__dimension_count=64, rope__freq_base=5e5), bitnet(1)
    ),
}

# Four layers of a model of 27, which take seconds to plan: for tests that compare runs with each other.
SHORT = {"deepseek2-short": replace(ROWS["deepseek2-lite"], layers=4)}

# Of those that choose experts: with these no token's last chosen and first left out are nearly alike, which rounding
# would tip.
SEEDS = {
    "mixtral": 38,
    "qwen2moe": 26,
    "qwen3moe": 17,
    "llama4": 36,
    "deepseek2-v3": 20,
    "glm4moe": 18,
    "gpt-oss": 1,
}
