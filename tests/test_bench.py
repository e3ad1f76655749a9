"""`graphsched bench`: what it measures, and the shape of its tables."""

import csv
import io
import json
import re
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import click
import numpy as np
import pytest
from running import model_path

import graphsched
from graphsched.cli import flags
from graphsched.cli import main as cli
from graphsched.cli.arguments import Command
from graphsched.cli.tables import differing
from graphsched.measure import bench
from graphsched.measure.readers import some_tokens
from graphsched.session.model import open_default_or
from graphsched.session.options import SessionOptions
from graphsched.session.session import Session
from graphsched.session.settings import settings
from graphsched.session.switches import SWITCHES

Lines = Callable[..., str]
FAST: Final = ("-p", "12", "-n", "6", "-r", "3", "-t", "1")
KINDS: Final[dict[str, type]] = {
    "test": str,
    "n_prompt": int,
    "n_gen": int,
    "n_depth": int,
    "model_filename": str,
    "model_name": str,
    "model_arch": str,
    "model_type": str,
    "model_size": int,
    "model_n_params": int,
    "fa": bool,
    "rtr": str,
    "backend": str,
    "n_threads": int,
    "n_ctx": int,
    "n_batch": int,
    "n_ubatch": int,
    "type_k": str,
    "type_v": str,
    "mla": int,
    "amb": int,
    "devices": str,
    "offload_policy": str,
    "offload_min_batch": int,
    "mmap": bool,
    "n_gpu_layers": int,
    "overrides": str,
    "n_cpu_moe": int,
    "n_cpu_moe_first": int,
    "cpu_moe": bool,
    "cpu_mask": str,
    "offload_rule": str,
    "kv_offload": bool,
    "main_gpu": int,
    "split_mode": str,
    "tensor_split": str,
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
        kinds = {name: type(value) for name, value in row.items()}
        assert KINDS.items() <= kinds.items()  # and settings that come later
        assert list(kinds)[:4] == list(KINDS)[:4]
    settings = {
        "n_threads": 1,
        "n_ctx": 12,
        "n_batch": 8,
        "n_ubatch": 4,
        "fmoe": False,
        "fused_mul_unary": True,
    }
    assert settings.items() <= rows[0].items()
    model = open_default_or(None)
    assert rows[0]["model_n_params"] == sum(t.numel for t in model.types.values())
    assert rows[0]["model_name"] == model.name


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
    assert set(rows[0]) >= set(KINDS) - {"samples_ns", "samples_ts"}
    assert not {"samples_ns", "samples_ts"} & set(rows[0])
    assert float(rows[0]["avg_ts"]) > 0


def test_markdown(output: Lines) -> None:
    header, rule, *rows = output(*FAST).splitlines()
    assert [c.strip() for c in header.strip("|").split("|")] == [
        *("model", "size", "params", "backend", "threads", "test", "t/s")
    ]
    assert len({len(line) for line in (header, rule, *rows)}) == 1
    assert [row.split("|")[-3].strip() for row in rows] == ["pp12", "tg6"]
    model = open_default_or(None)
    size = sum(t.nbytes for t in model.types.values())
    first = [c.strip() for c in rows[0].split("|")[1:6]]
    assert first[0].startswith(model.name)
    assert first[1:] == [f"{size / 2**20:.2f} MiB", first[2], "cpu", "1"]
    assert re.fullmatch(r"[\d.]+ [KM]", first[2])


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
    (tokens,) = some_tokens(session, 300).tolist()
    assert some_tokens(session, 300).tolist() == [tokens]
    assert tokens[0] == session.tokenizer.bos
    assert all(0 <= t < session.model.n_vocab for t in tokens)
    assert len(set(tokens)) > 100


def test_both_are_one_time() -> None:
    assert counted(bench.Test(30, 3)) == 3 * [(0, 30), (30, 1), (31, 1), (32, 1)]


def test_a_depth_is_filled_once() -> None:
    assert counted(bench.Test(0, 2, 20)) == [(0, 20), *(3 * [(20, 1), (21, 1)])]


def test_speed_is_of_the_tokens_that_count() -> None:
    result = bench.Result(bench.Test(30, 10, 100), (2_000_000_000,), "")
    assert result.samples_ts == (20.0,)


# ---- lists ----


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ("-p 4,8 -n 0", ["pp4", "pp8"]),
        ("-p 4 -p 8 -n 2", ["pp4", "pp8", "tg2"]),
        ("-p 1-3 -n 0", ["pp1", "pp2", "pp3"]),
        ("-p 2-9+3 -n 0", ["pp2", "pp5", "pp8"]),
        ("-p 2-20*3 -n 0", ["pp2", "pp6", "pp18"]),
        ("-p 2,4-5,9 -n 0", ["pp2", "pp4", "pp5", "pp9"]),
        ("-p 0 -n 0 -pg 4,2 -pg 6,1", ["pp4+tg2", "pp6+tg1"]),
        ("-p 0 -n 0 -gp 8,2", ["tg2@pp8"]),
        ("-p 4 -n 2 -d 0,8", ["pp4", "tg2", "pp4 @ d8", "tg2 @ d8"]),
        ("-p 4 -n 2 -pg 4,2 -gp 8,2", ["pp4", "tg2", "pp4+tg2", "tg2@pp8"]),
    ],
)
def test_lists_of_tests(output: Lines, args: str, expected: list[str]) -> None:
    rows = [json.loads(line) for line in output(*args.split(), "-r", "1", "-o", "jsonl").splitlines()]
    assert [row["test"] for row in rows] == expected


