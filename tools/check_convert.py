"""Checks `convert` against transformers: tiny random models of each family, saved, converted and run by both.

    python tools/check_convert.py [CLASS ...]

Prints for each class the normalised mean square error of the logits of a prompt and of single tokens behind it. Needs
torch and transformers beside the project, and is run by hand.
"""

import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from hf_folders import N_VOCAB, tokenizer_json  # type: ignore[import-not-found,unused-ignore]

from graphsched.cli.main import run
from graphsched.convert.families import FAMILIES
from graphsched.session.session import load

PROMPT, SINGLE = 12, 4
# Of all; each class has its differences.
COMMON: Final[Mapping[str, Any]] = {
    "vocab_size": N_VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": None,
    "bos_token_id": 260,
    "eos_token_id": 262,
}
_MOE: Final = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_ROUTED: Final = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.5,
    "n_group": 1,
    "topk_group": 1,
}
_LATENT: Final = {
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "num_key_value_heads": 4,
}
_DELTA: Final = {
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "head_dim": 32,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
}
_LAYERS: Final = ["sliding_attention"] * 3 + ["full_attention"]
CASES: Final[Mapping[str, Mapping[str, Any]]] = {
    "LlamaForCausalLM": {},
    "Qwen3ForCausalLM": {"head_dim": 32},
    "Qwen3MoeForCausalLM": {**_MOE, "norm_topk_prob": True, "head_dim": 32},
    "Qwen2MoeForCausalLM": {**_MOE, "norm_topk_prob": False, "shared_expert_intermediate_size": 48},
    "MixtralForCausalLM": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "GemmaForCausalLM": {"head_dim": 32},
    "Gemma2ForCausalLM": {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8},
    "Gemma3ForCausalLM": {
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "sliding_window": 8,
        "num_hidden_layers": 7,
    },
    "Phi3ForCausalLM": {"sliding_window": None},
    "Olmo2ForCausalLM": {},
    "OlmoeForCausalLM": {"num_experts": 8, "num_experts_per_tok": 2, "norm_topk_prob": False},
    "GraniteForCausalLM": {
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.4,
        "attention_multiplier": 0.2,
        "logits_scaling": 2.0,
    },
    "GraniteMoeForCausalLM": {
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.4,
        "attention_multiplier": 0.2,
        "logits_scaling": 2.0,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    "SmolLM3ForCausalLM": {},
    "SeedOssForCausalLM": {"head_dim": 32, "attention_bias": True, "attention_out_bias": False},
    "ArceeForCausalLM": {},
    "Glm4ForCausalLM": {"head_dim": 32, "attention_bias": True, "partial_rotary_factor": 0.5},
    "Glm4MoeForCausalLM": {**_ROUTED, "head_dim": 32, "partial_rotary_factor": 0.5, "attention_bias": True},
    "Dots1ForCausalLM": {**_ROUTED, "norm_topk_prob": True},
    "Ernie4_5ForCausalLM": {"head_dim": 32},
    "Ernie4_5_MoeForCausalLM": {
        "moe_num_experts": 8,
        "moe_k": 2,
        "moe_num_shared_experts": 1,
        "moe_intermediate_size": 32,
        "moe_layer_start_index": 1,
        "moe_layer_interval": 1,
        "moe_layer_end_index": -1,
    },
    "CohereForCausalLM": {"logit_scale": 0.5},
    "Cohere2ForCausalLM": {"logit_scale": 0.5, "sliding_window": 8, "layer_types": _LAYERS},
    "Exaone4ForCausalLM": {"head_dim": 32, "sliding_window": None, "layer_types": ["full_attention"] * 4},
    "HunYuanDenseV1ForCausalLM": {"head_dim": 32},
    "HunYuanMoEV1ForCausalLM": {
        "head_dim": 32,
        "num_experts": 8,
        "moe_topk": 2,
        "moe_intermediate_size": 32,
        "num_shared_expert": 1,
    },
    "DeepseekV2ForCausalLM": {**_ROUTED, **_LATENT, "q_lora_rank": None, "topk_method": "greedy"},
    "DeepseekV3ForCausalLM": {**_ROUTED, **_LATENT, "q_lora_rank": 24, "n_group": 4, "topk_group": 2},
    "Lfm2ForCausalLM": {"layer_types": ["conv", "conv", "full_attention", "conv"], "conv_L_cache": 3},
    "Lfm2MoeForCausalLM": {
        "layer_types": ["conv", "conv", "full_attention", "conv"],
        "conv_L_cache": 3,
        "num_dense_layers": 1,
        **_MOE,
        "norm_topk_prob": True,
        "use_expert_bias": True,
    },
    "AfmoeForCausalLM": {
        **_MOE,
        "head_dim": 32,
        "num_dense_layers": 1,
        "mup_enabled": True,
        "sliding_window": 8,
    },
    "ExaoneMoeForCausalLM": {
        **_MOE,
        "head_dim": 32,
        "first_k_dense_replace": 1,
        "num_shared_experts": 1,
        "n_group": 1,
        "topk_group": 1,
        "sliding_window": 8,
        "sliding_window_pattern": 4,
        "layer_types": _LAYERS,
        "norm_topk_prob": True,
    },
    "HYV3ForCausalLM": {**_MOE, "head_dim": 32, "num_shared_experts": 1, "router_scaling_factor": 1.5},
    "Ministral3ForCausalLM": {
        "head_dim": 32,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 4.0,
            "original_max_position_embeddings": 8,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
        },
    },
    "Qwen3_5ForCausalLM": _DELTA,
    "Qwen3_5MoeForCausalLM": {**_DELTA, **_MOE, "shared_expert_intermediate_size": 48},
    "Qwen3NextForCausalLM": {**_DELTA, **_MOE, "shared_expert_intermediate_size": 48},
    "MiniMaxM2ForCausalLM": {
        "head_dim": 32,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "rotary_dim": 16,
    },
}
_TOWER: Final = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "num_heads": 2,
    "depth": 1,
    "out_hidden_size": 64,
    "deepstack_visual_indexes": [0],
    "num_position_embeddings": 16,
}
_SECTIONS: Final = {
    "rope_type": "default",
    "mrope_section": [6, 5, 5],
    "rope_theta": 5e6,
    "mrope_interleaved": True,
}
# Models with towers: the config of their text; the class is given a small tower.
TOWERS: Final[Mapping[str, Mapping[str, Any]]] = {
    "Gemma3ForConditionalGeneration": CASES["Gemma3ForCausalLM"],
    "Mistral3ForConditionalGeneration": {"model_type": "mistral", "head_dim": 32},
    "Qwen3VLForConditionalGeneration": {"head_dim": 32, "rope_parameters": _SECTIONS},
    "Qwen3VLMoeForConditionalGeneration": {**_MOE, "head_dim": 32, "rope_parameters": _SECTIONS},
}


