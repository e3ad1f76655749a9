"""Plans of real layouts: split counts of the reference, thresholds, traffic, the virtual clock. No weights, no run."""

import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from running import model_path

import graphsched
from graphsched.gguf.loader import open_model
from graphsched.predict.plan import Plan, make_plan
from graphsched.report.plan import as_data, copied, real_nodes
from graphsched.report.plan_diff import difference
from graphsched.schedule.placement import PlacementOptions
from graphsched.session.model import Model
from graphsched.session.options import SessionOptions
from graphsched.synth import model as synth
from graphsched.types.devices import HOST

BASELINE = frozenset({"traffic", "hoist"})
EXPERTS_OUT = PlacementOptions(overrides=("exps=CPU",))


@pytest.fixture(scope="session")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Opens a layout by name from a file that holds its header only."""
    folder = tmp_path_factory.mktemp("layouts")

    @cache
    def opened(name: str) -> Model:
        path: Path = folder / f"{name}.gguf"
        synth.write(name, path, extent="header")
        return Model(open_model(path, header_only=True))

    return opened


def planned(model: Model, n_tokens: int, **options: Any) -> Plan:
    given = {"n_ctx": 4096, "devices": ("sim:rtx4090",), "placement": EXPERTS_OUT, **options}
    return make_plan(model, SessionOptions(**given), n_tokens, 1, n_tokens)


@pytest.mark.parametrize("n_tokens", [1, 256, 512])
@pytest.mark.parametrize(("layout", "splits"), [("deepseek-v2-lite", 54), ("deepseek-v3", 118)])
def test_split_counts_of_the_reference(layouts: Any, layout: str, splits: int, n_tokens: int) -> None:
    """ik_llama.cpp logs 54 for V2-Lite with its experts in host memory, 118 for a layout with 58 MoE layers."""
    assert len(planned(layouts(layout), n_tokens, off=BASELINE).schedule.splits) == splits


def test_copies_of_one_moe_layer(layouts: Any) -> None:
    """To the host: ffn_norm and the expert ids; back: the experts' results, one row per expert used."""
    plan = planned(layouts("deepseek-v2-lite"), 1, off=BASELINE)
    down, up = plan.schedule.splits[4].inputs, plan.schedule.splits[5].inputs
    assert {(plan.schedule.graph.labels[c.source], copied(plan, c)) for c in down} == {
        ("ffn_norm", 2048 * 4),
        ("ffn_moe_topk", 6 * 4),
    }
    assert [(plan.schedule.graph.labels[c.source], copied(plan, c)) for c in up] == [
        ("ffn_moe_down", 6 * 2048 * 4)
    ]


def test_traffic_rule_returns_one_row_per_token(layouts: Any) -> None:
    plan = planned(layouts("deepseek-v2-lite"), 1, off=frozenset({"hoist"}))
    (back,) = plan.schedule.splits[5].inputs
    assert plan.schedule.graph.labels[back.source] == "ffn_moe_out"
    assert copied(plan, back) == 2048 * 4  # a sixth of what the baseline returns
    causes = [plan.cause(n) for n in real_nodes(plan, plan.schedule.splits[4])]
    assert causes == ["1.wgt0", "1.wgt0", "traffic", "traffic"]


@pytest.mark.parametrize(("n_tokens", "expected"), [(340, HOST), (341, HOST), (342, "sim0")])
def test_expert_threshold(layouts: Any, n_tokens: int, expected: str) -> None:
    """n_tokens · 6 >= 32 · 64"""
    plan = planned(layouts("deepseek-v2-lite"), n_tokens)
    where = {plan.schedule.graph.names[n]: d for n, d in plan.schedule.assignment.device.items()}
    assert where["blk.1.ffn_up_exps"] == where["blk.1.ffn_down_exps"] == expected
    assert where["blk.26.ffn_up_exps"] == HOST  # one output row in the last layer


def test_expert_ids_are_fetched_once_per_layer(layouts: Any) -> None:
    plan = planned(layouts("qwen3-30b-a3b"), 16, offload_min_batch=1)
    ids = [
        c
        for s in plan.schedule.splits
        for c in s.inputs
        if plan.schedule.graph.labels.get(c.source) == "ffn_moe_topk"
    ]
    assert len(ids) == 48
    assert {c.to_device for c in ids} == {HOST}
    weights = [c for s in plan.schedule.splits for c in s.inputs if c.is_weight and "exps" in c.source.name]
    few = [c for c in weights if c.ids is not None]
    assert few
    assert all(copied(plan, c) < c.source.type.nbytes for c in few)