def grid_of(line: str) -> list[tuple[Any, SessionOptions]]:
    """What the flags of a command line become."""
    found: list[Any] = []

    @click.command(cls=Command)
    @flags.grid
    def command(grid: Any) -> None:
        found.extend(grid)

    command.main(line.split(), standalone_mode=False)
    return found


def test_every_combination_once_and_the_model_last() -> None:
    grid = grid_of("-m a,b -t 1,2 -ub 8 -ub 16 -fmoe 0,1 -ctk f16,q8_0")
    assert len(grid) == len(set(grid)) == 32
    assert [str(model) for model, _ in grid] == 16 * ["a"] + 16 * ["b"]
    assert {(o.n_threads, o.n_ubatch, o.type_k, "fmoe" in o.off) for _, o in grid} == {
        (t, ub, k, off) for t in (1, 2) for ub in (8, 16) for k in ("f16", "q8_0") for off in (True, False)
    }


def test_without_lists_a_grid_is_the_session() -> None:
    assert grid_of("") == [(None, SessionOptions())]
    assert grid_of("-t 2,2,2") == [(None, SessionOptions(n_threads=2))]


@pytest.mark.parametrize(
    ("line", "field", "values"),
    [
        ("-ot exps=CPU", "overrides", [("exps=CPU",)]),
        ("-ot exps=CPU,attn=CPU", "overrides", [("exps=CPU", "attn=CPU")]),
        ("-ot exps=CPU;", "overrides", [("exps=CPU",), ()]),
        ("-ot a=CPU;b=CPU -ot c=CPU", "overrides", [("a=CPU", "c=CPU"), ("b=CPU", "c=CPU")]),
        ("-ngl 0,10-30+10", "n_gpu_layers", [0, 10, 20, 30]),
        ("-ngl -1,0", "n_gpu_layers", [-1, 0]),
        ("-ts 3/1,1/1", "tensor_split", [(3.0, 1.0), (1.0, 1.0)]),
        ("-nkvo 0,1", "kv_offload", [True, False]),
        ("-nkvo", "kv_offload", [False]),
    ],
)
def test_lists_of_places(line: str, field: str, values: list[Any]) -> None:
    found = [getattr(o.placement, field) for _, o in grid_of(line)]
    if field == "overrides":
        found = [tuple(override.text for override in overrides) for overrides in found]
    assert found == values


