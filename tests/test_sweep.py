"""`graphsched sweep-bench`: what it measures, its table, and its plot."""

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

import graphsched
from graphsched.cli import main as cli
from graphsched.cli.commands import sweep_bench
from graphsched.cli.tables import aligned
from graphsched.measure.sweep import Point, sweep
from graphsched.report import plot

Run = Callable[..., tuple[int, str, str]]
FAST: Final = ("-c", "64", "-ub", "16", "-t", "1")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def with_args(*args: str) -> tuple[int, str, str]:
        code = cli.run(("sweep-bench", *args))
        return code, *capsys.readouterr()

    return with_args


class Counting:
    """A session that counts what it is asked to evaluate."""

    def __init__(self, n_ctx: int) -> None:
        self._session = graphsched.load(n_ctx=n_ctx)
        self.seen: list[tuple[int, int]] = []  # position, tokens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def eval(self, tokens: Any) -> Any:
        self.seen.append((self._session.n_past, len(tokens)))
        return self._session.eval(tokens)


def test_the_cache_fills_by_prompts_only() -> None:
    session: Any = Counting(24)
    points = list(sweep(session, 8, 2))
    assert [(p.pp, p.tg, p.n_kv) for p in points] == [(8, 2, 0), (8, 2, 8), (8, 2, 16)]
    warm = [(0, 1), (1, 1), (0, 8)]
    assert session.seen == warm + [pair for n in (0, 8, 16) for pair in ((n, 1), (n + 1, 1), (n, 8))]


def test_every_repetition_starts_from_the_same_cache() -> None:
    session: Any = Counting(16)
    list(sweep(session, 8, 1, repetitions=2))
    assert session.seen[2:] == [(0, 1), (0, 1), (0, 8), (0, 8), (8, 1), (8, 1), (8, 8), (8, 8)]


def test_generation_ends_with_the_context() -> None:
    assert [p.tg for p in sweep(graphsched.load(n_ctx=16), 8, 12)] == [12, 8]


def test_the_table_of_sweep_bench(capsys: pytest.CaptureFixture[str]) -> None:
    points = [Point(512, 128, 0, 1.1, 2.3112), Point(512, 128, 8192, 2.1957, 3.8542)]
    aligned([sweep_bench.as_row(p) for p in points], sweep_bench.COLUMNS)
    assert capsys.readouterr().out == (
        "|    PP |     TG |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |\n"
        "|-------|--------|--------|----------|----------|----------|----------|\n"
        "|   512 |    128 |      0 |    1.100 |   465.45 |    2.311 |    55.38 |\n"
        "|   512 |    128 |   8192 |    2.196 |   233.18 |    3.854 |    33.21 |\n"
    )


def test_rows_carry_their_settings(run: Run) -> None:
    code, out, err = run(*FAST, "-n", "3", "-ctk", "q8_0", "-nrep", "2", "--json")
    assert (code, err) == (0, "")
    rows = json.loads(out)
    assert [(row["pp"], row["tg"], row["n_kv"]) for row in rows] == [(16, 3, n) for n in (0, 16, 32, 48)]
    for row in rows:
        assert (row["type_k"], row["n_ubatch"], row["n_ctx"]) == ("q8_0", 16, 64)
        assert row["speed_pp"] == pytest.approx(16 / row["t_pp"])
        assert row["speed_tg"] == pytest.approx(3 / row["t_tg"])


def test_a_quarter_of_the_prompt_is_generated(run: Run) -> None:
    lines = run(*FAST)[1].splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:]] == ["4"] * 4
    (first, *_) = csv.DictReader(io.StringIO(run(*FAST, "-o", "csv")[1]))
    assert first["tg"] == "4"
    assert len(run(*FAST, "-o", "jsonl")[1].splitlines()) == 4


@pytest.mark.parametrize("kind", plot.FORMATS)
def test_plot(run: Run, tmp_path: Path, kind: str) -> None:
    pytest.importorskip("matplotlib", reason="the plot is an extra")
    out = tmp_path / f"sweep.{kind.upper()}"
    assert run(*FAST, "--plot", str(out))[0] == 0
    data = out.read_bytes()
    assert b"tokens in the KV cache" in data if kind == "svg" else data.startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ("-ub 600 -c 512 -b 600", "-ub is 600, the context has 512; a larger one is -c N"),
        ("-ub 8 -c 16 -n 17", "-n is 17, the context has 16; a larger one is -c N"),
        ("-nrep 0", "-nrep is 0, an integer from 1 up is needed"),
        ("-o md", "-o is md, one of table, csv, json, jsonl is needed"),
        ("--plot x.pdf", "--plot x.pdf: a name that ends in .svg or .png is needed"),
        ("--plot no/x.svg", "no/x.svg: no such file or directory"),
    ],
)
def test_bad_input(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", sys)  # as if it were there
    assert run(*args.split()) == (2, "", f"graphsched: {sentence}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_plot_without_matplotlib(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    sentence = "--plot needs matplotlib, which pip install 'graphsched[plot]' installs"
    assert run("--plot", str(tmp_path / "x.svg")) == (2, "", f"graphsched: {sentence}\n")