def nmse(found: NDArray[np.floating[Any]], expected: NDArray[np.floating[Any]]) -> float:
    """The square of the difference over the square of what is expected."""
    return float(((found - expected) ** 2).sum() / (expected**2).sum())


def made(name: str, folder: Path) -> Any:
    """A random model of a class, saved with a tokenizer."""
    import torch
    import transformers

    torch.manual_seed(3)
    kind = getattr(transformers, name)
    values: dict[str, Any] = {**COMMON, **CASES.get(name, TOWERS.get(name, {}))}
    if name in TOWERS:
        values = {"text_config": values, "vision_config": dict(_TOWER), "tie_word_embeddings": False}
    config = kind.config_class(**values)
    config.torch_dtype = "float32"
    model = kind(config).float().eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            spread = 0.3 if parameter.ndim == 1 else 0.12
            parameter.copy_(
                parameter + spread * torch.randn_like(parameter)
                if "norm" in parameter_name
                else spread * torch.randn_like(parameter)
            )
        for buffer_name, buffer in model.named_buffers():
            if "bias" in buffer_name:
                buffer.copy_(0.1 * torch.randn_like(buffer))
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json()))
    names = {"bos_token": "<|bos|>", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return model


def errors(name: str) -> Iterator[float]:
    """The error of a prompt's logits, and of each token behind it."""
    import torch

    ids = np.random.default_rng(5).integers(0, 256, PROMPT + SINGLE)
    with TemporaryDirectory() as text:
        folder = Path(text) / name
        model = made(name, folder)
        with torch.no_grad():
            expected = model(torch.tensor([ids.tolist()])).logits[0].double().numpy()
        out = Path(text) / "model.gguf"
        if run(["convert", str(folder), str(out), "--outtype", "f32"]):
            return
        session = load(out, backend="reference", type_k="f32", type_v="f32", n_ctx=64)
        with closing(session):
            for first, end in ((0, PROMPT), *((i, i + 1) for i in range(PROMPT, PROMPT + SINGLE))):
                found = session.eval(ids[first:end].tolist(), all_logits=True)
                yield nmse(np.asarray(found, np.float64), expected[first:end])


def main(args: Sequence[str] = ()) -> None:
    """Prints a line for each class."""
    warnings.simplefilter("ignore")
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = os.environ["TQDM_DISABLE"] = "1"
    for name in args or FAMILIES:
        if name not in {**CASES, **TOWERS} and not args:
            continue
        try:
            found = list(errors(name))
        except Exception as e:  # of a class that transformers does not have, or makes otherwise
            print(f"{name:32} {type(e).__name__}: {str(e).splitlines()[0][:150]}")
            continue
        told = f"prompt {found[0]:.1e}, tokens up to {max(found[1:]):.1e}" if found else "was not converted"
        print(f"{name:32} {told}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
