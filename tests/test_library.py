"""The public library: docs/library.md as it stands, graphs by hand on several devices, and times kept apart."""

import io
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

import graphsched
from graphsched import Error, OptionError, ShapeError
from graphsched.tensor import Extent, Tensor, TensorType, f32, input_tensor, weight
from graphsched.types import dtypes

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "library.md"
ROWS, WIDTH, HIDDEN = 64, 32, 96


def blocks() -> list[tuple[str, str]]:
    """The page's blocks: what they are, and their text."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    assert sum(kind == "python" for kind, _ in found) >= 7
    return found


def test_the_page_runs_and_prints_what_it_shows() -> None:
    names: dict[str, Any] = {}
    printed = ""
    for kind, text in blocks():
        if kind == "python":
            with redirect_stdout(io.StringIO()) as out:
                exec(text, names)
            printed = out.getvalue()
        elif kind == "text":
            assert printed == text
    assert len(names["text"]) > 16
    assert names["logits"].shape == (1, 1024)


def test_graph_plan_run_and_times_take_fifteen_lines() -> None:
    section = PAGE.read_text().partition("## A graph by hand")[2].partition("## A policy")[0]
    lines = [line for text in re.findall(r"```python\n(.*?)```", section, re.S) for line in text.split("\n")]
    code = [line for line in lines if line and not line.startswith("assert")]
    assert len(code) <= 15


def mlp(rows: int = ROWS, dtype: Any = dtypes.F32) -> Tensor:
    """down(silu(up x)) + x"""
    x = input_tensor("x", f32(rows, WIDTH))
    up, down = (
        weight(n, TensorType(dtype, s)) for n, s in (("up", (HIDDEN, WIDTH)), ("down", (WIDTH, HIDDEN)))
    )
    return graphsched.ops.mul_mat(down, graphsched.ops.silu(graphsched.ops.mul_mat(up, x))) + x


def values() -> tuple[dict[str, Any], dict[str, Any]]:
    random = np.random.default_rng(1)
    weights = {"up": random.normal(size=(HIDDEN, WIDTH)), "down": random.normal(size=(WIDTH, HIDDEN))}
    return weights, {"x": random.normal(size=(ROWS, WIDTH)).astype(np.float32)}


def expected(weights: dict[str, Any], x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    h = x.astype(np.float64) @ weights["up"].T
    return (h / (1 + np.exp(-h))) @ weights["down"].T + x


@pytest.mark.parametrize("homes", ["", "up=sim0", {"up": "sim0", "down": "sim1"}, {"down": "sim0"}])
@pytest.mark.parametrize("policy", [None, "26,0"])
def test_a_plan_has_the_hosts_bits_wherever_it_runs(homes: Any, policy: Any) -> None:
    weights, inputs = values()
    (host,) = graphsched.plan(mlp(), threads=1).run(weights, inputs)
    (split,) = graphsched.plan(mlp(), devices="sim:2x3090", homes=homes, policy=policy, threads=1).run(
        weights, inputs
    )
    np.testing.assert_array_equal(split, host)
    np.testing.assert_allclose(host, expected(weights, inputs["x"]), rtol=1e-4, atol=1e-4)


def test_policies_and_homes_decide_where_nodes_run() -> None:
    def devices(**options: Any) -> list[str]:
        made = graphsched.plan(mlp(), devices="sim:rtx4090", **options).schedule
        return [made.assignment.device[n] for n in made.graph.nodes if n.sources[0].kind == "weight"]

    assert devices() == ["sim0", "sim0"]  # 64 rows are enough to upload
    assert devices(policy="MUL_MAT=0") == ["CPU", "CPU"]
    assert devices(policy="MUL_MAT=0", homes="down=sim0") == ["CPU", "sim0"]


def test_weights_are_numbers_or_bytes_and_are_read_once() -> None:
    weights, inputs = values()
    plan = graphsched.plan(mlp(dtype=dtypes.Q8_0), threads=1)
    raw = {name: dtypes.Q8_0.quantize(w) for name, w in weights.items()}
    (numbers,), (stored,) = plan.run(weights, inputs), plan.run(raw, inputs)
    np.testing.assert_array_equal(numbers, stored)
    assert np.abs(numbers - expected(weights, inputs["x"])).max() > 1e-3  # they are 8 bits wide
    raw["up"] = np.zeros_like(raw["up"])
    (again,) = plan.run(raw, inputs)
    np.testing.assert_array_equal(again, stored)
    (other,) = plan.run(dict(raw), inputs)
    np.testing.assert_array_equal(other, inputs["x"])


def test_lengths_are_those_of_the_run() -> None:
    weights, inputs = values()
    y = mlp(Extent(ROWS, "n_tokens"))
    (result,) = graphsched.plan(y, lengths={"n_tokens": 5}, threads=1).run(weights, {"x": inputs["x"][:5]})
    assert result.shape == (5, WIDTH)
    np.testing.assert_allclose(result, expected(weights, inputs["x"][:5]), rtol=1e-4, atol=1e-4)


def test_several_outputs_come_in_order() -> None:
    x = input_tensor("x", f32(4, WIDTH))
    double, square = x + x, x * x
    given = np.arange(4 * WIDTH, dtype=np.float32).reshape(4, WIDTH)
    for outputs in ((double, square), (square, double)):
        found = graphsched.plan(graphsched.make_graph(*outputs), threads=1).run({}, {"x": given})
        results = {double: 2 * given, square: given**2}
        for output, result in zip(outputs, found, strict=True):
            np.testing.assert_array_equal(result, results[output])


def test_predicted_and_measured_times_are_never_mixed() -> None:
    weights, inputs = values()
    plan = graphsched.plan(mlp(), devices="sim:rtx4090", homes="up=sim0", threads=1)
    before = plan.times()
    assert before.measured is None
    assert "measured: no run yet" in str(before)
    plan.run(weights, inputs)
    plan.run(weights, inputs)
    after = plan.times()
    assert after.predicted is not None
    assert after.measured is not None
    assert before.predicted is not None
    assert after.predicted.events == before.predicted.events
    assert len(after.measured.runs) == 1  # of the last run
    predicted, measured = str(after).split("\nmeasured on this machine, in the last run")
    assert predicted.startswith("predicted on RTX 4090")
    assert "CPU for" not in predicted
    rows = measured.splitlines()[1:]
    assert any("CPU for sim0" in row for row in rows)
    assert all("CPU for sim0" in row for row in rows if "sim0" in row)
    ops = {e.op for e in after.measured.events if e.kind == "step"}
    assert {"MUL_MAT", "UNARY", "ADD"} <= {e.op for e in after.predicted.events if e.kind == "step"} <= ops


def test_times_without_a_described_machine_are_measured_ones() -> None:
    plan = graphsched.plan(mlp(), threads=1)
    plan.run(*values())
    assert plan.times().predicted is None
    assert "predicted: no machine is described" in str(plan.times())
    plan.close()
    assert plan.times().measured is None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"homes": {"upp": "sim0"}}, "homes has 'upp', the graph has up, down"),
        ({"homes": {"up": "gpu"}}, "homes has 'up' on 'gpu'; there are sim0, CPU"),
        ({"homes": "up=sim1"}, "homes up=sim1: no buffer type sim1; there are CPU, sim0"),
        ({"homes": "up"}, "homes up needs a pattern and a buffer type, as in exps=CPU"),
        ({"devices": ("CUDA0", "cuda0")}, "devices names CUDA0 twice"),
        ({"devices": 5}, "devices is 5, a text or several are needed"),
        ({"policy": "26"}, "offload_policy 26: no 0 or 1 follows 26"),
        (
            {"policy": object()},
            "offload_policy is of type object, a text such as 26,0 or an object with wants(node, rows) is needed",
        ),
        ({"lengths": {"n_tokens": 3}}, "lengths has n_tokens 3, the graph has none"),
        ({"threads": -2}, "n_threads is -2, an integer from 0 to 1024 is needed"),
        ({"off": ("magic",)}, "off has no switch 'magic'"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(OptionError, match="^" + re.escape(sentence)):
        graphsched.plan(mlp(), **{"devices": "sim:rtx4090"} | options)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda w, i: w.pop("up"), "there are no values for weight 'up'"),
        (lambda w, i: i.pop("x"), "there are no values for input 'x'"),
        (lambda w, i: w.update(up=w["up"].T), "weight 'up' has shape [32, 96], [96, 32] is needed"),
        (lambda w, i: i.update(x=i["x"][1:]), "input 'x' has shape [63, 32], [64, 32] is needed"),
    ],
)
def test_values_that_do_not_fit_are_one_sentence(change: Any, sentence: str) -> None:
    weights, inputs = values()
    change(weights, inputs)
    with pytest.raises(ShapeError) as caught:
        graphsched.plan(mlp(), threads=1).run(weights, inputs)
    assert str(caught.value) == sentence
    assert isinstance(caught.value, Error)


@pytest.mark.parametrize("name", graphsched.__all__)
def test_public_names_are_there(name: str) -> None:
    assert getattr(graphsched, name) is not None
