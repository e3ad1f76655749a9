"""Predictions for this machine: measured rates, descriptions of it, and plans laid beside runs."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from graphsched.errors import OptionError
from graphsched.graph import ops
from graphsched.graph.cost import Cost, cost_of
from graphsched.graph.tensor import Extent, TensorType, f32, i32, input_tensor, weight
from graphsched.machine import kept
from graphsched.machine.changes import changed, parse_changes
from graphsched.machine.description import load, read, text_of
from graphsched.machine.machine import Machine, Processor, Rates, node_seconds
from graphsched.measure import machine, products
from graphsched.predict.critical import critical_path, shares
from graphsched.predict.plan import Plan, make_plan
from graphsched.session.model import open_default_or
from graphsched.session.options import session_options
from graphsched.types import dtypes

KINDS = dict.fromkeys(("f32", "f16", "bf16", "int8"), 1000000000000.0)
RATES = Rates((1, 4, 8), (10e9, 20e9, 40e9))
HOST = Processor("cpu", 1 << 34, 20e9, KINDS, 1.0, 1.0, {"MUL_MAT Q4_0": RATES}, 40e9, 100.0)
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def described(tmp_path: Path) -> Path:
    path = tmp_path / "m.toml"
    path.write_text(text_of(Machine("mine", HOST, ())))
    return path


@pytest.mark.parametrize(
    ("rows", "rate"),
    # one row takes 0.1, four take 0.2 and eight take 0.2: two are a third of the way from 0.1 to 0.2
    [(0.5, 10e9), (1, 10e9), (2, 2e9 / (0.4 / 3)), (4, 20e9), (6, 30e9), (8, 40e9), (512, 40e9)],
)
def test_seconds_lie_on_a_line_between_measured_rows(rows: float, rate: float) -> None:
    assert RATES.at(rows) == pytest.approx(rate)


def test_one_measured_row_holds_for_all() -> None:
    assert Rates((4,), (5e9,)).at(1) == Rates((4,), (5e9,)).at(9) == 5e9


def test_a_product_takes_as_long_as_it_was_measured_to() -> None:
    cost = Cost(8e9, 1e12, "int8", "MUL_MAT Q4_0", 4)
    assert node_seconds(HOST, cost) == pytest.approx(0.4)
    assert node_seconds(HOST, Cost(8e9, 40e9, "int8", "MUL_MAT Q4_1", 4)) == pytest.approx(2)  # by its bytes
    assert node_seconds(HOST, Cost(0, 40e9, "f32")) == pytest.approx(1)  # operands in a cache


def test_products_by_their_matrices_and_rows() -> None:
    matrix, experts = TensorType(dtypes.Q4_0, (64, 128)), TensorType(dtypes.Q4_0, (8, 64, 128))
    w, x = weight("w", matrix), input_tensor("x", f32(6, 128))
    cost = cost_of(ops.mul_mat(w, x), {})
    assert cost.product == "MUL_MAT Q4_0"
    assert cost.rows == pytest.approx(6)
    one = ops.mul_mat_id(
        weight("e", experts), input_tensor("y", f32(1, 1, 128)), input_tensor("i", i32(1, 2))
    )
    assert cost_of(one, {}).product == "MUL_MAT Q4_0"
    assert cost_of(one, {}).rows == pytest.approx(1)
    many = ops.mul_mat_id(
        weight("e", experts), input_tensor("y", f32(64, 1, 128)), input_tensor("i", i32(64, 2))
    )
    assert cost_of(many, {}).rows == pytest.approx(64 * 2 / 8)  # as good as all experts are used
    joined = ops.mul_mat_qkv(x, w, w, w)
    assert cost_of(joined, {}).product == "MUL_MAT Q4_0"
    assert cost_of(joined, {}).rows == pytest.approx(6)


def test_a_product_of_no_rows_costs_nothing() -> None:
    experts = weight("e", TensorType(dtypes.Q4_0, (8, 64, 128)))
    none = ops.mul_mat_id(
        experts,
        input_tensor("y", f32(Extent(4, "n_outputs"), 1, 128)),
        input_tensor("i", i32(Extent(4, "n_outputs"), 2)),
    )
    assert cost_of(none, {"n_outputs": 0}).flops == 0
    assert cost_of(none, {"n_outputs": 0}).rows == 0


def test_a_description_is_read_as_it_was_written(described: Path) -> None:
    assert read(described) == Machine("mine", HOST, ())


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("rows = [1, 4, 8]", "rows = [1, 8, 4]", "key host.product[0].rows is not in order"),
        ("rows = [1, 4, 8]", "rows = [1, 4]", "a rising list is needed"),
        ("rows = [1, 4, 8]", "rows = 3", "key host.product[0].rows is 3, a list of numbers is needed"),
        ("rates = [1e+10", "rates = [-1", "key host.product[0].rates[0] is -1, a number above 0"),
        ("[[host.product]]", "[[host.products]]", "m.toml: key host.products is unknown"),
    ],
)
def test_bad_descriptions(described: Path, old: str, new: str, sentence: str) -> None:
    described.write_text(described.read_text().replace(old, new))
    with pytest.raises(OptionError) as e:
        read(described)
    assert sentence in str(e.value)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements in no time, of what is in a cache."""
    for name, value in {
        "SECONDS": 0.0,
        "MATRIX": (64, 256),
        "CELLS": 128,
        "last_level_cache": lambda: 1,
    }.items():
        monkeypatch.setattr(products, name, value)
    monkeypatch.setattr(machine, "ROWS", (1, 8))
    monkeypatch.setattr(machine, "QUERIES", (1, 8))
    monkeypatch.setattr(machine, "host_peaks", lambda n: {"bandwidth": 1e10, **KINDS})


