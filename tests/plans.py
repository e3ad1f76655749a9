"""Plans of the tiny models in a few placements: what the snapshots show, and what other tests compare with."""

from functools import cache
from typing import Any

from running import ONE, TWO, model_path
from tiny.files import MODELS, shapes

from graphsched.gguf.loader import open_model
from graphsched.schedule.placement import PlacementOptions
from graphsched.session.model import Model

TOKEN, PROMPT, HELD = "one token", "prompt of 512 tokens", "prompt of 512 tokens, -op -1,0"
PRESETS: dict[str, dict[str, Any]] = {
    "two-devices": {"devices": TWO},
    "attention-on-cpu": {"devices": ONE, "placement": PlacementOptions(overrides=("attn=CPU",))},
    "experts-on-cpu": {"devices": ONE, "placement": PlacementOptions(overrides=("exps=CPU",))},
}
SECTIONS: dict[str, dict[str, Any]] = {
    TOKEN: {},
    PROMPT: {},
    HELD: {"offload_policy": ("-1,0",)},
}


@cache
def opened(name: str) -> Model:
    return Model(open_model(model_path(name)))


# Models that people run; each has a plan with its experts out, or over two devices if it has none.
POPULAR = [
    "afmoe",
    "arcee",
    "bailingmoe2",
    "bailingmoe3",
    "cohere2",
    "cohere2moe",
    "deepseek32",
    "deepseek4",
    "dots1",
    "ernie4_5-moe",
    "exaone-moe",
    "exaone4",
    "gemma",
    "gemma3n",
    "gemma4",
    "glm-dsa",
    "glm4",
    "glm5-next",
    "granite",
    "granitemoe",
    "hunyuan-moe",
    "hy_v3",
    "laguna",
    "mimo2",
    "minimax-m2",
    "minimax-m3",
    "mistral3",
    "mistral4",
    "olmo2",
    "olmoe",
    "qwen35moe",
    "qwen3vl",
    "qwen3vlmoe",
    "seed_oss",
    "smollm3",
    "step35",
]


def cases() -> list[tuple[str, str]]:
    """Models and presets; that of experts for models that have some."""
    every = [(m, p) for m in sorted(MODELS) for p in PRESETS if p != "experts-on-cpu" or has_experts(m)]
    return every + [(m, "experts-on-cpu" if has_experts(m) else "two-devices") for m in POPULAR]


def has_experts(name: str) -> bool:
    return any("exps" in tensor for tensor in shapes(name))
