"""Plans with everything on a GPU, made without one: what stays on the host, and that GPUs take every grid."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from nowhere import Nowhere
from running import model_path
from tiny.files import MODELS
from tiny.recurrent import RECURRENT

from graphsched.backends.cuda.families import copy
from graphsched.backends.cuda.launch.call import Call
from graphsched.backends.cuda.launch.lowering import At, Launch
from graphsched.errors import ShapeError
from graphsched.gguf.loader import open_model
from graphsched.graph.opdef import Op
from graphsched.predict.plan import Plan, make_plan
from graphsched.run.device import Setup, open_devices
from graphsched.run.operand import sized
from graphsched.run.runtime import lowered
from graphsched.session.model import Model
from graphsched.session.options import KV_TYPES, SessionOptions
from graphsched.synth.model import write
from graphsched.types.devices import HOST

GPU = "CUDA0"
LAYOUTS = {
    "llama-8b": "Q4_0", "qwen3-30b-a3b": "Q4_K", "deepseek-v2-lite": "IQ4_NL", "deepseek-v3": "Q4_K",
    "maverick": "Q4_K", "bitnet-2b": "IQ2_BN",
}  # fmt: skip
LAYERS = 5  # of each model: with the sixth begins what was there before
PARTS: dict[str, dict[str, Any]] = {"-fa 1": {}, "-fa 0": {"off": frozenset({"fa"})}}
CACHES = {kind: {"type_k": kind, "type_v": kind} for kind in KV_TYPES.values}


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    folder = tmp_path_factory.mktemp("layouts")

    @cache
    def opened(name: str) -> Model:
        path = folder / f"{name}.gguf"
        write(name, path, LAYOUTS[name], layers=LAYERS, extent="header")
        return Model(open_model(path, header_only=True))

    return opened


def planned(model: Model, n_tokens: int, **options: Any) -> Plan:
    made = SessionOptions(devices=(GPU,), **{"n_ctx": 1024, **options})
    return make_plan(model, made, n_tokens, n_tokens, n_tokens)


def on_the_host(plan: Plan) -> list[str]:
    """What runs there, but for the embedding: a row or a few of a matrix that would fill the GPU's memory."""
    graph, device = plan.schedule.graph, plan.schedule.assignment.device
    nodes = [n for n in graph.nodes if device[n] == HOST and not n.traits.view]
    embedding, *others = nodes
    assert embedding.opdef
    assert embedding.opdef.op is Op.GET_ROWS
    assert graph.names[embedding] == "token_embd"
    return [graph.names[n] for n in others]


def ways(name: str) -> list[dict[str, Any]]:
    """Forms of latent attention, where there is one."""
    return [{"mla": mla} for mla in range(4)] if name.startswith("deepseek") else [{}]


@pytest.mark.parametrize("fa", PARTS)
@pytest.mark.parametrize("name", [*MODELS, *RECURRENT])
def test_architectures_run_on_the_gpu(name: str, fa: str) -> None:
    model = Model(open_model(model_path(name), header_only=True))
    for way in ways(name):
        for n_tokens in (1, 200):
            assert on_the_host(planned(model, n_tokens, **way, **PARTS[fa])) == []


@pytest.mark.parametrize("fa", PARTS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_models_of_full_size_run_on_the_gpu(layout: Callable[[str], Model], name: str, fa: str) -> None:
    *others, last = ways(name)
    of_types = [(last, kind) for kind in CACHES] + [
        (way, kind) for way in others for kind in ("f16", "q8_KV")
    ]
    model = layout(name)
    for way, kind in of_types:
        assert on_the_host(planned(model, 1, **way, **CACHES[kind], **PARTS[fa])) == []
    for way in ways(name):
        assert on_the_host(planned(model, 200, **way, **PARTS[fa])) == []


# ---- grids

LARGE = {"n_ctx": 131072, "n_ubatch": 4096, "n_batch": 4096, "amb": 1 << 16}


def launches(plan: Plan) -> list[Call]:
    """Every launch of a run at full capacity; one whose grid is too large is an error."""
    devices = open_devices("null", Setup({}, n_threads=1, devices=(GPU,)))
    items, _, _ = lowered(plan.schedule, devices, sized)
    at = At(Nowhere({}, {}), {}, 0)
    made = [call for item in items if isinstance(item, Launch) for call in item.make(at)]
    return [call for call in made if isinstance(call, Call)]


@pytest.mark.parametrize("fa", PARTS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_grids_of_long_contexts(layout: Callable[[str], Model], name: str, fa: str) -> None:
    """128 k cells, micro-batches of 4096, attention expanded for all heads at once."""
    for way in ways(name):
        for cache_type in ("f16", "q8_0"):
            for n_tokens in (1, 4096):
                plan = planned(layout(name), n_tokens, **way, **LARGE, **CACHES[cache_type], **PARTS[fa])
                assert len(launches(plan)) > 20


def test_a_grid_that_no_gpu_takes_is_an_error() -> None:
    many = copy.copy(0, 0, ("f32", "f32"), (1 << 20, 1, 2, 64), (0,) * 4, (0,) * 4)  # cells of a cache
    assert many.grid == (1 << 20, 2, 1)
    with pytest.raises(ShapeError, match=r"k: a grid of \(1, 65536\) blocks"):
        Call("norm", (), "k", (1, 65536), 32, ())
