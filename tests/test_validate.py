"""GRAPHSCHED_VALIDATE finds wrong schedules, memory and kernels; GRAPHSCHED_DEBUG tells what is going on."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from running import EXACT, model_path, nmse, reference

import graphsched
from graphsched import env
from graphsched.arch.stored import StoredWeights
from graphsched.check.invariants import ValidationError, check_memory, check_schedule
from graphsched.cli import main as cli
from graphsched.graph.opdef import OPS, Op
from graphsched.graph.tensor import f32
from graphsched.run.executable import Executable
from graphsched.schedule.placement import PlacementOptions
from graphsched.schedule.scheduler import Schedule, Split, schedule
from graphsched.session.planner import Planner
from graphsched.session.session import Session


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Session]:
    def load(**options: Any) -> Session:
        monkeypatch.setenv("GRAPHSCHED_VALIDATE", "1")
        return graphsched.load(**{"n_ctx": 32, **options})

    return load


def test_results_are_those_of_an_unchecked_run(checked: Callable[..., Session]) -> None:
    tokens = [1, 5, 9, 14, 3]
    plain = graphsched.load(n_ctx=32).eval(tokens, all_logits=True)
    np.testing.assert_array_equal(checked().eval(tokens, all_logits=True), plain)


@pytest.mark.parametrize(
    "options",
    [
        {"devices": ("sim:rtx4090",)},
        {"devices": ("sim:rtx4090",), "type_k": "q8_0", "type_v": "q8_0"},
        {"devices": ("sim:rtx4090",), "placement": PlacementOptions(overrides=("attn=CPU",))},
        {"off": frozenset({"fmoe", "fused-rms-norm", "fused-mul-unary"})},
        {"backend": "reference"},
    ],
    ids=lambda o: ",".join(o),
)
def test_sessions_pass(checked: Callable[..., Session], options: dict[str, Any]) -> None:
    session = checked(**options)
    session.eval([1, 5, 9])
    session.eval([4])


@pytest.mark.parametrize("name", ["deepseek2-lite", "gpt-oss", "llama4"])
def test_architectures_pass(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("GRAPHSCHED_VALIDATE", "1")
    session = graphsched.load(model_path(name), n_ctx=16)
    session.eval([1, 5, 9])
    session.eval([4])


@pytest.mark.parametrize("devices", [(), ("sim:rtx4090",)])
def test_recurrent_state_passes_where_it_is_copied_and_restored(
    checked: Callable[..., Session], devices: tuple[str, ...]
) -> None:
    """Validation has states of its own, which go along with forks, checkpoints and what is taken back."""
    ref = reference("qwen35")
    session = checked(path=ref.model, n_ctx=64, n_parallel=3, checkpoint_every=4, devices=devices, **EXACT)
    engine, tokens = session.engine, ref.tokens
    one = engine.sequence()
    engine.step([(one, tokens[:20], 1)])
    other = one.fork()
    engine.step([(one, tokens[20:22], 1), (other, tokens[3:5], 1)])
    one.rewind(9)
    (logits,) = engine.step([(one, tokens[9:20], 1)])
    assert nmse(logits, ref.logits[19:20]) < 1e-9


def test_a_kernel_that_differs_is_named(
    checked: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    session, definition = checked(), OPS[Op.ADD]
    right = definition.run_reference
    assert right is not None
    monkeypatch.setattr(definition, "run_reference", lambda a, b: right(a, b) * 1.1)
    with pytest.raises(
        ValidationError, match=r"node blk\.0\.\S+ \(ADD\) differs from its reference by an NMSE"
    ):
        session.eval([1, 5])


def test_values_that_are_not_finite_are_named(
    checked: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, right = "blk.1.ffn_norm.weight", StoredWeights.__getitem__
    raw = graphsched.load().model.weights[name].copy()
    raw.view(np.float32)[3] = np.nan
    monkeypatch.setattr(StoredWeights, "__getitem__", lambda w, key: raw if key == name else right(w, key))
    with pytest.raises(
        ValidationError, match=r"node blk\.1\.ffn_norm \(\S+\) has values that are not finite"
    ):
        checked().eval([1, 5])


def test_bad_input_stays_bad_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    definition = OPS[Op.ADD]
    monkeypatch.setenv("GRAPHSCHED_VALIDATE", "1")
    monkeypatch.setattr(definition, "run_reference", lambda a, b: a)
    assert cli.run(("run", "-n", "1", "-q")) == 2
    err = capsys.readouterr().err
    assert err.startswith("graphsched: node ")
    assert err.count("\n") == 1


# ---- schedules ----


def cut_schedule() -> Schedule:
    session = graphsched.load(n_ctx=16)
    planner = Planner(session.model, session.options, ("sim0",), lambda device, node: True)
    graph = session.model.graph(4, 1, 16, session.options)
    made = schedule(planner.homes.untied(graph), planner.target({"n_tokens": 4, "n_outputs": 1}))
    check_schedule(made)
    assert len(made.splits) > 1
    return made


def changed(made: Schedule, number: int, **fields: Any) -> Schedule:
    splits = list(made.splits)
    splits[number] = replace(splits[number], **fields)
    return replace(made, splits=tuple(splits))


def test_a_node_that_never_runs() -> None:
    made = cut_schedule()
    with pytest.raises(ValidationError, match=r"never runs|before it is computed"):
        check_schedule(changed(made, -1, nodes=made.splits[-1].nodes[:-1]))


def test_a_node_that_runs_twice() -> None:
    made = cut_schedule()
    first = made.splits[0].nodes[0]
    with pytest.raises(ValidationError, match="runs twice"):
        check_schedule(changed(made, 0, nodes=(first, *made.splits[0].nodes)))


def test_nodes_in_the_wrong_order() -> None:
    made = cut_schedule()
    number = max(range(len(made.splits)), key=lambda i: len(made.splits[i].nodes))
    with pytest.raises(ValidationError, match="before it is computed"):
        check_schedule(changed(made, number, nodes=made.splits[number].nodes[::-1]))


def test_a_missing_copy() -> None:
    made = cut_schedule()
    number = next(i for i, split in enumerate(made.splits) if split.inputs)
    with pytest.raises(ValidationError, match="is not copied to"):
        check_schedule(changed(made, number, inputs=()))


def test_a_node_on_the_wrong_device() -> None:
    made = cut_schedule()
    number = max(range(len(made.splits)), key=lambda i: len(made.splits[i].nodes))
    split = made.splits[number]
    apart = (replace(split, nodes=split.nodes[:-1]), Split("CPU", split.nodes[-1:], ()))
    splits = made.splits[:number] + apart + made.splits[number + 1 :]
    with pytest.raises(ValidationError, match="on CPU, it is on sim0"):
        check_schedule(replace(made, splits=splits))


# ---- memory ----


def fake_executable(*spans: tuple[int, int, int, int], end: int = 1000) -> Any:
    """An executable with buffers (offset, bytes, first item, last item)."""
    names = range(len(spans))
    buffers = [
        SimpleNamespaceHash(name=f"b{i}", nbytes=s[1], is_planned=True, arena="CPU", reuse=())
        for i, s in zip(names, spans, strict=True)
    ]
    n = 1 + max(s[3] for s in spans)
    items = []
    for i in range(n):
        used = [b for b, s in zip(buffers, spans, strict=True) if i in s[2:]]
        operands = [SimpleNamespace(buffer=b, type=f32(b.nbytes // 4), strides=(4,), offset=0) for b in used]
        items.append(SimpleNamespace(reads=lambda o=operands: o, writes=list))
    offsets = {b: s[0] for b, s in zip(buffers, spans, strict=True)}
    plans = {"CPU": SimpleNamespace(offsets=offsets, nbytes=end)}
    return SimpleNamespace(streams={"CPU": items}, addresses=SimpleNamespace(plans=plans))


class SimpleNamespaceHash(SimpleNamespace):
    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__


def test_memory_that_is_right() -> None:
    check_memory(fake_executable((0, 64, 0, 1), (64, 64, 0, 2), (0, 64, 2, 3)))


def test_buffers_that_overlap() -> None:
    with pytest.raises(ValidationError, match="buffers b0 and b1 overlap while both are in use"):
        check_memory(fake_executable((0, 64, 0, 2), (32, 64, 1, 3)))


def test_a_buffer_behind_its_arena() -> None:
    with pytest.raises(ValidationError, match="buffer b0 ends behind its arena of 100 bytes"):
        check_memory(fake_executable((64, 64, 0, 1), end=100))


def test_an_operand_outside_its_buffer() -> None:
    made = fake_executable((0, 64, 0, 1))
    made.streams["CPU"][0].reads()[0].offset = 8
    with pytest.raises(ValidationError, match=r"f32\[16\] ends at byte 72 of the 64 of b0"):
        check_memory(made)


# ---- the debug ladder ----


@pytest.mark.parametrize(("value", "level"), [("", 0), ("0", 0), ("1", 1), ("3", 3), ("yes", 1), ("12", 12)])
def test_levels(monkeypatch: pytest.MonkeyPatch, value: str, level: int) -> None:
    monkeypatch.setenv("GRAPHSCHED_DEBUG", value)
    assert env.debug() == level


@pytest.mark.parametrize(("value", "is_on"), [("", False), ("0", False), ("1", True)])
def test_validation_is_asked_for(monkeypatch: pytest.MonkeyPatch, value: str, is_on: bool) -> None:
    monkeypatch.setenv("GRAPHSCHED_VALIDATE", value)
    assert env.validate() is is_on


def test_each_step_of_the_ladder_tells_more(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    for level in range(5):
        monkeypatch.setenv("GRAPHSCHED_DEBUG", str(level))
        assert cli.run(("run", "-n", "1", "-q", "--temp", "0", "-t", "1")) == 0
        out, err = capsys.readouterr()
        told.append(err)
        assert out.startswith("Once upon a time")
    kinds = [{line.split()[0] for line in err.splitlines()} for err in told]
    assert kinds[0] == set()
    assert kinds[1] == {"plan"}
    assert {"plan", "run"} <= kinds[2]
    assert "(MUL_MAT)" in told[2]
    assert "GB/s" in told[2]
    assert "buffer" not in kinds[2]
    assert {"buffer", "split", "MUL_MAT"} <= kinds[3]
    assert "kernel" not in kinds[3]
    assert {"step", "kernel"} <= kinds[4]
    assert ".py:" in told[4]


def test_measured_times_are_not_shown_as_those_of_a_simulated_device(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHSCHED_DEBUG", "2")
    options = ("--device", "sim:rtx4090", "-ot", "exps=CPU")
    assert cli.run(("run", "-n", "1", "-q", "--temp", "0", "-t", "1", *options)) == 0
    lines = capsys.readouterr().err.splitlines()
    heads = [line for line in lines if line.startswith("run of")]
    assert heads
    about = ", times measured on this machine; the CPU computes for sim0, `graphsched plan` predicts"
    assert all(head.endswith(about) for head in heads)
    rows = [line.split("GB/s ")[1] for line in lines if " µs " in line]
    assert {row.split()[0] for row in rows} == {"CPU"}
    assert any(row.startswith("CPU for sim0 ") for row in rows)
    assert any(not row.startswith("CPU for sim0 ") for row in rows)


def test_a_run_is_logged_whether_or_not_the_trace_is_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHSCHED_DEBUG", "2")
    for is_on in (True, False):
        session = graphsched.load(n_ctx=16, n_threads=1, trace=is_on)
        capsys.readouterr()
        session.eval([1])
        assert "(MUL_MAT)" in capsys.readouterr().err
        assert bool(session.take_trace().runs) is is_on
        session.close()


def test_nothing_is_wrapped_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GRAPHSCHED_DEBUG", "GRAPHSCHED_VALIDATE"):
        monkeypatch.delenv(name, raising=False)
    session = graphsched.load(n_ctx=16)
    assert {type(plan) for plan in session.engine.plans.values()} == {Executable}
