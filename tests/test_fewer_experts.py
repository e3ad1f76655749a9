"""-ser: experts of small score are left out, against a forward pass that leaves them out itself."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from running import nmse
from tiny import files, forward
from tiny.files import encoded_tensor, keys, row, shapes

from graphsched.cli import main as cli
from graphsched.errors import OptionError
from graphsched.measure.activations import Activations
from graphsched.session.model import open_default_or
from graphsched.session.options import session_options
from graphsched.session.session import Session

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def with_args(*args: Any) -> tuple[int, str, str]:
        return cli.run([str(a) for a in args]), *capsys.readouterr()

    return with_args


class Reduced(forward.Model):
    """The plain forward pass, in which experts behind the first `least` need a share of the best one's score."""

    least, share = 1, 0.5
    counts: dict[int, int]  # experts that compute, by layer

    def routed(self, il: int, h: forward.Array) -> tuple[NDArray[np.int64], forward.Array]:
        logits = self.linear(f"blk.{il}.ffn_gate_inp", h)
        kind = {1: "softmax", 2: "sigmoid"}.get(self.keys.get("expert_gating_func", 0), self.rules.router)
        p = forward.softmax(logits) if kind == "softmax" else forward.sigmoid(logits)
        score = logits if kind == "chosen" else p + self.w.get(f"blk.{il}.exp_probs_b.bias", 0.0)
        used = self.keys["expert_used_count"]
        chosen = forward.best(score, used)
        s = np.take_along_axis(score, chosen, axis=1)
        stays = (np.arange(used) < self.least) | (s >= self.share * s[:, :1])
        self.counts[il] = int(stays.sum())
        if kind == "chosen":
            return chosen, forward.softmax(np.where(stays, s, -np.inf))
        weights = np.where(stays, np.take_along_axis(p, chosen, axis=1), 0)
        normalised = self.rules.normalised
        if self.keys.get("expert_weights_norm", False) if normalised is None else normalised:
            weights = weights / weights.sum(axis=1, keepdims=True)
        return chosen, weights * (self.keys.get("expert_weights_scale", 0.0) or 1.0)


def expected(name: str, least: int, share: float) -> tuple[forward.Array, dict[int, int]]:
    tensors = {t: encoded_tensor(name, t, shape)[2] for t, shape in shapes(name).items()}
    stored = {k: float(np.float32(v)) if isinstance(v, float) else v for k, v in keys(name).items()}
    model = Reduced(row(name).architecture, stored, tensors)
    model.least, model.share, model.counts = least, share, {}
    return model.logits(files.tokens(name)), model.counts


def got(name: str, pieces: int, **options: Any) -> tuple[NDArray[np.float32], dict[int, int]]:
    seen = Activations()
    chosen = session_options(n_ctx=64, type_k="f32", type_v="f32", **options)
    session = Session(open_default_or(files.path(name)), chosen, None, seen)
    parts = np.array_split(files.tokens(name), pieces)
    logits = np.concatenate([session.eval(part, all_logits=True) for part in parts])
    counts = {n: int(c.sum()) for n, c in seen.counts.items() if n.endswith("ffn_down_exps.weight")}
    return logits, {int(name.split(".")[1]): n for name, n in counts.items()}


@pytest.mark.parametrize(("least", "share"), [(1, 1.0), (1, 0.7), (1, 0.0)])
@pytest.mark.parametrize("name", ["qwen3moe", "qwen2moe", "mixtral", "gpt-oss", "glm4moe"])
def test_results_and_how_many_experts_compute(name: str, least: int, share: float) -> None:
    logits, counts = expected(name, least, share)
    for pieces in (1, 32):
        found = got(name, pieces, ser=(least, share))
        assert found[1] == counts
        assert nmse(found[0], logits.astype(np.float32)) < 1e-3
    used = keys(name)["expert_used_count"]
    if share == 1:
        assert set(counts.values()) == {len(files.tokens(name))}
    if share == 0 and name != "gpt-oss":  # whose scores may be below 0
        assert set(counts.values()) == {len(files.tokens(name)) * used}


def test_devices_compute_the_same() -> None:
    here = got("qwen3moe", 2, ser="1,0.6")
    there = got("qwen3moe", 2, ser="1,0.6", devices="sim:rtx4090", overrides="exps=CPU", offload_min_batch=1)
    np.testing.assert_array_equal(here[0], there[0])
    assert here[1] == there[1]


def test_as_many_experts_as_are_used_change_nothing() -> None:
    used = keys("qwen3moe")["expert_used_count"]
    plain, same = got("qwen3moe", 1), got("qwen3moe", 1, ser=(used, 1.0))
    np.testing.assert_array_equal(plain[0], same[0])


@pytest.mark.parametrize("given", ["", "1", "0,1", "1,2", "1,-0.1", "x,1", "1,x", "1,1,1", "1.5,1", (1,), 3])
def test_bad_values(given: Any) -> None:
    with pytest.raises(
        OptionError, match=r"^ser is .* a number of experts from 1 up and a share from 0 to 1, as in"
    ):
        session_options(ser=given)


def test_the_flag(run: Run) -> None:
    args = ("run", "-n", "30", "--temp", "0", "--no-timings", "-p", "Once upon a time")
    plain, same, other = run(*args), run(*args, "-ser", "2,0.5"), run(*args, "-ser", "1,1")
    assert same[:2] == plain[:2]
    assert same[2] == "hint: without effect: -ser, as no layer chooses more than 2 experts, or by groups\n"
    assert (other[0], other[2]) == (0, "")
    assert other[1] != plain[1]
    assert run(*args, "-ser", "off") == plain
    sentence = "a number of experts from 1 up and a share from 0 to 1, as in 6,0.5, is needed"
    assert run(*args, "-ser", "0,1") == (2, "", f"graphsched: -ser is 0,1, {sentence}\n")
    assert run("plan", "-ser", "1,0.5", "--nodes")[0] == 0
    assert run("plan", "-m", files.path("deepseek2-v3"), "-ser", "1,0.5")[2].startswith(
        "hint: without effect: -ser"
    )