def test_this_machine_is_measured(small: None) -> None:
    told: list[str] = []
    types = (dtypes.Q4_0, dtypes.F16)
    found = machine.measure(1, types, lambda what, *_: told.append(what)).machine
    assert set(found.host.products) == {
        "MUL_MAT Q4_0", "MUL_MAT F16", "FLASH_ATTN_EXT F16", "FLASH_ATTN_EXT Q8_0",
    }  # fmt: skip
    for rates in found.host.products.values():
        assert len(rates.rows) == 2
        assert min(rates.rates) > 0
    assert min(found.host.launch_us, found.host.run_us, found.host.near_bandwidth) > 0
    assert found.name == kept.name_of(1)
    assert "measuring attention F16, 1 threads" in told
    more = machine.measure(1, (dtypes.Q8_0,), lambda *_: None, found).machine
    assert set(more.host.products) == {*found.host.products, "MUL_MAT Q8_0"}


def test_plans_use_what_was_measured(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.setenv("GRAPHSCHED_MEASURED", "1")
    monkeypatch.setattr(kept, "file_of", lambda n: tmp_path / f"{n}.toml")
    assert kept.kept(1) is None
    code, out, err = run("measure", "-t", "1", "--types", "q4_0")
    assert code == 0, err
    assert "MUL_MAT Q4_0" in out
    assert kept.kept(1) == read(tmp_path / "1.toml")
    code, out, _ = run("plan", "-t", "1")
    assert code == 0
    assert f"predicted on {kept.name_of(1)}" in out
    assert "predicted" not in run("plan", "-t", "2")[1]
    (tmp_path / "1.toml").write_text("of another version")
    assert "predicted" not in run("plan", "-t", "1")[1]


def test_a_run_begins_with_the_work_of_python(described: Path) -> None:
    options = session_options(machine=str(described), n_ctx=64, n_threads=1)
    plan = make_plan(open_default_or(None, (), header_only=True), options, 1, 1, 8)
    assert plan.timeline is not None
    first = plan.timeline.events[0]
    assert (first.kind, first.start) == ("host", 0)
    assert first.end == pytest.approx(100e-6)
    assert min(e.start for e in plan.timeline.events[1:]) == pytest.approx(100e-6)


@pytest.mark.parametrize(
    "phase", [(), ("--phase", "prefill", "-p", "40", "-ub", "16"), ("-np", "3", "-p", "8")]
)
def test_a_plan_beside_a_run(described: Path, run: Run, phase: tuple[str, ...]) -> None:
    code, out, err = run("plan", "--check", "--json", "-t", 2, "-c", 256, "--machine", described, *phase)
    assert code == 0, err
    found = json.loads(out)
    for side in ("predicted", "measured"):
        assert sum(row[side] for row in found["rows"]) == pytest.approx(found["wall"][side])
    by_op = {row["what"]: row for row in found["rows"]}
    assert {"MUL_MAT", "FLASH_ATTN_EXT", "Python"} <= set(by_op)
    assert all(row["predicted"] and row["measured"] for row in by_op.values())
    assert by_op["MUL_MAT"]["error"] == pytest.approx(
        by_op["MUL_MAT"]["predicted"] / by_op["MUL_MAT"]["measured"] - 1
    )


def test_the_table_of_a_check(described: Path, run: Run) -> None:
    code, out, err = run("plan", "--check", "-t", 1, "-c", 64, "-p", 8, "--machine", described)
    assert code == 0, err
    assert "predicted and measured" in out
    assert "MUL_MAT_QKV" in out
    assert "tokens/s, measured" in out


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("plan", "--plot", "a.svg"), "--plot draws the lengths of --sweep N,..."),
        (("plan", "--sweep", "8", "--plot", "a.gif"), "--plot a.gif: a name that ends in .svg or .png"),
        (("plan", "--sweep", "1-9999*2", "-c", "64"), "does not fit the context of 64 tokens"),
        (("plan", "--check"), "--check needs a prediction: graphsched measure measures this machine"),
        (("plan", "--check", "--device", "sim:rtx4090"), "--check is for plans without simulated devices"),
        (("plan", "--machine", "m.txt"), "--machine is m.txt, the path of a .toml file is needed"),
        (("plan", "--machine", "nowhere.toml"), "nowhere.toml: no such file or directory"),
        (("measure", "-t", "0"), "-t is 0, numbers from 1 to 1024 are needed"),
        (("measure", "--types", "I32"), "--types I32: there are no products with weights of this type"),
        (("measure", "-t", "1,2", "-o", "m.toml"), "-o is one file"),
    ],
)
def test_what_is_refused(run: Run, args: tuple[Any, ...], sentence: str) -> None:
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert sentence in err


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("link=2x", lambda m: (m.devices[0].link.up, m.devices[0].link.down), (50e9, 52e9)),
        ("up=10GB/s", lambda m: (m.devices[0].link.up, m.devices[0].link.down), (10e9, 26e9)),
        ("sync=0", lambda m: m.devices[0].link.latency_us, 0),
        ("sync=-3us,sync=2x", lambda m: m.devices[0].link.latency_us, 10),
        ("vram=+8GB", lambda m: m.devices[0].processor.memory_bytes, 25_757_220_864 + 8_000_000_000),
        ("device=0.5x", lambda m: m.devices[0].processor.rates["f16"], 82.6e12),
        ("device=2x", lambda m: m.devices[0].processor.bandwidth, 2 * 907e9),
        ("memory=80", lambda m: m.host.bandwidth, 80e9),
        ("barrier=0.5µs", lambda m: m.host.launch_us, 0.5),
        ("launch=.5x", lambda m: m.devices[0].processor.graph_us, 0.65),
    ],
)
def test_what_if(text: str, value: Callable[[Machine], Any], expected: Any) -> None:
    before = load("sim:rtx4090")
    after = changed(before, parse_changes(text))
    assert value(after) == pytest.approx(expected)
    assert after.name == f"{before.name}, {text}"
    assert changed(before, ()) == before


