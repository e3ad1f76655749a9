"""The benchmark tools: what they read from programs, what they make of it, and that they measure every op."""

import json
import stat
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any, Final

import bench_ops
import bench_peers
import bench_start
import numpy as np
import ops_run
import pytest
import sass
from bench_report import command_line, table, write_section
from model_work import prompt_ops, token_bytes
from op_runs import as_reference
from ops_cases import VIEWS, Shape, shapes
from ops_run import Running, has_kernel, nodes_of, prepare
from peer_runs import Asked, Program, RunError, ours, run, speeds
from peer_table import Estimate, Results, Row, Work, as_table, rows
from running import nmse

from graphsched.backends.cpu.formats.rows import PRODUCT_TYPES
from graphsched.errors import OptionError
from graphsched.graph.opdef import OPS, Op, nbytes
from graphsched.graph.tensor import input_tensor
from graphsched.session.model import DEFAULT_MODEL, open_default_or
from graphsched.types import dtypes

# As llama-bench of llama.cpp prints it (most settings left out): no name of the test, a depth.
MAINLINE: Final = """[
  {"build_commit": "0c1e570", "model_filename": "a.gguf", "flash_attn": -1, "n_prompt": 512, "n_gen": 0,
   "n_depth": 0, "avg_ns": 2000000000, "avg_ts": 256.0, "samples_ns": [ 2000000000 ], "samples_ts": [ 256.0 ]},
  {"build_commit": "0c1e570", "model_filename": "a.gguf", "flash_attn": -1, "n_prompt": 0, "n_gen": 64,
   "n_depth": 0, "avg_ns": 1000000000, "avg_ts": 64.0, "samples_ns": [ 1000000000, 2000000000 ],
   "samples_ts": [ 64.0, 32.0 ]}
]
"""
# As that of ik_llama.cpp does: the test's name, no depth, and what -rtr tells amid the array.
FORK: Final = """[
============ Repacked 155 tensors
  {
    "build_commit": "0115ace2", "model_filename": "a.gguf", "flash_attn": true, "fused_moe": true,
    "n_prompt": 512, "n_gen": 0, "test_time": "2026-01-01T00:00:00Z", "avg_ns": 1280000000, "stddev_ns": 0,
    "avg_ts": 400.000000, "stddev_ts": 0.000000, "test": "pp512",
    "samples_ns": [ 1280000000 ],
    "samples_ts": [ 400 ]
  },
  {
    "build_commit": "0115ace2", "n_prompt": 512, "n_gen": 64, "avg_ns": 1, "stddev_ns": 0,
    "avg_ts": 70.5, "stddev_ts": 0.0, "test": "tg64@pp512"
  },
  {
    "build_commit": "0115ace2", "n_prompt": 0, "n_gen": 32, "avg_ns": 0, "avg_ts": inf, "test": "tg32"
  }
]
"""
FAKE: Final = """#!{python}
import json, sys
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if "refused" in flags["-m"]:
    sys.exit("error: unknown type of tensor")
assert flags["-r"] == "1" and flags["-o"] == "json" and flags["-fa"] == "1", flags
print("[")
for p, n in ((int(flags["-p"]), 0), (0, int(flags["-n"]))):
    row = dict(n_prompt=p, n_gen=n, n_depth=0, samples_ts=[2.0 if p else 4.0])
    print(json.dumps(row), "," if p else "]")
"""


def test_json_of_llama_cpp() -> None:
    assert speeds(MAINLINE) == {"pp512": 256.0, "tg64": 48.0}


def test_json_of_ik_llama_cpp() -> None:
    assert speeds(FORK) == {"pp512": 400.0, "tg64@pp512": 70.5}


def test_other_output_is_no_result() -> None:
    assert speeds("") == speeds("error: {broken") == speeds('{"a": 1}') == {}


def results() -> Results:
    made = Results(threads={"a.gguf": 2, "b.gguf": 2})
    made.peaks[2] = [{"bandwidth": 40e9, "int8": 1e12, "f32": 5e11}] * 5
    for own, theirs in ((100.0, 50.0), (90.0, 60.0), (500.0, 55.0)):
        made.add("a.gguf", "graphsched", {"pp512": own, "tg64": own / 2})
        made.add("a.gguf", "llama.cpp", {"pp512": theirs})
        made.add("b.gguf", "graphsched", {"pp512": 30.0})
    return made


WORK: Final = Work(lambda name: 0.6e9, lambda name, n: 2e9 * n, cache=32 << 20)


def made_rows(*estimates: Estimate) -> dict[tuple[str, str], Row]:
    found = rows(results(), ["graphsched"], ["llama.cpp", "absent"], estimates, WORK)
    return {(row.model, row.test): row for row in found}


