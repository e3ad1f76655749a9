"""The families that convert knows: each as its differences from Llama."""

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Final

from graphsched.arch.blocks.moe import SIGMOID, SOFTMAX
from graphsched.convert import computed, delta
from graphsched.convert.names import Family
from graphsched.errors import LoadError
from graphsched.gguf.format import shown

_GELU: Final = ("gelu_pytorch_tanh",)
_WINDOW: Final = {"sliding_window": "attention.sliding_window"}
# Norms in front of and behind attention and feed-forward.
_AROUND: Final = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_BEHIND: Final = {name: part for name, part in _AROUND.items() if part != "ffn_norm"}
_GLM: Final = {
    "post_self_attn_layernorm": "post_attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "post_mlp_layernorm": "post_ffw_norm",
}
_GRANITE: Final = {
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "attention_multiplier": "attention.scale",
    "logits_scaling": "logit_scale",
}
_HUNYUAN: Final = {
    "self_attn.query_layernorm": "attn_q_norm",
    "self_attn.key_layernorm": "attn_k_norm",
    "mlp.gate.wg": "ffn_gate_inp",
    "mlp.shared_mlp.gate_proj": "ffn_gate_shexp",
    "mlp.shared_mlp.up_proj": "ffn_up_shexp",
    "mlp.shared_mlp.down_proj": "ffn_down_shexp",
}
_SHARED: Final = {
    "n_routed_experts": "expert_count",
    "n_shared_experts": "expert_shared_count",
    "first_k_dense_replace": "leading_dense_block_count",
}
_ROUTED: Final = {"routed_scaling_factor": "expert_weights_scale"}
_NORMED: Final = {"norm_topk_prob": "expert_weights_norm"}
_ONE_GROUP: Final = {"n_group": 1, "topk_group": 1}
_LAYER_NORM: Final = ("layer_norm_eps", "attention.layer_norm_epsilon")

_LATENT: Final = {
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b",
}
_LATENT_COUNTS: Final = {
    "q_lora_rank": "attention.q_lora_rank",
    "kv_lora_rank": "attention.kv_lora_rank",
    "n_group": "expert_group_count",
    "topk_group": "expert_group_used_count",
}
_LFM2: Final = {
    "operator_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
    "self_attn.q_layernorm": "attn_q_norm",
    "self_attn.k_layernorm": "attn_k_norm",
    "self_attn.out_proj": "attn_output",
    "conv.in_proj": "shortconv.in_proj",
    "conv.out_proj": "shortconv.out_proj",
    "conv.conv": "shortconv.conv",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w3": "ffn_up",
    "feed_forward.w2": "ffn_down",
}


