"""Layouts of models of 2025 and 2026 that many people run; each has the published number of parameters, within 1 %.

Layers that predict further tokens ahead are left out: no session runs them.
"""

from typing import Any, Final

from graphsched.synth.blocks import deepseek2_block, llama_block, qwen3moe_block
from graphsched.synth.hybrids import granitehybrid_block, lfm2moe_block, qwen3next_block
from graphsched.synth.layout import Layout, by_layer, deepseek, head, moe, rope, sizes, state
from graphsched.synth.recent_blocks import (
    deepseek32_block,
    gemma3_block,
    glm4moe_block,
    glm46_block,
    gpt_oss_block,
    hunyuan_moe_block,
    minimax_m2_block,
    qwen3_block,
    seed_oss_block,
)

# M is Mamba 2, * attention; C is a short convolution.
_GRANITE: Final = "MMMMM*" + 3 * "MMMMMMMMM*" + "MMMM"
_LFM2: Final = "CC*CCC*CCC*CCC*CCC*CC*CC"


def _routing(scale: float, groups: int = 1, used: int = 1) -> dict[str, Any]:
    """Experts by sigmoid, their weights normalised and scaled."""
    routing = {"expert_gating_func": 2, "expert_weights_norm": True, "expert_weights_scale": scale}
    return routing | {"expert_group_count": groups, "expert_group_used_count": used}


def _latent(key: int, value: int, rank: int) -> dict[str, Any]:
    lengths = {"attention.key_length_mla": key, "attention.value_length_mla": value}
    return head(576, 512) | lengths | {"attention.q_lora_rank": rank}


def _gpt_oss(title: str, layers: int, experts: int) -> Layout:
    return Layout(
        "gpt-oss",
        title,
        sizes(layers, 2880, 2880, 64, 8, 201088, 131072)
        | rope(64, 150000.0)
        | head(64, 64)
        | moe(experts, 4, 2880)
        | {"rope.scaling.type": "yarn", "rope.scaling.factor": 32.0}
        | {"rope.scaling.original_context_length": 4096, "attention.sliding_window": 128},
        gpt_oss_block,
        type="MXFP4_MOE",
    )


def _glm(dense: int, scale: float) -> dict[str, Any]:
    shared = {"leading_dense_block_count": dense, "expert_shared_count": 1}
    return rope(64, 1e6) | head(128, 128) | shared | _routing(scale)


