"""`graphsched batched-bench` and `bench -np`: what several sequences read at once, the cells they need, tables."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, Final

import numpy as np
import pytest

import graphsched
from graphsched import Session
from graphsched.arch.cells import cells_of_sequences
from graphsched.cli import main as cli
from graphsched.cli.commands import batched_bench
from graphsched.cli.tables import aligned
from graphsched.errors import ContextError
from graphsched.measure import bench
from graphsched.measure.batched import Load, Point, measure
from graphsched.measure.readers import some_tokens
from graphsched.session.engine import Engine
from graphsched.session.model import Head
from graphsched.session.rows import Aborted, Logits, Rows
from graphsched.types.extents import CELL_BLOCK

Run = Callable[..., tuple[int, str, str]]
Seen = list[tuple[int, list[int]]]  # of each forward: sequences in it, and the positions of its rows
FAST: Final = ("-npp", "8", "-ntg", "2", "-t", "1")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def with_args(command: str, *args: str) -> tuple[int, str, str]:
        code = cli.run((command, *args))
        return code, *capsys.readouterr()

    return with_args


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """The forwards of all engines."""
    found: Seen = []
    forward = Engine.forward

    def noted(self: Engine, rows: Rows, head: Head = "logits") -> Logits:
        found.append((len(np.unique(rows.sequence)), rows.position.tolist()))
        return forward(self, rows, head)

    monkeypatch.setattr(Engine, "forward", noted)
    return found


@pytest.fixture
def session() -> Iterator[Session]:
    with closing(graphsched.load(n_ctx=192, n_parallel=3, n_threads=1)) as opened:
        yield opened


# ---- what is read ----


def test_prompts_are_read_at_once_and_so_are_tokens(session: Session, seen: Seen) -> None:
    measure(session, Load(8, 2, 3), is_warm=True)
    assert seen == [(3, [*range(8)] * 3), (3, [8] * 3), (3, [9] * 3)]


def test_a_run_before_does_not_count(session: Session, seen: Seen) -> None:
    measure(session, Load(4, 1, 2))
    assert seen == 2 * [(2, [*range(4)] * 2), (2, [4, 4])]


def test_a_shared_prompt_is_read_once(session: Session, seen: Seen) -> None:
    measure(session, Load(40, 2, 3, is_shared=True), is_warm=True)
    assert seen == [(1, [*range(40)]), (3, [40] * 3), (3, [41] * 3)]


def test_one_sequence_after_the_other(session: Session, seen: Seen) -> None:
    measure(session, Load(4, 2, 3, is_separate=True), is_warm=True)
    assert seen[1:] == 3 * [(1, [4]), (1, [5])]


@pytest.mark.parametrize("is_shared", [False, True])
def test_nothing_is_left_behind(session: Session, is_shared: bool) -> None:
    session.reset()
    before = session.engine.slots.n_free
    measure(session, Load(40, 2, 3, is_shared), is_warm=True)
    session.reset()
    assert session.engine.slots.n_free == before


def test_sequences_read_different_tokens() -> None:
    with closing(graphsched.load(n_ctx=8)) as session:
        rows = some_tokens(session, 50, 3)
        assert rows.shape == (3, 50)
        assert rows[:, 0].tolist() == [session.tokenizer.bos] * 3
        assert len({tuple(row) for row in rows.tolist()}) == 3
        assert rows.max() < session.model.n_vocab


# ---- cells ----


@pytest.mark.parametrize(("n_sequences", "n_tokens", "n_shared", "cells"), [
    (1, 100, 0, 100),
    (1, 100, 64, 100),
    (3, 10, 0, 2 * 32 + 10),
    (3, 33, 0, 2 * 64 + 33),
    (3, 70, 64, 64 + 2 * 32 + 6),
    (3, 70, 63, 32 + 2 * 64 + 38),
])  # fmt: skip
def test_cells_of_sequences(n_sequences: int, n_tokens: int, n_shared: int, cells: int) -> None:
    assert cells_of_sequences(n_sequences, n_tokens, n_shared) == cells


@pytest.mark.parametrize(
    "load", [Load(8, 30, 3), Load(40, 20, 2), Load(70, 30, 3, is_shared=True), Load(64, 1, 3, is_shared=True)]
)
def test_the_context_is_as_large_as_is_needed(load: Load) -> None:
    with closing(graphsched.load(n_ctx=load.n_cells, n_parallel=load.pl)) as session:
        assert measure(session, load, is_warm=True).load is load
    with (
        closing(graphsched.load(n_ctx=load.n_cells - CELL_BLOCK, n_parallel=load.pl)) as session,
        pytest.raises(ContextError, match="more are -c N"),
    ):
        measure(session, load, is_warm=True)


# ---- its table ----


def test_speeds_are_of_all_sequences_together() -> None:
    point = Point(Load(128, 64, 4), 2.0, 4.0)
    assert (point.speed_pp, point.speed_tg, point.speed, point.load.n_kv) == (256, 64, 128, 768)
    shared = Point(Load(128, 64, 4, is_shared=True), 2.0, 4.0)
    assert (shared.speed_pp, shared.speed_tg, shared.speed, shared.load.n_kv) == (64, 64, 64, 384)


def test_the_table_of_batched_bench(capsys: pytest.CaptureFixture[str]) -> None:
    points = [Point(Load(128, 128, 1), 0.5, 4.0), Point(Load(128, 128, 8), 3.25, 6.5)]
    aligned([batched_bench.as_row(p) for p in points], batched_bench.COLUMNS)
    assert capsys.readouterr().out == (
        "|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |\n"
        "|-------|--------|------|--------|----------|----------|----------|----------|----------|----------|\n"
        "|   128 |    128 |    1 |    256 |    0.500 |   256.00 |    4.000 |    32.00 |    4.500 |    56.89 |\n"
        "|   128 |    128 |    8 |   2048 |    3.250 |   315.08 |    6.500 |   157.54 |    9.750 |   210.05 |\n"
    )


def test_every_combination_has_a_row_with_its_settings(run: Run) -> None:
    code, out, err = run("batched-bench", *FAST, "-npp", "12", "-npl", "1-3", "-ctk", "q8_0", "--json")
    assert (code, err) == (0, "")
    rows = json.loads(out)
    assert [(r["pp"], r["tg"], r["pl"]) for r in rows] == [(pp, 2, pl) for pp in (8, 12) for pl in (1, 2, 3)]
    for row in rows:
        assert (row["n_kv"], row["is_pp_shared"]) == (row["pl"] * (row["pp"] + 2), False)
        assert (row["n_parallel"], row["n_ctx"], row["type_k"]) == (3, 2 * CELL_BLOCK + 14, "q8_0")
        assert row["speed_tg"] == pytest.approx(row["pl"] * 2 / row["t_tg"])
        assert row["t"] == pytest.approx(row["t_pp"] + row["t_tg"])


def test_forms_of_output(run: Run) -> None:
    header, rule, *lines = run("batched-bench", *FAST, "-npl", "1,2", "-pps")[1].splitlines()
    assert [line.split("|")[3].strip() for line in (header, *lines)] == ["B", "1", "2"]
    assert len({len(line) for line in (header, rule, *lines)}) == 1
    (first,) = csv.DictReader(io.StringIO(run("batched-bench", *FAST, "-npl", "2", "-pps", "-o", "csv")[1]))
    assert (first["n_kv"], first["is_pp_shared"]) == ("12", "True")
    assert len(run("batched-bench", *FAST, "-npl", "2", "-tgs", "-o", "jsonl")[1].splitlines()) == 1


def test_a_large_context_is_not_one_of_a_sequence(run: Run) -> None:
    """The hint at more tokens than in training is about what one sequence may have."""
    assert run("batched-bench", *FAST, "-npl", "2", "-c", "1024", "--no-warmup")[2] == ""
    said = run("batched-bench", *FAST, "-npl", "2", "-c", "1088", "--no-warmup")[2]
    assert said == "hint: the model was trained on 512 tokens, the context has 544 for each sequence\n"


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ("-npp 40 -ntg 16 -npl 2,8 -c 300", "-c is 300, -npp 40 -ntg 16 -npl 8 needs 504"),
        ("-npl 2000", "-npl is 2000, an integer from 1 to 1024 is needed"),
        ("-npp 0", "-npp is 0, an integer from 1 up is needed"),
        ("-o table", "-o is table, one of md, csv, json, jsonl is needed"),
    ],
)
def test_bad_input(run: Run, args: str, sentence: str) -> None:
    assert run("batched-bench", *args.split()) == (2, "", f"graphsched: {sentence}\n")


def test_ctrl_c_ends_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(self: Engine, rows: Rows, head: Head = "logits") -> Logits:
        raise Aborted

    monkeypatch.setattr(Engine, "forward", ended)
    assert run("batched-bench", *FAST)[:2] == (130, "")


# ---- bench -np ----


def test_bench_reads_and_generates_in_all_sequences(session: Session, seen: Seen) -> None:
    result = bench.measure(session, bench.Test(4, 1, 3), 2, is_warm=True)
    depth, prompt = (3, [*range(3)] * 3), (3, [*range(3, 7)] * 3)
    assert seen == [depth, prompt, (3, [7] * 3), prompt, (3, [7] * 3)]
    assert result.samples_ts == tuple(3 * 5 * 1e9 / ns for ns in result.samples_ns)
    assert session.engine.slots.n_free[0] == 2


def test_bench_has_a_row_for_each_number_of_sequences(run: Run) -> None:
    code, out, err = run(
        *["bench", "-np", "1-4*2", "-p", "6", "-n", "2", "-r", "1", "-t", "1", "--no-warmup", "--json"]
    )
    assert (code, err) == (0, "")
    rows = json.loads(out)
    assert [(row["n_parallel"], row["test"]) for row in rows] == [
        (n, test) for n in (1, 2, 4) for test in ("pp6", "tg2")
    ]
    for row in rows:
        n_tokens = row["n_prompt"] + row["n_gen"]
        assert row["avg_ts"] == pytest.approx(row["n_parallel"] * n_tokens * 1e9 / row["avg_ns"])
    header = run(*["bench", "-np", "1,2", "-p", "6", "-n", "0", "-r", "1", "-t", "1", "--no-warmup"])[
        1
    ].splitlines()[0]
    assert [c.strip() for c in header.strip("|").split("|")][4:] == ["threads", "n_parallel", "test", "t/s"]


def test_bench_names_the_context(run: Run) -> None:
    sentence = "-c is 60, 4 sequences of the longest test need 102"
    assert run(*["bench", "-np", "4", "-p", "6", "-n", "0", "-c", "60"]) == (
        2,
        "",
        f"graphsched: {sentence}\n",
    )


def test_settings_of_options_without_lists_stay(run: Run) -> None:
    rows: list[Any] = json.loads(run(*["bench", "-p", "6", "-n", "0", "-r", "1", "-t", "1", "--json"])[1])
    assert [row["n_parallel"] for row in rows] == [1]