def test_medians_ratios_and_shares() -> None:
    found = made_rows()
    prompt, token = found["a.gguf", "pp512"], found["a.gguf", "tg64"]
    assert (prompt.speed, prompt.peers) == (100.0, {"llama.cpp": 55.0})  # a peer that never ran has no column
    assert prompt.ratio("llama.cpp") == prompt.ratio(prompt.best) == pytest.approx(100 / 55)
    assert prompt.of_int8 == pytest.approx(100 * 2e9 / 1e12)
    assert token.bandwidth == pytest.approx(30e9)
    assert token.of_bandwidth == pytest.approx(0.75)
    assert token.best == ""
    assert token.ratio("llama.cpp") is None


def test_an_estimate_is_marked_and_may_be_the_best() -> None:
    fork = Estimate("ik_llama.cpp", 1.6, "pp*", "a*")
    found = made_rows(fork, Estimate("ik_llama.cpp", 2.0, "pp*", "b*", of="a.gguf"))
    row = found["a.gguf", "pp512"]
    assert row.peers["ik_llama.cpp"] == pytest.approx(88.0)
    assert (row.best, row.estimated) == ("ik_llama.cpp", ("ik_llama.cpp",))
    assert found["a.gguf", "tg64"].peers["ik_llama.cpp"] is None
    assert found["b.gguf", "pp512"].peers["ik_llama.cpp"] == pytest.approx(110.0)
    text = as_table(list(found.values()))
    assert "ik_llama.cpp, estimate" in text
    assert "≈88.0" in text
    assert "≈1.14" in text
    assert len({len(line) for line in text.splitlines()}) == 1


def test_estimates_on_the_command_line() -> None:
    assert bench_peers.estimate("ik=1.6") == Estimate("ik", 1.6)
    assert bench_peers.estimate("ik=1.6:pp*:*q4_0*:other*") == Estimate("ik", 1.6, "pp*", "*q4_0*", "other*")
    for wrong in ("ik", "ik=fast", "ik=1:a:b:c:d"):
        with pytest.raises(OptionError, match="NAME="):
            bench_peers.estimate(wrong)


def test_tests_of_some_models() -> None:
    options = bench_peers.parse(
        ["-m", "a", "-t", "2", "--for", "*260K*=-p 0 -n 128 -t 1", "--ours", "-rtr 1"]
    )
    assert bench_peers.tests_of(Path("stories260K.gguf"), options) == Asked("0", "128", 1)
    assert bench_peers.tests_of(Path("x/a.gguf"), options) == Asked("512", "64", 2)
    (program,) = bench_peers.own_programs(options)
    assert program.argv(Path("a"), Asked())[-2:] == ("-rtr", "1")
    options.others = ["*=-ngl 1"]
    with pytest.raises(OptionError, match="-ngl is none of"):
        bench_peers.tests_of(Path("a"), options)