def test_prefill_hides_uploads_behind_compute(layouts: Any) -> None:
    timeline = planned(layouts("deepseek-v2-lite"), 512).timeline
    assert timeline is not None
    assert timeline.hidden() >= 0.85


@pytest.mark.parametrize("layout", ["deepseek-v2-lite", "qwen3-30b-a3b", "maverick"])
def test_hybrid_decode_does_not_wait(layouts: Any, layout: str) -> None:
    """Something computes, copies or is launched at every instant. What launches alone take is in docs/benchmarks."""
    timeline = planned(layouts(layout), 1).timeline
    assert timeline is not None
    assert timeline.wall - timeline.busy("compute", "up", "down", "launch") < 0.001 * timeline.wall


def test_hybrid_decode_of_a_large_model_has_little_overhead(layouts: Any) -> None:
    timeline = planned(layouts("deepseek-v3"), 1).timeline
    assert timeline is not None
    assert timeline.overhead < 0.02 * timeline.wall


def test_hoisting_lets_both_sides_work_at_once(layouts: Any) -> None:
    """With the weighting on the device, the shared expert would queue behind it."""
    model = layouts("deepseek-v2-lite")
    hoisted, queued = (planned(model, 1, off=off).timeline for off in (frozenset({"traffic"}), BASELINE))
    assert hoisted is not None
    assert queued is not None
    assert hoisted.wall < 0.99 * queued.wall


def test_tied_output_is_duplicated_where_the_output_lives(layouts: Any) -> None:
    model = layouts("bitnet-2b")
    assert "output.weight" not in model.types
    plan = planned(model, 1, placement=PlacementOptions())
    leaves = {leaf.name for leaf in plan.schedule.graph.leaves if leaf.kind == "weight"}
    assert {"token_embd.weight", "output.weight"} <= leaves
    held = planned(model, 1, placement=PlacementOptions(overrides=("output=CPU",)))
    assert "output.weight" not in {leaf.name for leaf in held.schedule.graph.leaves}


def test_a_copy_of_the_tied_output_pays(layouts: Any) -> None:
    """The reference measured 241 and 322 tokens/s, of a model with a smaller vocabulary, on the card planned for."""
    devices, model = ("sim:rtx4080-7950x",), layouts("bitnet-2b")
    copied = planned(model, 1, devices=devices, placement=PlacementOptions()).timeline
    on_host = planned(
        model, 1, devices=devices, placement=PlacementOptions(overrides=("^output=CPU",))
    ).timeline
    assert copied is not None
    assert on_host is not None
    assert on_host.wall > 322 / 241 * copied.wall


def test_planning_deepseek_v3_takes_under_a_second(layouts: Any) -> None:
    """A guard against accidents; the figure itself is in docs/benchmarks."""
    model = layouts("deepseek-v3")
    started = time.process_time()  # other work on the machine does not count
    plan = planned(model, 512)
    assert len(plan.memory) == 2
    assert time.process_time() - started < 10


def test_difference_names_what_moves(layouts: Any) -> None:
    model = layouts("deepseek-v2-lite")
    change = difference(planned(model, 512), planned(model, 512, offload_policy=("-1,0",)))
    moved = {row["name"]: (row["from"], row["to"]) for row in change["moved"]}
    assert moved["blk.1.ffn_up_exps"] == ("sim0", HOST)
    assert "blk.1.attn_q" not in moved


def test_plan_as_data(layouts: Any) -> None:
    data = as_data(planned(layouts("deepseek-v2-lite"), 1))
    assert data["devices"]["CPU"]["weights"] > 8e9
    assert sum(len(split["nodes"]) for split in data["splits"]) > 400
    assert data["predicted"]["wall"] > 0


@pytest.mark.parametrize("name", ["llama-Q4_K_M", "llama-Q4_0", "llama"])
def test_plan_is_what_a_session_runs(name: str) -> None:
    """Also of types without kernels: the session reads those weights from a float32 copy."""
    session = graphsched.load(model_path(name), n_ctx=64, devices=("sim:rtx4090",))
    session.take_trace()
    session.eval([1])
    (run,) = session.take_trace().runs
    plan = make_plan(session.model, session.options, 1, 1, 1)
    assert plan.schedule.dump() == run.schedule.dump()
    session.close()
