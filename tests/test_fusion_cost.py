"""Fusions by cost: no default is predicted to be slower than with one of its fusions switched off."""

import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from plans import opened
from running import ONE, TWO
from tiny.files import SHORT_MODELS as MODELS

from graphsched.gguf.loader import open_model
from graphsched.graph.rewrites.rules import RULES
from graphsched.predict.plan import Plan, make_plan
from graphsched.schedule.placement import PlacementOptions
from graphsched.session.model import Model
from graphsched.session.options import SessionOptions
from graphsched.synth import model as synth

SWITCHES = [rule.switch for rule in RULES]
LAYERS = {"deepseek-v3": 4, "qwen3-30b-a3b": 2, "llama-8b": 2}  # real sizes; the first layers of V3 are dense
ROUNDING = 1e-9


@cache
def large(layout: str) -> Model:
    """The first layers of a model of real size, without weights."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        synth.write(layout, path, extent="header")
        file = open_model(path, header_only=True)
    key = f"{file.metadata['general.architecture']}.block_count"
    file.metadata = {**file.metadata, key: LAYERS[layout]}
    outside = re.compile(r"blk\.(\d+)\.")
    file.tensors = {
        name: tensor
        for name, tensor in file.tensors.items()
        if not (found := outside.match(name)) or int(found[1]) < LAYERS[layout]
    }
    return Model(file)


def model(name: str) -> Model:
    return large(name) if name in LAYERS else opened(name)


def plan(name: str, n_tokens: int, devices: tuple[str, ...], *overrides: str, off: str = "") -> Plan:
    options = SessionOptions(
        n_ctx=1024,
        devices=devices,
        placement=PlacementOptions(overrides=overrides),
        off=frozenset(filter(None, [off])),
    )
    return make_plan(model(name), options, n_tokens, 1, n_tokens)


def seconds(*args: Any, **options: Any) -> float:
    timeline = plan(*args, **options).timeline
    assert timeline is not None
    return timeline.wall


@st.composite
def drawn(draw: st.DrawFn) -> tuple[Any, ...]:
    """A model, a number of tokens, devices, and homes that some overrides choose, of a layer or of all."""
    name = draw(st.sampled_from([*MODELS, *LAYERS]))
    devices, homes = draw(st.sampled_from([(ONE, ("sim0", "CPU")), (TWO, ("sim0", "sim1", "CPU"))]))
    stems = sorted({re.sub(r"^blk\.\d+\.|\.(weight|bias)$", "", tensor) for tensor in model(name).types})
    layers = st.sampled_from(["", *map(str, range(model(name).config.n_layer))])
    overrides = [
        f"{f'blk.{layer}.' if layer else ''}{'' if layer else '(^|[.])'}{stem}[.]={home}"
        for layer, stem, home in draw(
            st.lists(st.tuples(layers, st.sampled_from(stems), st.sampled_from(homes)), max_size=6)
        )
    ]
    return name, draw(st.sampled_from([1, 8, 64, 512])), devices, *overrides


@settings(max_examples=20, deadline=None)
@example(("deepseek-v3", 1, ONE, ".ffn_(up|down)_exps.=CPU"))
@example(("qwen3-30b-a3b", 1, TWO, "ffn_up_exps=sim0", "ffn_gate_exps=sim1", "ffn_down_exps=CPU"))
@given(drawn())
def test_no_fusion_is_predicted_to_cost_time(case: tuple[Any, ...]) -> None:
    default = seconds(*case)
    for switch in SWITCHES:
        assert default <= seconds(*case, off=switch) * (1 + ROUNDING), switch
