"""The families that `convert` knows: names of their tensors and keys of their configs as they are published."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hf_folders import CONFIG, N_VOCAB, WIDTH, Floats, drawn, folder_of

from graphsched.convert.checkpoint import OfText
from graphsched.convert.config import HfConfig, check_plain, metadata
from graphsched.convert.families import FAMILIES, of_architecture
from graphsched.convert.names import IN_LAYER, Family, fused_names, gguf_name
from graphsched.convert.vocab import tokenizer
from graphsched.errors import LoadError
from graphsched.gguf.loader import open_model

ARCHITECTURES = Path(__file__).resolve().parents[1] / "graphsched" / "data" / "architectures.json"
# Where the library calls a tensor as other families do, and files of this one do not.
OTHERWISE = {("seed_oss", "post_attention_layernorm"), ("glm4moe", "post_attention_layernorm")}


def config(**values: Any) -> HfConfig:
    return HfConfig(CONFIG | values, "config.json")


def keys(name: str, **values: Any) -> Mapping[str, Any]:
    family = FAMILIES[name]
    found = metadata(config(**values), family)
    return {key.removeprefix(f"{family.arch}."): value for key, value in found.items()}


@pytest.mark.parametrize(
    ("family", "name", "expected"),
    [
        ("Gemma2ForCausalLM", "post_attention_layernorm.weight", "post_attention_norm.weight"),
        ("Gemma2ForCausalLM", "pre_feedforward_layernorm.weight", "ffn_norm.weight"),
        ("Gemma3ForCausalLM", "post_feedforward_layernorm.weight", "post_ffw_norm.weight"),
        ("Phi3ForCausalLM", "self_attn.qkv_proj.weight", "attn_qkv.weight"),
        ("Phi3ForCausalLM", "mlp.gate_up_proj.weight", "ffn_up.weight"),
        ("Olmo2ForCausalLM", "post_attention_layernorm.weight", "post_attention_norm.weight"),
        ("Glm4ForCausalLM", "post_self_attn_layernorm.weight", "post_attention_norm.weight"),
        ("Glm4ForCausalLM", "post_attention_layernorm.weight", "ffn_norm.weight"),
        ("Glm4MoeForCausalLM", "mlp.gate.e_score_correction_bias", "exp_probs_b.bias"),
        ("Glm4MoeForCausalLM", "mlp.shared_experts.up_proj.weight", "ffn_up_shexp.weight"),
        ("Ernie4_5_MoeForCausalLM", "mlp.moe_statics.e_score_correction_bias", "exp_probs_b.bias"),
        ("MiniMaxM2ForCausalLM", "block_sparse_moe.e_score_correction_bias", "exp_probs_b.bias"),
        ("MiniMaxM2ForCausalLM", "block_sparse_moe.experts.0.w3.weight", "ffn_up_exps.weight"),
        ("Qwen2MoeForCausalLM", "mlp.shared_expert_gate.weight", "ffn_gate_inp_shexp.weight"),
        ("HunYuanMoEV1ForCausalLM", "self_attn.query_layernorm.weight", "attn_q_norm.weight"),
        ("HunYuanMoEV1ForCausalLM", "mlp.gate.wg.weight", "ffn_gate_inp.weight"),
        ("GraniteMoeForCausalLM", "block_sparse_moe.router.layer.weight", "ffn_gate_inp.weight"),
        ("SeedOssForCausalLM", "self_attn.q_proj.bias", "attn_q.bias"),
        ("LlamaForCausalLM", "post_feedforward_layernorm.weight", None),
    ],
)
def test_names_of_a_family(family: str, name: str, expected: str | None) -> None:
    found = gguf_name(f"model.layers.2.{name}", FAMILIES[family])
    assert found == (expected and (f"blk.2.{expected}", 0))


KNOWN = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
SHARED = {name: family for name, family in FAMILIES.items() if family.arch in KNOWN}


@pytest.mark.parametrize("family", SHARED.values(), ids=SHARED)
def test_names_are_those_of_the_library(family: Family) -> None:
    """Wherever the gguf package knows the architecture and the tensor, and ours reads it."""
    names = gguf.get_tensor_name_map(KNOWN[family.arch], 4)
    about = json.loads(ARCHITECTURES.read_text())[family.arch]
    reads = {*about["tensors"], *about["optional"]}
    for part, ours in {**IN_LAYER, **family.parts}.items():
        theirs = names.get_name(f"model.layers.1.{part}.weight", try_suffixes=(".weight",))
        if theirs and f"blk.N.{ours}.weight" in reads and (family.arch, part) not in OTHERWISE:
            assert theirs == f"blk.1.{ours}.weight", part


def test_experts_of_granite_are_cut_in_two() -> None:
    assert fused_names("model.layers.3.block_sparse_moe.input_linear.weight") == (
        "blk.3.ffn_gate_exps.weight",
        "blk.3.ffn_up_exps.weight",
    )
    assert fused_names("model.layers.3.block_sparse_moe.output_linear.weight") == (
        "blk.3.ffn_down_exps.weight",
    )


def test_keys_of_windows_caps_and_factors() -> None:
    found = keys(
        "Gemma2ForCausalLM", sliding_window=32, attn_logit_softcapping=50.0, final_logit_softcapping=30.0
    )
    assert found["attention.sliding_window"] == 32
    assert (found["attn_logit_softcapping"], found["final_logit_softcapping"]) == (50.0, 30.0)
    found = keys("GraniteForCausalLM", embedding_multiplier=12.0, logits_scaling=8, attention_multiplier=0.1)
    assert (found["embedding_scale"], found["logit_scale"], found["attention.scale"]) == (12.0, 8.0, 0.1)
    found = keys("Cohere2ForCausalLM", layer_norm_eps=1e-4, logit_scale=0.25)
    assert found["attention.layer_norm_epsilon"] == 1e-4
    assert "attention.layer_norm_rms_epsilon" not in found


def test_keys_of_heads_that_turn_in_part() -> None:
    assert keys("Glm4ForCausalLM", partial_rotary_factor=0.5)["rope.dimension_count"] == WIDTH // 4 // 2
    assert (
        keys("Glm4ForCausalLM", rope_parameters={"partial_rotary_factor": 0.25})["rope.dimension_count"] == 4
    )
    assert keys("MiniMaxM2ForCausalLM", rotary_dim=6)["rope.dimension_count"] == 6


def test_keys_of_experts() -> None:
    routed = {"n_routed_experts": 8, "n_shared_experts": 0, "first_k_dense_replace": 0}
    found = keys("Glm4MoeForCausalLM", **routed, norm_topk_prob=True, routed_scaling_factor=2.5)
    assert (found["expert_count"], found["expert_shared_count"], found["leading_dense_block_count"]) == (
        8,
        0,
        0,
    )
    assert (found["expert_gating_func"], found["expert_weights_norm"]) == (2, True)
    assert found["expert_weights_scale"] == 2.5
    found = keys("Ernie4_5_MoeForCausalLM", moe_num_experts=8, moe_k=2, moe_layer_start_index=1)
    assert (found["expert_count"], found["expert_used_count"], found["leading_dense_block_count"]) == (
        8,
        2,
        1,
    )


@pytest.mark.parametrize(
    ("family", "values", "sentence"),
    [
        (
            "Qwen2MoeForCausalLM",
            {"norm_topk_prob": True},
            "norm_topk_prob is true, qwen2moe models have false",
        ),
        (
            "Qwen3MoeForCausalLM",
            {"norm_topk_prob": False},
            "norm_topk_prob is false, qwen3moe models have true",
        ),
        ("OlmoeForCausalLM", {"clip_qkv": 8.0}, "clip_qkv is 8.0, olmoe models have null"),
        ("Glm4MoeForCausalLM", {"n_group": 4}, "n_group is 4, glm4moe models have 1"),
        (
            "LlamaForCausalLM",
            {"partial_rotary_factor": 0.5},
            "partial_rotary_factor is 0.5, llama models turn all",
        ),
        (
            "GemmaForCausalLM",
            {"hidden_act": "silu"},
            "hidden_act is silu, gemma models have gelu_pytorch_tanh",
        ),
        ("Ernie4_5_MoeForCausalLM", {"moe_layer_end_index": 3}, "moe_layer_end_index is 3"),
    ],
)
def test_what_an_architecture_does_not_compute_is_refused(
    family: str, values: Mapping[str, Any], sentence: str
) -> None:
    with pytest.raises(LoadError, match=sentence):
        check_plain(config(**values), FAMILIES[family])


@pytest.mark.parametrize(
    "values", [{"n_shared_experts": -1}, {"norm_topk_prob": 1}, {"routed_scaling_factor": "x"}]
)
def test_values_of_another_kind_are_refused(values: Mapping[str, Any]) -> None:
    with pytest.raises(LoadError, match=f"key {next(iter(values))} is "):
        keys("Glm4MoeForCausalLM", **values)


def test_an_unknown_class_is_told_the_nearest_ones() -> None:
    with pytest.raises(
        LoadError, match=r"architecture Qwen3NewForCausalLM; .* nearest are Qwen3\w*ForCausalLM, "
    ):
        of_architecture(["Qwen3NewForCausalLM"], "config.json")


def test_norms_of_gemma_have_their_one(tmp_path: Path) -> None:
    from graphsched.cli.main import run

    tensors: dict[str, Floats] = {name: t for name, t in drawn().items() if name != "lm_head.weight"}
    changes = {
        "architectures": ["GemmaForCausalLM"],
        "hidden_act": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
    }
    folder = folder_of(tmp_path / "hf", tensors, config=changes)
    out = tmp_path / "gemma.gguf"
    assert run(["convert", str(folder), str(out), "--outtype", "f32"]) == 0
    file = open_model(out)
    norm = file.raw("blk.1.ffn_norm.weight").view(np.float32)
    assert np.array_equal(norm, tensors["model.layers.1.post_attention_layernorm.weight"] + np.float32(1))
    matrix = file.raw("blk.1.ffn_up.weight").view(np.float32)
    assert np.array_equal(matrix, tensors["model.layers.1.mlp.up_proj.weight"].reshape(-1))


@pytest.mark.parametrize("where", ["config.json", "generation_config.json"])
def test_further_ends_are_kept(tmp_path: Path, where: str) -> None:
    ends = [N_VOCAB - 26, N_VOCAB - 27, N_VOCAB - 28]  # <|im_end|>, <|im_start|>, <|bos|>
    folder = folder_of(tmp_path / "hf")
    values = json.loads((folder / "config.json").read_text()) if where == "config.json" else {}
    (folder / where).write_text(json.dumps(values | {"eos_token_id": ends}))
    found = tokenizer(folder, N_VOCAB)
    assert found["tokenizer.ggml.eos_token_id"] == ends[0]
    assert found["tokenizer.ggml.eot_token_id"] == ends[1]
    assert found["tokenizer.ggml.eom_token_id"] == ends[2]


def test_short_convolutions() -> None:
    kinds = ["conv", "full_attention"]
    found = keys("Lfm2ForCausalLM", layer_types=kinds, conv_L_cache=3, block_auto_adjust_ff_dim=True)
    assert list(found["attention.head_count_kv"]) == [0, 2]
    assert (found["shortconv.l_cache"], found["feed_forward_length"]) == (3, 256)
    with pytest.raises(LoadError, match="layer_types is no list with an entry for each layer"):
        keys("Lfm2ForCausalLM", layer_types=["conv"], conv_L_cache=3)


def test_latent_heads() -> None:
    latent = {"qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12, "kv_lora_rank": 32}
    scaling = {"type": "yarn", "factor": 4, "original_max_position_embeddings": 64}
    found = keys(
        "DeepseekV3ForCausalLM", **latent, rope_scaling=scaling | {"mscale": 1.0, "mscale_all_dim": 1.0}
    )
    assert (found["attention.key_length"], found["attention.value_length"]) == (24, 12)
    assert (found["rope.dimension_count"], found["rope.scaling.yarn_log_multiplier"]) == (8, 0.1)
    with pytest.raises(LoadError, match="mscale and mscale_all_dim differ"):
        keys("DeepseekV3ForCausalLM", **latent, rope_scaling=scaling | {"mscale": 1.0, "mscale_all_dim": 0.5})
    with pytest.raises(LoadError, match='topk_method is "group_limited_greedy", deepseek2 models have'):
        check_plain(config(topk_method="group_limited_greedy"), FAMILIES["DeepseekV2ForCausalLM"])


# --- the gated delta rule ---

DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 3,
    "linear_conv_kernel_dim": 4,
    "layer_types": ["linear_attention", "full_attention"],
}


def test_value_heads_stand_so_that_key_heads_take_turns() -> None:
    heads = np.arange(6, dtype=np.float32)  # 0, 1, 2 share the first key head
    made = FAMILIES["Qwen3_5ForCausalLM"].made
    order = [0, 3, 1, 4, 2, 5]
    assert made["ssm_dt.bias"](config(**DELTA), heads).tolist() == order
    assert made["ssm_a"](config(**DELTA), heads).tolist() == pytest.approx([-np.exp(i) for i in order])
    gate: Floats = (np.repeat(heads, 3)[:, None] + np.arange(5) / 10).astype(np.float32)
    assert (made["attn_gate.weight"](config(**DELTA), gate)[::3, 0]).tolist() == order
    assert (made["ssm_out.weight"](config(**DELTA), gate.T)[0, ::3]).tolist() == order
    qkv = np.concatenate([np.full((16, 5), -1, np.float32), gate])
    found = made["attn_qkv.weight"](config(**DELTA), qkv)
    assert (found[:16] == -1).all()
    assert found[16::3, 0].tolist() == order
    assert made["ssm_conv1d.weight"](config(**DELTA), qkv[:, None, :4]).shape == (34, 4)


def test_keys_of_the_delta_rule() -> None:
    found = keys("Qwen3_5ForCausalLM", **DELTA, rope_parameters={"partial_rotary_factor": 0.5})
    assert (found["ssm.group_count"], found["ssm.time_step_rank"], found["ssm.inner_size"]) == (2, 6, 18)
    assert found["full_attention_interval"] == 2
    assert sum(found["rope.dimension_sections"]) == WIDTH // 4 // 4
    with pytest.raises(LoadError, match="layer_types has not one full_attention in so many layers"):
        keys("Qwen3_5ForCausalLM", **DELTA | {"layer_types": ["full_attention", "linear_attention"]})
    with pytest.raises(LoadError, match="4 key heads do not divide 6 value heads"):
        FAMILIES["Qwen3_5ForCausalLM"].made["ssm_a"](
            config(**DELTA | {"linear_num_key_heads": 4}), np.zeros(6, np.float32)
        )


def test_qwen_3_next_keeps_the_order_of_its_heads() -> None:
    family = FAMILIES["Qwen3NextForCausalLM"]
    assert gguf_name("model.layers.0.linear_attn.A_log", family) == ("blk.0.ssm_a", 0)
    assert gguf_name("model.layers.0.linear_attn.in_proj_qkvz.weight", family) == ("blk.0.ssm_in.weight", 0)
    heads = np.arange(6, dtype=np.float32)
    assert family.made["ssm_a"](config(**DELTA), heads).tolist() == pytest.approx(-np.exp(heads))
    assert family.made["ssm_conv1d.weight"](config(**DELTA), heads.reshape(2, 1, 3)).shape == (2, 3)
    assert "ssm_dt.bias" not in family.made


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.language_model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        ("language_model.model.norm.weight", "model.norm.weight"),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("lm_head.weight", "lm_head.weight"),
        ("vision_tower.encoder.weight", None),
        ("model.visual.blocks.0.weight", None),
    ],
)
def test_the_text_of_a_model_with_towers(name: str, expected: str | None) -> None:
    class Source:
        where, shapes = "hf", {name: (2, 3)}

    found = OfText(Source())  # type: ignore[arg-type]  # nothing is read
    assert list(found.shapes) == ([] if expected is None else [expected])
    assert found.left_out == ((name,) if expected is None else ())


def test_windows_that_a_file_cannot_say() -> None:
    assert (
        keys("ExaoneMoeForCausalLM", sliding_window_pattern="LLLG")["attention.sliding_window_pattern"] == 4
    )
    assert keys("ExaoneMoeForCausalLM", sliding_window_pattern=3)["attention.sliding_window_pattern"] == 3
    assert "attention.sliding_window_pattern" not in keys("ExaoneMoeForCausalLM")
    with pytest.raises(LoadError, match="sliding_window_pattern is GLLL, as in LLLG is needed"):
        keys("ExaoneMoeForCausalLM", sliding_window_pattern="GLLL")
    assert keys("Exaone4ForCausalLM", sliding_window=None)
    assert (
        keys("Exaone4ForCausalLM", sliding_window=16, num_hidden_layers=64)["attention.sliding_window"] == 16
    )
    with pytest.raises(LoadError, match="sliding_window is of models with 64 layers"):
        keys("Exaone4ForCausalLM", sliding_window=16)


def test_dense_layers_come_first() -> None:
    kinds = ["dense", "sparse", "sparse"]
    assert keys("HYV3ForCausalLM", mlp_layer_types=kinds)["leading_dense_block_count"] == 1
    for wrong in (None, ["sparse", "dense"]):
        with pytest.raises(LoadError, match="mlp_layer_types is no list of dense layers in front"):
            keys("HYV3ForCausalLM", mlp_layer_types=wrong)


def test_queries_that_sharpen() -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8, "beta_fast": 32}
    found = keys("Ministral3ForCausalLM", rope_parameters=scaling | {"llama_4_scaling_beta": 0.1})
    assert found["attention.temperature_scale"] == 0.1
    assert found["rope.scaling.yarn_beta_fast"] == 32.0
    assert found["rope.scaling.type"] == "yarn"


def test_a_config_may_know_the_width_of_experts_only() -> None:
    values = {key: value for key, value in CONFIG.items() if key != "intermediate_size"}
    assert HfConfig(values | {"moe_intermediate_size": 24}, "config.json").expert_width == 24
    with pytest.raises(LoadError, match="key intermediate_size is missing"):
        metadata(HfConfig(values, "config.json"), FAMILIES["LlamaForCausalLM"])