def test_a_faster_host_has_faster_products() -> None:
    host = changed(Machine("mine", HOST, ()), parse_changes("host=2x")).host
    assert host.products["MUL_MAT Q4_0"].at(4) == pytest.approx(40e9)
    assert (host.near_bandwidth, host.bandwidth) == (80e9, 40e9)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("links=2x", "has links, which is none of link, up, down,"),
        ("link", "has link, a value as 2x, 10GB/s or +10GB/s is needed"),
        ("sync=2GB", "has sync=2GB, a value as 2x, 10us or +10us is needed"),
        ("link=+2x", "has link=+2x, a value as"),
        ("host=3", "has host=3, a factor as 2x is needed"),
        ("vram=-900GB", "is vram=-900GB: nothing computes or copies at 0"),
    ],
)
def test_bad_changes(run: Run, text: str, sentence: str) -> None:
    code, out, err = run("plan", "--device", "sim:rtx4090", "--what-if", text)
    assert (code, out) == (2, "")
    assert f"--what-if {sentence}" in err


def test_what_if_shows_what_changes(run: Run) -> None:
    args = ("plan", "--device", "sim:rtx4090", "-ot", "exps=CPU", "--json")
    before = json.loads(run(*args)[1])["predicted"]["wall"]
    change = json.loads(run(*args, "--what-if", "sync=0,link=4x")[1])
    assert change["seconds"][0] == before > change["seconds"][1]
    text = run(*args[:-1], "--what-if", "sync=0")[1]
    assert "no node moves" in text
    assert "(-" in text


