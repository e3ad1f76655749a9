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


def cases() -> list[tuple[str, str]]:
    """Models and presets; that of experts for models that have some."""
    moe = {name for name in MODELS if any("exps" in tensor for tensor in shapes(name))}
    return [(m, p) for m in sorted(MODELS) for p in PRESETS if p != "experts-on-cpu" or m in moe]