_QWEN35: Final = Family(
    arch="qwen35",
    parts=delta.NAMES,
    adds_one=True,
    keeps_one=("ssm_norm.weight",),
    is_partial=True,
    exact=delta.EXACT,
    made=delta.MADE,
    more=computed.delta,
)
TEXTS: Final[dict[str, Family]] = {
    "LlamaForCausalLM": Family(arch="llama", is_permuted=True),
    "MistralForCausalLM": Family(arch="llama", is_permuted=True),
    "MixtralForCausalLM": Family(arch="llama", is_permuted=True),
    "Qwen2ForCausalLM": Family(arch="qwen2"),
    "Qwen3ForCausalLM": Family(arch="qwen3"),
    "Qwen3MoeForCausalLM": Family(arch="qwen3moe", refused={"norm_topk_prob": True}),
    "Qwen2MoeForCausalLM": Family(
        arch="qwen2moe",
        counts={"shared_expert_intermediate_size": "expert_shared_feed_forward_length"},
        refused={"norm_topk_prob": False, "decoder_sparse_step": 1, "mlp_only_layers": []},
    ),
    "BitnetForCausalLM": Family(arch="bitnet", is_ternary=True),
    "BitNetForCausalLM": Family(arch="bitnet-b1.58", is_ternary=True, acts=("relu2",)),
    "GemmaForCausalLM": Family(arch="gemma", adds_one=True, acts=(*_GELU, "gelu")),
    "Gemma2ForCausalLM": Family(
        arch="gemma2",
        parts=_AROUND,
        adds_one=True,
        acts=_GELU,
        windows=True,
        counts=_WINDOW,
        numbers={
            "attn_logit_softcapping": "attn_logit_softcapping",
            "final_logit_softcapping": "final_logit_softcapping",
        },
    ),
    "Gemma3ForCausalLM": Family(
        arch="gemma3",
        parts=_AROUND,
        adds_one=True,
        acts=_GELU,
        windows=True,
        counts=_WINDOW | {"sliding_window_pattern": "attention.sliding_window_pattern"},
        numbers={"rope_local_base_freq": "rope.freq_base_swa"},
    ),
    "Phi3ForCausalLM": Family(arch="phi3", windows=True, counts=_WINDOW, is_partial=True),
    "Olmo2ForCausalLM": Family(arch="olmo2", parts=_BEHIND),
    "OlmoeForCausalLM": Family(arch="olmoe", refused={"norm_topk_prob": False, "clip_qkv": None}),
    "GraniteForCausalLM": Family(arch="granite", is_permuted=True, numbers=_GRANITE),
    "GraniteMoeForCausalLM": Family(
        arch="granitemoe",
        is_permuted=True,
        numbers=_GRANITE,
        parts={"block_sparse_moe.router.layer": "ffn_gate_inp"},
    ),
    "SmolLM3ForCausalLM": Family(arch="smollm3", is_permuted=True, refused={"no_rope_layer_interval": 4}),
    "SeedOssForCausalLM": Family(arch="seed_oss", parts={"post_attention_layernorm": "post_attention_norm"}),
    "ArceeForCausalLM": Family(arch="arcee", is_permuted=True, acts=("relu2",)),
    "Glm4ForCausalLM": Family(arch="glm4", parts=_GLM, is_partial=True),
    "Glm4MoeForCausalLM": Family(
        arch="glm4moe",
        parts={"post_attention_layernorm": "post_attention_norm"},
        is_partial=True,
        counts=_SHARED,
        numbers=_ROUTED,
        flags=_NORMED,
        fixed={"expert_gating_func": SIGMOID},
        refused=_ONE_GROUP,
    ),
    "Dots1ForCausalLM": Family(
        arch="dots1",
        counts=_SHARED,
        numbers=_ROUTED,
        flags=_NORMED,
        fixed={"expert_gating_func": SIGMOID},
        refused=_ONE_GROUP,
    ),
    "Ernie4_5ForCausalLM": Family(arch="ernie4_5"),
    "Ernie4_5_MoeForCausalLM": Family(
        arch="ernie4_5-moe",
        counts={
            "moe_num_experts": "expert_count",
            "moe_k": "expert_used_count",
            "moe_num_shared_experts": "expert_shared_count",
            "moe_layer_start_index": "leading_dense_block_count",
            "moe_layer_interval": "interleave_moe_layer_step",
        },
        refused={"moe_layer_end_index": -1},
    ),
    "CohereForCausalLM": Family(arch="command-r", eps=_LAYER_NORM, numbers={"logit_scale": "logit_scale"}),
    "Cohere2ForCausalLM": Family(
        arch="cohere2",
        eps=_LAYER_NORM,
        windows=True,
        counts=_WINDOW | {"sliding_window_pattern": "attention.sliding_window_pattern"},
        numbers={"logit_scale": "logit_scale"},
    ),
    "Exaone4ForCausalLM": Family(
        arch="exaone4", parts=_BEHIND, windows=True, counts=_WINDOW, more=computed.window_of_64_layers
    ),
    "HunYuanDenseV1ForCausalLM": Family(arch="hunyuan-dense", parts=_HUNYUAN),
    "HunYuanMoEV1ForCausalLM": Family(
        arch="hunyuan-moe",
        parts=_HUNYUAN,
        counts={"moe_topk": "expert_used_count", "num_shared_expert": "expert_shared_count"},
    ),
    "DeepseekV2ForCausalLM": Family(
        arch="deepseek2",
        parts=_LATENT,
        counts=_SHARED | {name: _LATENT_COUNTS[name] for name in ("q_lora_rank", "kv_lora_rank")},
        numbers=_ROUTED,
        flags=_NORMED,
        fixed={"expert_gating_func": SOFTMAX},
        more=computed.latent,
        refused={"topk_method": "greedy"},
    ),
    "DeepseekV3ForCausalLM": Family(
        arch="deepseek2",
        parts=_LATENT,
        counts=_SHARED | _LATENT_COUNTS,
        numbers=_ROUTED,
        flags=_NORMED,
        fixed={"expert_gating_func": SIGMOID},
        more=computed.latent,
    ),
    "Lfm2ForCausalLM": Family(
        arch="lfm2",
        parts=_LFM2,
        eps=("norm_eps", "attention.layer_norm_rms_epsilon"),
        more=computed.short_convolutions,
        refused={"conv_bias": False},
    ),
    "Lfm2MoeForCausalLM": Family(
        arch="lfm2moe",
        parts=_LFM2 | {"feed_forward.gate": "ffn_gate_inp"},
        eps=("norm_eps", "attention.layer_norm_rms_epsilon"),
        counts={"num_dense_layers": "leading_dense_block_count"},
        fixed={"expert_gating_func": SIGMOID},
        more=computed.short_convolutions,
        refused={"conv_bias": False, "norm_topk_prob": True, "routed_scaling_factor": 1.0},
    ),
    "AfmoeForCausalLM": Family(
        arch="afmoe",
        parts={
            "post_attention_layernorm": "post_attention_norm",
            "pre_mlp_layernorm": "ffn_norm",
            "post_mlp_layernorm": "post_ffw_norm",
            "self_attn.gate_proj": "attn_gate",
            "mlp.router.gate": "ffn_gate_inp",
        },
        windows=True,
        counts={
            **_WINDOW,
            "global_attn_every_n_layers": "attention.sliding_window_pattern",
            "num_dense_layers": "leading_dense_block_count",
            "num_shared_experts": "expert_shared_count",
        },
        numbers={"route_scale": "expert_weights_scale"},
        fixed={"expert_gating_func": SIGMOID, "expert_weights_norm": True},
        refused=_ONE_GROUP | {"mup_enabled": True, "score_func": "sigmoid", "route_norm": True},
    ),
    "ExaoneMoeForCausalLM": Family(
        arch="exaone-moe",
        windows=True,
        counts={
            **_WINDOW,
            "num_shared_experts": "expert_shared_count",
            "first_k_dense_replace": "leading_dense_block_count",
        },
        numbers=_ROUTED,
        flags=_NORMED,
        fixed={"expert_gating_func": SIGMOID},
        more=computed.pattern_of_windows,
        refused=_ONE_GROUP,
    ),
    "HYV3ForCausalLM": Family(
        arch="hy_v3",
        parts=_HUNYUAN | {"mlp.router.gate": "ffn_gate_inp"},
        counts={"num_shared_experts": "expert_shared_count"},
        numbers={"router_scaling_factor": "expert_weights_scale"},
        fixed={"expert_gating_func": SIGMOID, "expert_weights_norm": True},
        more=computed.leading_dense,
    ),
    "Qwen3_5ForCausalLM": _QWEN35,
    "Qwen3_5MoeForCausalLM": replace(
        _QWEN35,
        arch="qwen35moe",
        counts={"shared_expert_intermediate_size": "expert_shared_feed_forward_length"},
        refused={"norm_topk_prob": True},
    ),
    "Qwen3NextForCausalLM": replace(
        _QWEN35,
        arch="qwen3next",
        parts=delta.GROUPED_NAMES,
        made=delta.GROUPED,
        counts={"shared_expert_intermediate_size": "expert_shared_feed_forward_length"},
        more=delta.keys,
        refused={"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []},
    ),
    "Ministral3ForCausalLM": Family(arch="mistral3", is_permuted=True, more=computed.sharpened),
    "MiniMaxM2ForCausalLM": Family(
        arch="minimax-m2",
        is_partial=True,
        counts={"intermediate_size": "expert_feed_forward_length"},
        fixed={"expert_gating_func": SIGMOID},
    ),
}


FAMILIES: Final[Mapping[str, Family]] = TEXTS | {
    "Gemma3ForConditionalGeneration": replace(TEXTS["Gemma3ForCausalLM"], has_towers=True),
    "Mistral3ForConditionalGeneration": replace(
        TEXTS["MistralForCausalLM"], has_towers=True, refused={"model_type": "mistral"}
    ),
    "Qwen3_5ForConditionalGeneration": replace(_QWEN35, has_towers=True),
    "Qwen3_5MoeForConditionalGeneration": replace(TEXTS["Qwen3_5MoeForCausalLM"], has_towers=True),
    "Qwen3VLForConditionalGeneration": Family(arch="qwen3vl", has_towers=True, more=computed.sections),
    "Qwen3VLMoeForConditionalGeneration": Family(
        arch="qwen3vlmoe", has_towers=True, more=computed.sections, refused={"norm_topk_prob": True}
    ),
}


def of_architecture(names: object, where: str, known: Mapping[str, Family] = FAMILIES) -> Family:
    """The family that `architectures` of a config names."""
    name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    if name not in known:
        what = f"architecture {shown(name)}" if name else "no architecture"
        nearest = ", ".join(get_close_matches(name, known, 3, 0.0))
        raise LoadError(f"{where}: {what}; of the {len(known)} that convert knows the nearest are {nearest}")
    return known[name]