def test_a_page_keeps_its_other_sections(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Here\n\ntext\n\n## One\n\nold\n\n### Part\n\nold\n\n## Two\n\nkept\n")
    write_section(page, "One", "new")
    write_section(page, "Three", "last")
    assert page.read_text() == "# Here\n\ntext\n\n## One\n\nnew\n\n## Two\n\nkept\n\n## Three\n\nlast\n"
    with pytest.raises(OptionError, match=r"a\.txt"):
        write_section(tmp_path / "a.txt", "One", "new")


def test_a_command_without_folders() -> None:
    line = command_line("x.py", ["-m", "/a/b/c.gguf", "--peer", "llama.cpp=/p/q/llama-bench", "-rtr 1"])
    assert line == "python tools/bench/x.py -m c.gguf --peer llama.cpp=llama-bench '-rtr 1'"


def test_a_table_is_aligned() -> None:
    assert table(["a", "b"], [["x", "10"]]).splitlines() == ["| a |  b |", "| - | -: |", "| x | 10 |"]


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """A llama-bench that measures nothing."""
    program = tmp_path / "llama-bench"
    program.write_text(FAKE.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def test_a_program_that_fails_is_named(fake: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="p on refused: exit code 1, error: unknown type of tensor"):
        run(Program("p", (str(fake),)), Path("refused"), Asked())
    with pytest.raises(RunError, match="no such file"):
        run(Program("p", (str(tmp_path / "absent"),)), Path("a"), Asked())


def test_one_run_of_ours() -> None:
    assert run(ours("graphsched", ("-rtr", "1")), DEFAULT_MODEL, Asked("4", "2")).keys() == {"pp4", "tg2"}


def test_peers_end_to_end(
    fake: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours stands for a fake, too: what it measures is a test of its own."""
    own = tmp_path / "own"
    own.write_text(fake.read_text().replace("2.0 if p", "5.0 if p").replace('"refused"', '"nothing"'))
    own.chmod(fake.stat().st_mode)
    monkeypatch.setattr(bench_peers, "ours", lambda name, flags: Program(name, (str(own),), tuple(flags)))
    monkeypatch.setattr(
        bench_peers, "measured_peaks", lambda n: dict.fromkeys(("bandwidth", "int8", "f32"), 1e9)
    )
    page, refused = tmp_path / "page.md", tmp_path / "refused.gguf"
    refused.write_bytes(DEFAULT_MODEL.read_bytes())
    arguments = ["-m", str(DEFAULT_MODEL), "-m", str(refused), "-p", "4", "-n", "2", "-t", "1", "--json"]
    arguments += ["--peer", f"fake={fake}", "--theirs", "fake=-fa 1", "--estimate", "guess=3:pp*"]
    assert bench_peers.main([*arguments, "--ours", "-fa 1", "--out", str(page)]) == 0
    out, err = capsys.readouterr()
    data = json.loads(out)
    first, *others = data["rows"]
    assert (first["test"], first["peers"], first["best"]) == ("pp4", {"fake": 2.0, "guess": 6.0}, "guess")
    assert first["ratios"]["fake"] == pytest.approx(5.0 / 2)
    assert len(others) == 3
    assert [len(r["speeds"]["graphsched"]) for r in data["rounds"]] == [5] * 4
    assert err.count("left out: fake on refused.gguf") == 1
    assert str(tmp_path) not in page.read_text()
    assert "fake does not run refused.gguf" in page.read_text()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["-r", "4"], "fewer than 5"),
        (["-m", "absent.gguf"], "absent.gguf: no such file"),
        (["--theirs", "who=-fa 1"], "no --peer"),
        (["--peer", "p=a", "--estimate", "p=2"], "this program is measured"),
    ],
)
def test_bad_flags_end_in_a_sentence(more: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_peers.main(["-m", str(DEFAULT_MODEL), *more]) == 2
    assert told in capsys.readouterr().err


def test_what_a_model_asks_for() -> None:
    """A mixture reads the experts it chooses; the embedding is a table."""
    model = open_default_or(None)
    sizes = {n: t.nbytes for n, t in model.types.items()}
    experts = {n: t for n, t in model.types.items() if n.endswith("_exps.weight")}
    share = model.config.n_expert_used / model.config.n_expert  # type: ignore[attr-defined]
    tied = "output.weight" not in sizes
    rest = sum(
        n for name, n in sizes.items() if name not in experts and (tied or name != "token_embd.weight")
    )
    expected = rest + share * sum(t.nbytes for t in experts.values())
    assert token_bytes(DEFAULT_MODEL) == pytest.approx(expected, rel=1e-3)
    assert prompt_ops(DEFAULT_MODEL, 64) > 32 * prompt_ops(DEFAULT_MODEL, 1) > 0


def test_every_op_has_shapes() -> None:
    """Every op that has a kernel here: what GPUs alone take whole is measured as its parts."""
    measured = {s.op for n in (1, 512) for s in shapes(n)}
    assert measured | VIEWS >= {op for op in set(Op) & set(OPS) if "cpu" in OPS[op].lowerings}
    assert not measured & VIEWS
    types = {s.type for s in shapes(1) if s.op is Op.MUL_MAT and has_kernel(s)}
    assert types >= {t.name for t in PRODUCT_TYPES if t != dtypes.I2_S}  # of which a copy is read


def product(kind: str, op: Op = Op.MUL_MAT, tokens: int = 1) -> Shape:
    return next(s for s in shapes(tokens) if s.op is op and s.type == kind)


FROM_MEMORY: Final = (product("Q4_0"), product("Q8_0", Op.MUL_MAT_ID), product("F16", Op.FLASH_ATTN_EXT))


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    """A last-level cache of this size, whatever the machine has."""
    size: int = request.param << 20
    monkeypatch.setattr(ops_run, "last_level_cache", lambda: size)
    return size


@pytest.mark.parametrize("cache", [8], indirect=True)
def test_weights_do_not_stay_in_the_cache(cache: int) -> None:
    for shape in FROM_MEMORY:
        work = prepare(shape)
        assert work.nbytes * len(work.nodes) >= 2 * cache, shape
        if shape.op is Op.MUL_MAT:
            assert len(work.weights) == len(work.nodes) == nodes_of(shape)


@pytest.mark.parametrize("cache", [1, 32, 480], indirect=True)
def test_there_are_enough_nodes_for_every_cache(cache: int) -> None:
    for shape in FROM_MEMORY:
        leaves = [input_tensor(str(i), type) for i, type in enumerate(shape.case.types)]
        node = OPS[shape.op](*leaves, **shape.case.attrs)
        assert nbytes(node) * nodes_of(shape) >= 2 * cache, shape


@pytest.mark.parametrize("op", [Op.RMS_NORM, Op.FUSED_MUL_UNARY, Op.SET_ROWS, Op.FLASH_ATTN_EXT])
def test_what_is_timed_is_computed(op: Op) -> None:
    """The first node's result against the reference on what the tool has put into its operands."""
    shape = next(s for s in shapes(1) if s.op is op and s.type in ("F32", "F16"))
    work = prepare(shape)
    running = Running(work, 1)
    assert running.microseconds() > 0
    node, runtime = work.nodes[0], running.runtime
    fed = {s: runtime.input(s) for s in node.sources}
    raw = {s: a if s.dtype == dtypes.I32 else a.reshape(-1).view(np.uint8) for s, a in fed.items()}
    arrays = [as_reference(s.type, raw[s]).copy() for s in node.sources]
    reference = node.opdef.run_reference  # type: ignore[union-attr]
    got = running.executable.outputs[0]
    expected = reference(*arrays, **node.attrs)  # type: ignore[misc]
    assert nmse(np.asarray(got, np.float32), expected) < 1e-9


def test_ops_end_to_end(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates are counts over time, and the share is that of the nearer bound."""
    peak = {"bandwidth": 1e9, "int8": 1e10, "f32": 1e10}
    monkeypatch.setattr(bench_ops, "measured_peaks", lambda n: peak)
    arguments = ["--op", "rms_norm,UNARY", "--tokens", "2", "-t", "1", "-r", "2", "--model", "1.1B", "--json"]
    assert bench_ops.main(arguments) == 0
    found = json.loads(capsys.readouterr().out)["rows"]
    assert {row["op"] for row in found} == {"RMS_NORM", "UNARY"}
    row = found[0]
    assert row["gb_s"] == pytest.approx(2 * 2 * 2048 * 4 / row["us"] / 1e3)
    assert (row["bound"], row["share"]) == ("memory", pytest.approx(row["gb_s"]))


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--op", "NOPE"], "--op NOPE: there are ADD"),
        (["--type", "Q4_9"], "--type Q4_9: there are"),
        (["-t", "0"], "1 is the least"),
        (["--model", "nobody"], "no shape fits"),
    ],
)
def test_bad_selections_end_in_a_sentence(
    flags: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench_ops.main(flags) == 2
    assert told in capsys.readouterr().err


def test_a_wrong_type_of_machine_code_ends_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert sass.main(["gemm_q8", "--types", "q4_0,zz"]) == 2
    assert capsys.readouterr().err.startswith("error: --types zz: there are q4_0, ")


def test_overhead_out_of_a_profile() -> None:
    old = [
        {"wall": 9.0, "ops": [{"seconds": 7.0}], "overhead": {"dispatch": 1.0, "barrier": 2.0, "host": 0.0}}
    ]
    assert bench_start.overhead_shares(old) == {"dispatch": 0.1, "barrier": 0.2}
    listed = [
        {"name": n, "seconds": s} for n, s in (("compute on CPU", 7.0), ("barriers", 2.0), ("plan", 1.0))
    ]
    assert bench_start.overhead_shares({"phases": [{"ops": [], "overhead": listed}]}) == {"barriers": 0.2}


def test_kernels_in_a_cache_folder(tmp_path: Path) -> None:
    for name in (
        "cpu-norm-rms_norm_f32_0.0123456789abcdef.kernel",
        "cpu-norm-rms_norm_f32_1.0123456789abcdef.kernel",
        "program-pool-start.0123456789abcdef.kernel",
    ):
        (tmp_path / name).touch()
    assert bench_start.compiled(tmp_path) == 2


@pytest.mark.slow
def test_start_of_the_embedded_model(capsys: pytest.CaptureFixture[str]) -> None:
    """The first start compiles, the second does not; a line knows whether it is met."""
    options: Any = Namespace(model=None, threads=1, rounds=1, n_gen=4, ctx_size=64)
    lines, notes = bench_start.measured(options)
    first, second, kernels, private, overhead = lines
    assert first.value > second.value
    assert 0 < kernels.value <= bench_start.KERNELS
    assert kernels.met
    assert notes["kv_and_arena"] + bench_start.MARGIN == private.limit
    assert private.value > 1e7
    assert 0 <= overhead.value < 1
    assert bench_start.sentences(notes)[0].startswith("stories.gguf: later starts")