RECENT: Final = {
    "qwen3-32b": Layout(
        "qwen3",
        "Qwen3 32B",
        sizes(64, 5120, 25600, 64, 8, 151936, 40960) | rope(128, 1e6, 1e-6) | head(128, 128),
        qwen3_block,
    ),
    "qwen3-235b-a22b": Layout(
        "qwen3moe",
        "Qwen3 235B-A22B",
        sizes(94, 4096, 12288, 64, 4, 151936, 40960)
        | rope(128, 1e6, 1e-6)
        | head(128, 128)
        | moe(128, 8, 1536),
        qwen3moe_block,
    ),
    "qwen3-coder-480b-a35b": Layout(
        "qwen3moe",
        "Qwen3 Coder 480B-A35B",
        sizes(62, 6144, 8192, 96, 8, 151936, 262144)
        | rope(128, 1e7, 1e-6)
        | head(128, 128)
        | moe(160, 8, 2560),
        qwen3moe_block,
    ),
    "qwen3-next-80b-a3b": Layout(
        "qwen3next",
        "Qwen3 Next 80B-A3B",
        sizes(48, 2048, 5120, 16, 2, 151936, 262144)
        | rope(64, 1e7, 1e-6)
        | head(256, 256)
        | moe(512, 10, 512)
        | {"expert_shared_feed_forward_length": 512, "full_attention_interval": 4}
        | state(inner=4096, size=128, heads=32, groups=16),
        qwen3next_block,
    ),
    "glm-4.5-air": Layout(
        "glm4moe",
        "GLM 4.5 Air",
        sizes(46, 4096, 10944, 96, 8, 151552, 131072) | moe(128, 8, 1408) | _glm(1, 1.0),
        glm4moe_block,
    ),
    "glm-4.6": Layout(
        "glm4moe",
        "GLM 4.6",
        sizes(92, 5120, 12288, 96, 8, 151552, 202752) | moe(160, 8, 1536) | _glm(3, 2.5),
        glm46_block,
    ),
    "gpt-oss-20b": _gpt_oss("gpt-oss 20B", 24, 32),
    "gpt-oss-120b": _gpt_oss("gpt-oss 120B", 36, 128),
    "minimax-m2": Layout(
        "minimax-m2",
        "MiniMax M2",
        sizes(62, 3072, 1536, 48, 8, 200064, 196608)
        | rope(64, 5e6, 1e-6)
        | head(128, 128)
        | moe(256, 8, 1536)
        | {"expert_gating_func": 2},
        minimax_m2_block,
    ),
    "kimi-k2": Layout(
        "deepseek2",
        "Kimi K2",
        sizes(61, 7168, 18432, 64, 1, 163840, 131072)
        | rope(64, 5e4, 1e-6)
        | _latent(192, 128, 1536)
        | moe(384, 8, 2048)
        | deepseek(1, 1, 0.1)
        | {"rope.scaling.factor": 32.0}
        | _routing(2.827),
        deepseek2_block,
    ),
    "deepseek-v3.2": Layout(
        "deepseek32",
        "DeepSeek V3.2",
        sizes(61, 7168, 18432, 128, 1, 129280, 163840)
        | rope(64, 1e4, 1e-6)
        | _latent(192, 128, 1536)
        | moe(256, 8, 2048)
        | deepseek(3, 1, 0.1)
        | _routing(2.5, 8, 4)
        | {"attention.indexer.head_count": 64, "attention.indexer.key_length": 128}
        | {"attention.indexer.top_k": 2048},
        deepseek32_block,
    ),
    "mistral-small-3.2": Layout(
        "llama",
        "Mistral Small 3.2 24B",
        sizes(40, 5120, 32768, 32, 8, 131072, 131072) | rope(128, 1e9) | head(128, 128),
        llama_block,
    ),
    "gemma-3-27b": Layout(
        "gemma3",
        "Gemma 3 27B",
        sizes(62, 5376, 21504, 32, 16, 262208, 131072)
        | rope(128, 1e6, 1e-6)
        | head(128, 128)
        | {"attention.sliding_window": 1024, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0},
        gemma3_block,
        is_tied=True,
    ),
    "seed-oss-36b": Layout(
        "seed_oss",
        "Seed OSS 36B",
        sizes(64, 5120, 27648, 80, 8, 155136, 524288) | rope(128, 1e7, 1e-6) | head(128, 128),
        seed_oss_block,
    ),
    # The base is 10000, stretched by its factor of 1000 as the converter does.
    "hunyuan-a13b": Layout(
        "hunyuan-moe",
        "Hunyuan A13B",
        sizes(32, 4096, 3072, 32, 8, 128167, 262144)
        | rope(128, 1e4 * 1000 ** (128 / 126))
        | head(128, 128)
        | moe(64, 8, 3072)
        | {"expert_shared_feed_forward_length": 3072, "expert_shared_count": 1},
        hunyuan_moe_block,
        is_tied=True,
    ),
    "granite-4.0-h-small": Layout(
        "granitehybrid",
        "Granite 4.0 H Small 32B-A9B",
        sizes(40, 4096, 768, 32, 8, 100352, 131072)
        | rope(128, 1e4)
        | head(128, 128)
        | moe(72, 10, 768)
        | {"expert_shared_feed_forward_length": 1536, "rope.scaling.finetuned": False}
        | {"embedding_scale": 12.0, "residual_scale": 0.22, "logit_scale": 16.0, "attention.scale": 1 / 128}
        | {"attention.head_count_kv": by_layer(_GRANITE, {"*": 8})}
        | state(inner=8192, size=128, heads=128, groups=1),
        granitehybrid_block,
        is_tied=True,
    ),
    "lfm2-8b-a1b": Layout(
        "lfm2moe",
        "LFM2 8B-A1B",
        sizes(24, 2048, 7168, 32, 8, 65536, 128000)
        | rope(64, 1e6)
        | head(64, 64)
        | moe(32, 4, 1792)
        | {"leading_dense_block_count": 2, "expert_gating_func": 2, "shortconv.l_cache": 3}
        | {"attention.head_count_kv": by_layer(_LFM2, {"*": 8})},
        lfm2moe_block,
        is_tied=True,
        final_norm="token_embd_norm",
    ),
}