@pytest.mark.parametrize(
    ("line", "field", "values"),
    [
        ("-op 26,0,27,0;26,0;", "offload_policy", [{26, 27}, {26}, set()]),
        ("-mla 0-3", "mla", [0, 1, 2, 3]),
        ("-amb 64-256*2", "amb", [64, 128, 256]),
        ("-mmp 0", "mmap", [False]),
        ("--no-mmap", "mmap", [False]),
        ("--no-mmap 0", "mmap", [True]),
        ("-mmp=0,1", "mmap", [False, True]),
        ("--device sim:a;sim:b --device sim:c", "devices", [("sim:a", "sim:c"), ("sim:b", "sim:c")]),
        ("-fmoe", "off", [frozenset()]),
        ("-no-fmoe -t 1", "off", [frozenset({"fmoe"})]),
        ("-fmoe on,off", "off", [frozenset(), frozenset({"fmoe"})]),
        ("-fa 1 -rtr 0", "off", [frozenset()]),
        ("-rtr 0,1,auto", "rtr", ["off", "on", "auto"]),
        ("-ser 6,0.5", "ser", [(6, 0.5)]),
        ("-ser 6,0.5;4,1 -ser off", "ser", [(6, 0.5), (4, 1.0), None]),
        ("-rtr", "rtr", ["on"]),
    ],
)
def test_lists_of_options(line: str, field: str, values: list[Any]) -> None:
    assert [getattr(o, field) for _, o in grid_of(line)] == values


def test_each_combination_is_measured_with_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    line = "bench -p 8 -n 0 -r 1 -t 1 -b 8 -ub 4,8 -fmoe 0,1 -op 26,0 -ot exps=CPU --json"
    assert cli.run(line.split()) == 0
    out, err = capsys.readouterr()
    rows = json.loads(out)
    assert [(row["n_ubatch"], row["fmoe"]) for row in rows] == [(4, False), (4, True), (8, False), (8, True)]
    assert {(row["offload_policy"], row["overrides"], row["n_gpu_layers"]) for row in rows} == {
        ("MUL_MAT=0", "exps=CPU", 0)
    }
    assert err.count("no usable GPU") == 1  # not for each combination


def test_layers_on_devices_are_those_that_are_there(output: Lines) -> None:
    line = "-p 4 -n 0 -r 1 -ngl 2 --device sim:rtx4090 --json"
    (row,) = json.loads(output(*line.split()))
    assert (row["n_gpu_layers"], row["devices"]) == (2, "sim:rtx4090")


def test_markdown_shows_what_varies_and_what_is_not_the_default() -> None:
    def shown(line: str) -> tuple[str, ...]:
        return differing([settings(replace(o, n_ctx=512)) for _, o in grid_of(line)])

    assert shown("") == ()
    assert shown("-t 1,2") == ()  # the column is always there
    assert shown("-ub 512") == ()
    assert shown("-ub 256,512") == ("n_ubatch",)
    assert shown("-fmoe 0,1 -mla 1") == ("mla", "fmoe")
    assert shown("-ot exps=CPU") == ("overrides",)


def test_models_are_compared(output: Lines) -> None:
    small = str(model_path("llama-F32"))
    embedded = str(open_default_or(None).file.path)
    rows = json.loads(output("-m", f"{small},{embedded}", "-p", "4", "-n", "2", "-r", "1", "--json"))
    assert [(row["model_filename"], row["test"]) for row in rows] == [
        (name, test) for name in (small, embedded) for test in ("pp4", "tg2")
    ]


def test_sql_fills_a_table(output: Lines) -> None:
    database = sqlite3.connect(":memory:")
    database.executescript(output(*FAST, "-o", "sql", "-ot", "ffn|a'b=CPU"))
    found = database.execute("SELECT test, n_prompt, overrides, fmoe FROM test").fetchall()
    database.close()
    assert found == [("pp12", 12, "ffn|a'b=CPU", 1), ("tg6", 0, "ffn|a'b=CPU", 1)]


def test_the_context_of_training_is_shown_as_none_given(output: Lines) -> None:
    assert "pp12" in output(*FAST, "-c", "0", "-n", "0")


def test_without_warm_up() -> None:
    session: Any = Counting()
    bench.measure(session, bench.Test(8, 0), 1, is_warm=True)
    assert session.seen == [(0, 8)]


def test_the_command_line_of_pr_232(capsys: pytest.CaptureFixture[str]) -> None:
    """As it stands there but for fewer tokens."""
    line = r"bench -p 64 -n 2 -r 1 -t 1 -ngl 100 -rtr 1 -ot \.ffn_.*_exps\.=CPU"
    assert cli.run(line.split()) == 0
    out, err = capsys.readouterr()
    assert [line.split("|")[-3].strip() for line in out.splitlines()[2:]] == ["pp64", "tg2"]
    assert err.count("\n") <= 1  # where there is no GPU that is said
