"""`graphsched bench`: what it measures, and the shape of its tables."""

import csv
import io
import json
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pytest

import graphsched
from graphsched import bench, cli
from graphsched.options import SWITCHES
from graphsched.session import Session

Lines = Callable[..., str]
FAST: Final = ("-p", "12", "-n", "6", "-r", "3", "-t", "1")
KINDS: Final[dict[str, type]] = {
    "test": str,
    "n_prompt": int,
    "n_gen": int,
    "model_filename": str,
    "model_name": str,
    "model_arch": str,
    "model_type": str,
    "model_size": int,
    "model_n_params": int,
    "backend": str,
    "n_threads": int,
    "n_ctx": int,
    "n_batch": int,
    "n_ubatch": int,
    "type_k": str,
    "type_v": str,
    "mla": int,
    **{name.replace("-", "_"): bool for name in SWITCHES},
    "version": str,
    "test_time": str,
    "avg_ns": int,
    "stddev_ns": int,
    "avg_ts": float,
    "stddev_ts": float,
    "samples_ns": list,
    "samples_ts": list,
}


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> Lines:
    def of(*args: str) -> str:
        assert cli.run(("bench", *args)) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out

    return of


def test_json(output: Lines) -> None:
    rows = json.loads(output(*FAST, "-o", "json", "-b", "8", "-ub", "4", "--no-fmoe"))
    assert [row["test"] for row in rows] == ["pp12", "tg6"]
    for row in rows:
        assert {name: type(value) for name, value in row.items()} == KINDS
    settings = {
        "n_threads": 1,
        "n_ctx": 12,
        "n_batch": 8,
        "n_ubatch": 4,
        "fmoe": False,
        "fused_mul_unary": True,
    }
    assert settings.items() <= rows[0].items()
    assert (rows[0]["model_n_params"], rows[0]["model_type"]) == (2501120, "Q8_0")


def test_json_has_an_alias(output: Lines) -> None:
    assert [row["n_prompt"] for row in json.loads(output(*FAST, "--json"))] == [12, 0]


def test_statistics(output: Lines) -> None:
    prompt, generation = json.loads(output(*FAST, "--json"))
    for row, n in ((prompt, 12), (generation, 6)):
        assert row["samples_ts"] == pytest.approx([n * 1e9 / ns for ns in row["samples_ns"]])
        assert len(row["samples_ts"]) == 3
        assert row["avg_ts"] == pytest.approx(np.mean(row["samples_ts"]))
        assert row["stddev_ts"] == pytest.approx(np.std(row["samples_ts"], ddof=1))
    assert json.loads(output("-p", "0", "-n", "2", "-r", "1", "--json"))[0]["stddev_ts"] == 0


@pytest.mark.parametrize(
    ("args", "tests"), [(("-p", "0", "-n", "2"), ["tg2"]), (("-p", "2", "-n", "0"), ["pp2"])]
)
def test_zero_leaves_a_test_out(output: Lines, args: tuple[str, ...], tests: list[str]) -> None:
    assert [row["test"] for row in json.loads(output(*args, "-r", "1", "--json"))] == tests


def test_csv(output: Lines) -> None:
    rows = list(csv.DictReader(io.StringIO(output(*FAST, "-o", "csv"))))
    assert [row["test"] for row in rows] == ["pp12", "tg6"]
    assert set(rows[0]) == set(KINDS) - {"samples_ns", "samples_ts"}
    assert float(rows[0]["avg_ts"]) > 0


def test_markdown(output: Lines) -> None:
    header, rule, *rows = output(*FAST).splitlines()
    assert [c.strip() for c in header.strip("|").split("|")] == [
        *("model", "size", "params", "backend", "threads", "test", "t/s")
    ]
    assert len({len(line) for line in (header, rule, *rows)}) == 1
    assert len(rows) == 2
    assert rows[0].split("|")[1:6] == [
        " graphsched stories Q8_0      ",
        "   2.56 MiB ",
        "     2.50 M ",
        " cpu     ",
        "       1 ",
    ]


def test_markdown_shows_settings_that_are_not_the_default(output: Lines) -> None:
    header = output(*FAST, "-ub", "4", "-ctk", "f32", "--no-fused-rms-norm").splitlines()[0]
    assert [c.strip() for c in header.strip("|").split("|")][5:8] == ["n_ubatch", "type_k", "fused_rms_norm"]


class Counting:
    """A session that counts what it is asked to evaluate."""

    def __init__(self) -> None:
        self._session = graphsched.load(n_ctx=40)
        self.seen: list[tuple[int, int]] = []  # position, tokens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def eval(self, tokens: Any) -> Any:
        self.seen.append((self._session.n_past, len(tokens)))
        return self._session.eval(tokens)


def counted(test: bench.Test) -> list[tuple[int, int]]:
    session: Any = Counting()
    result = bench.measure(session, test, 2)
    assert len(result.samples_ns) == 2
    return list(session.seen)


def test_a_prompt_is_evaluated_from_an_empty_cache() -> None:
    assert counted(bench.Test(40, 0)) == [(0, 40)] * 3  # one to warm up


def test_generation_is_token_by_token_from_an_empty_cache() -> None:
    warm = [(i, 1) for i in range(bench.WARM_TOKENS)]
    assert counted(bench.Test(0, 40)) == warm + 2 * [(i, 1) for i in range(40)]


def test_tokens_are_valid_and_the_same_each_time() -> None:
    session: Session = graphsched.load()
    tokens = bench.some_tokens(session, 300)
    assert tokens == bench.some_tokens(session, 300)
    assert tokens[0] == session.tokenizer.bos
    assert all(0 <= t < session.model.n_vocab for t in tokens)
    assert len(set(tokens)) > 100
