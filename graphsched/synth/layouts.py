"""The models that `synth` imitates: their keys and the shapes of their tensors, as published."""

from typing import Final

import numpy as np

from graphsched.synth.blocks import (
    bitnet_block,
    deepseek2_block,
    llama4_block,
    llama_block,
    qwen3moe_block,
)
from graphsched.synth.hybrids import nemotron_h_block, qwen35_block
from graphsched.synth.layout import Layout, by_layer, deepseek, head, moe, rope, sizes, state
from graphsched.synth.recent import RECENT

# M is Mamba 2, E experts, * attention.
_NEMOTRON_NANO: Final = "MEMEM*" + 4 * "EMEMEM*" + "EMEMEMEM*" + "EMEMEMEME"


# The config.json of each model, under the names that llama.cpp's converter gives them.
LAYOUTS: Final = {
    "llama-1.1b": Layout(
        "llama", "TinyLlama 1.1B", sizes(22, 2048, 5632, 32, 4, 32000, 2048) | rope(64, 1e4), llama_block
    ),
    "llama-8b": Layout(
        "llama",
        "Llama 3.1 8B",
        sizes(32, 4096, 14336, 32, 8, 128256, 131072) | rope(128, 5e5),
        llama_block,
        has_rope_freqs=True,
    ),
    "qwen3-30b-a3b": Layout(
        "qwen3moe",
        "Qwen3 30B-A3B",
        sizes(48, 2048, 6144, 32, 4, 151936, 40960)
        | rope(128, 1e6, 1e-6)
        | head(128, 128)
        | moe(128, 8, 768),
        qwen3moe_block,
    ),
    "deepseek-v2-lite": Layout(
        "deepseek2",
        "DeepSeek V2 Lite",
        sizes(27, 2048, 10944, 16, 16, 102400, 163840)
        | rope(64, 1e4, 1e-6)
        | head(192, 128)
        | moe(64, 6, 1408)
        | deepseek(1, 2, 0.0707)
        | {"expert_weights_scale": 1.0, "expert_weights_norm": False, "expert_gating_func": 1},
        deepseek2_block,
    ),
    "deepseek-v3": Layout(
        "deepseek2",
        "DeepSeek V3",
        sizes(61, 7168, 18432, 128, 1, 129280, 163840)
        | rope(64, 1e4, 1e-6)
        | head(576, 512)
        | {"attention.key_length_mla": 192, "attention.value_length_mla": 128, "attention.q_lora_rank": 1536}
        | moe(256, 8, 2048)
        | deepseek(3, 1, 0.1)
        | {"expert_weights_scale": 2.5, "expert_weights_norm": True, "expert_gating_func": 2}
        | {"expert_group_count": 8, "expert_group_used_count": 4},
        deepseek2_block,
    ),
    "maverick": Layout(
        "llama4",
        "Llama 4 Maverick 17B-128E",
        sizes(48, 5120, 16384, 40, 8, 202048, 1048576)
        | rope(128, 5e5)
        | head(128, 128)
        | moe(128, 1, 8192)
        | {"interleave_moe_layer_step": 2},
        llama4_block,
    ),
    "bitnet-2b": Layout(
        "bitnet-b1.58",
        "BitNet b1.58 2B-4T",
        sizes(30, 2560, 6912, 20, 5, 128256, 4096) | rope(128, 5e5),
        bitnet_block,
        is_tied=True,
        type="IQ2_BN",
    ),
    "qwen3.5-35b-a3b": Layout(
        "qwen35moe",
        "Qwen3.5 35B-A3B",
        sizes(40, 2048, 512, 16, 2, 248320, 262144)
        | rope(64, 1e7, 1e-6)
        | {"rope.dimension_sections": np.array([11, 11, 10, 0], np.int32)}
        | head(256, 256)
        | moe(256, 8, 512)
        | {"expert_shared_feed_forward_length": 512, "full_attention_interval": 4}
        | state(inner=4096, size=128, heads=32, groups=16),
        qwen35_block,
    ),
    "nemotron-3-nano-30b-a3b": Layout(
        "nemotron_h_moe",
        "Nemotron 3 Nano 30B-A3B",
        sizes(52, 2688, 1856, 32, 2, 131072, 262144)
        | rope(128, 1e4)
        | {"attention.layer_norm_epsilon": 1e-5}
        | head(128, 128)
        | moe(128, 6, 1856)
        | {"expert_shared_feed_forward_length": 3712, "expert_shared_count": 1}
        | {"expert_weights_norm": True, "expert_weights_scale": 2.5}
        | {"expert_group_count": 1, "expert_group_used_count": 1}
        | {"feed_forward_length": by_layer(_NEMOTRON_NANO, {"E": 1856})}
        | {"attention.head_count_kv": by_layer(_NEMOTRON_NANO, {"*": 2})}
        | state(inner=4096, size=128, heads=64, groups=8),
        nemotron_h_block,
    ),
    **RECENT,
}