def sim_plan() -> Plan:
    options = session_options(devices="sim:rtx4090", overrides="exps=CPU", n_ctx=128)
    return make_plan(open_default_or(None, (), header_only=True), options, 1, 1, 8)


def test_the_critical_path_is_as_long_as_the_run(described: Path) -> None:
    on_host = session_options(machine=str(described), n_ctx=64, n_threads=1)
    model = open_default_or(None, (), header_only=True)
    for plan in (sim_plan(), make_plan(model, on_host, 1, 1, 8)):
        timeline = plan.timeline
        assert timeline is not None
        path = critical_path(timeline)
        assert sum(e.end - e.start for e in path) == pytest.approx(timeline.wall)
        assert all(a.end == pytest.approx(b.start) for a, b in pairwise(path))
        assert sum(share.seconds for share in shares(path)) == pytest.approx(timeline.wall)
    lanes = {share.lane for share in shares(critical_path(sim_plan().timeline))}  # type: ignore[arg-type]
    assert {"CPU", "sim0", "sim0 up", "sim0 down"} <= lanes


def test_the_table_of_the_critical_path(run: Run) -> None:
    args = ("plan", "--device", "sim:rtx4090", "-ot", "exps=CPU", "--critical-path")
    code, out, _ = run(*args)
    assert code == 0
    assert "critical path" in out
    found = json.loads(run(*args, "--json")[1])["critical_path"]
    assert sum(row["seconds"] for row in found["rows"]) == pytest.approx(found["wall"])
    code, _, err = run("plan", "--critical-path")
    assert code == 2
    assert "--critical-path needs a prediction" in err


def test_prompts_of_several_lengths(run: Run) -> None:
    args = ("plan", "--device", "sim:rtx4090", "-ot", "exps=CPU", "-c", "512", "--sweep", "8-512*4")
    rows = json.loads(run(*args, "--json")[1])
    assert [row["n_tokens"] for row in rows] == [8, 32, 128, 512]
    assert rows[0]["uploads"] == 0 < rows[-1]["uploads"]
    assert rows[0]["predicted"] < rows[-1]["predicted"]
    assert rows[0]["measured"] is None
    assert "uploads" in run(*args)[1]


def test_lengths_are_run_and_drawn(described: Path, run: Run, tmp_path: Path) -> None:
    plot = tmp_path / "lengths.svg"
    args = ("--machine", described, "-t", "1", "-c", "64", "--sweep", "4,40", "--check", "--plot", plot)
    code, out, err = run("plan", *args, "--json")
    assert code == 0, err
    rows = json.loads(out)
    assert all(row["measured"] > 0 for row in rows)
    assert rows[0]["error"] == pytest.approx(rows[0]["predicted"] / rows[0]["measured"] - 1)
    drawn = plot.read_text()
    assert "predicted" in drawn
    assert "measured" in drawn
