"""`graphsched profile`: tables, files, pages and comparisons."""

import csv
import importlib
import io
import json
import re
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from chrome_traces import assert_is_chrome_trace
from chromium import chromium
from needs import needs_chromium
from running import model_path

from graphsched.cli import main as cli
from graphsched.machine.description import load
from graphsched.measure import peaks

FAST = ("-p", "8", "-n", "3", "-r", "2", "-t", "1", "-c", "64")
DEEPSEEK = "deepseek2-short"
HYBRID = ("--device", "sim:rtx4080-7950x", "-ngl", "99", "-ot", "exps=CPU", "-mla", "0")

Output = Callable[..., str]


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Output:
    """Runs `profile`; what it prints. Peaks are given: measuring them takes seconds."""
    given = {"bandwidth": 1e10, "int8": 1e12, "f32": 2e11, "f16": 2e11, "bf16": 2e11}
    monkeypatch.setattr(peaks, "host_peaks", lambda n_threads, refresh=False: given)

    def run(*args: str, code: int = 0) -> str:
        assert cli.run(["profile", *args]) == code
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    return run


def table(text: str, title: str) -> list[list[str]]:
    """The cells of a piped table, columns apart by two spaces."""
    lines = text[text.index(f"{title}\n") :].split("\n\n")[0].splitlines()
    return [re.split(r"\s{2,}", line.strip()) for line in lines[1:]]


# ---- tables ----


def test_tables_of_a_run(output: Output) -> None:
    text = output(*FAST)
    assert "prompt, 8 tokens: " in text
    assert "measured, mean of 2" in text
    ops = table(text, "CPU: time by op")
    assert ops[0] == ["index", "OP", "µs", "fraction", "GB/s", "GOP/s", "of peak"]
    assert [row[0] for row in ops[1:]] == [str(i) for i in range(len(ops) - 1)]
    assert {"MUL_MAT", "MOE_FUSED_UP_GATE", "FLASH_ATTN_EXT", "quantize"} <= {row[1] for row in ops}
    results = table(text, "CPU: products by result, layers summed")
    assert {"Qcur", "kqv_out", "ffn_moe_gate_par", "ffn_moe_down", "result_output"} <= {r[1] for r in results}
    assert "CPU: layers 0 to 3, the slowest is" in text
    owners = table(text, "where the wall time is")
    assert owners[0] == ["owner", "µs", "fraction", "busy µs"]
    assert owners[-1][0] == "wall"
    assert sum(float(row[2]) for row in owners[1:-1]) == pytest.approx(1, abs=1e-3)


# PR 232 and the discussion it follows: rows by op; PR 180: the attention products of DeepSeek-Lite, by result.
OPS = {"MUL_MAT", "SOFT_MAX", "ADD", "MUL", "ROPE", "CPY", "GET_ROWS", "CONT"}
OURS = {
    "CPY": "SET_ROWS",
    "CONT": None,
}  # rows go into the cache by SET_ROWS; no kernel needs a dense copy first
ATTENTION = ("kq", "kqv", "kqv_out", "kv", "kv_rope_compressed", "q")


def test_a_hybrid_run_on_sim_has_the_rows_of_the_reference(output: Output) -> None:
    text = output("-m", model_path(DEEPSEEK), "-p", "64", "-n", "4", *HYBRID, "-fa", "0")
    for phase in text.split("\n\nprompt")[-1], text[text.index("\ngeneration") :]:
        ops = {row[1] for row in table(phase, "sim0: time by op")}
        ops |= {op.removeprefix("FUSED_") for op in ops}  # those of queries and keys are one
        assert {OURS.get(op, op) for op in OPS} - {None} <= ops | {"MUL"}
        products = table(phase, "sim0: products by result, layers summed")
        assert set(ATTENTION) <= {result for row in products for result in row[1].split("+")}
    generation = text[text.index("\ngeneration") :]
    on_host = {row[1] for row in table(generation, "CPU: time by op")}
    assert {"MOE_FUSED_UP_GATE", "MUL_MAT_ID", "MUL", "MULTI_ADD"} <= on_host
    (_, *products) = table(generation, "CPU: products by result, layers summed")
    assert [row[1] for row in products] == ["ffn_moe_gate_par", "ffn_moe_down"]
    copies = {(row[0], row[1]) for row in table(generation, "copies")}
    assert {("sim0 down", "ffn_norm"), ("sim0 up", "ffn_moe_out")} <= copies
    waits = {(row[0], row[1]) for row in table(generation, "waits")}
    assert {("CPU", "sim0 down"), ("sim0", "sim0 up")} <= waits


def test_data(output: Output) -> None:
    data = json.loads(output(*FAST, "--json"))
    assert data["settings"]["n_threads"] == 1
    assert data["settings"]["fmoe"] is True
    for phase in data["phases"]:
        assert sum(row["seconds"] for row in phase["overhead"]) == pytest.approx(phase["wall"])
        assert all(row["busy"] >= row["seconds"] for row in phase["overhead"])
        (product,) = (row for row in phase["ops"] if row["name"] == "MUL_MAT")
        assert product["gb_s"] == pytest.approx(product["bytes"] / product["seconds"] / 1e9)
        assert product["of_peak"] > 0
        layers = [row["name"] for row in phase["layers"]]
        assert layers == ["0", "1", "2", "3"]


def test_csv_has_all_tables(output: Output) -> None:
    rows = list(csv.DictReader(io.StringIO(output(*FAST, "--csv"))))
    assert {row["table"] for row in rows} == {"op", "label", "overhead"}
    owned = [float(r["fraction"]) for r in rows if r["table"] == "overhead" and r["phase"] == "generation"]
    assert sum(owned) == pytest.approx(1)


def test_a_header_is_enough_for_a_prediction(output: Output, tmp_path: Path) -> None:
    path = tmp_path / "h.gguf"
    assert cli.run(["synth", "deepseek-v2-lite", str(path), "--header-only"]) == 0
    text = output("-m", str(path), "-p", "0", "-n", "1", *HYBRID)
    assert "predicted" in text
    assert "kv_rope_compressed" in text


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("-p", "0", "-n", "0"), "-p 0 and -n 0 leave nothing to profile"),
        (("--no-trace",), "--no-trace leaves nothing to profile"),
        (("-c", "16", "-p", "16", "-n", "4"), "-p 16 and -n 4 do not fit the context of 16 tokens"),
        (("--vs", "-op 26,0", "--vs-file", "x"), "there is one comparison, --vs or --vs-file"),
        (("--json", "--csv"), "there is one output, --json or --csv"),
        (("--vs", "--device sim:rtx4090"), "a prediction and a measurement are not compared"),
        (("--load", "x", "--html", "y"), "--load shows a saved profile"),
        (("--load", "/nowhere.json"), "/nowhere.json: no such file or directory"),
        (("--trace", "/nowhere/x.json"), "/nowhere/x.json: no such file or directory"),
        (("--vs", "-m x"), "--vs compares flags, not models"),
    ],
)
def test_what_cannot_be(output: Output, args: tuple[str, ...], sentence: str) -> None:
    assert sentence in output(*args, code=2)


# ---- comparison ----


def test_flags_compared_in_turn(output: Output) -> None:
    change = json.loads(output(*FAST, "--vs", "--no-fmoe", "--json"))
    assert change["settings"]["fmoe"] == [True, False]
    for phase in change["phases"]:
        rows = {row["name"]: row for row in phase["ops"]}
        assert rows["MOE_FUSED_UP_GATE"]["second"] == 0 < rows["MOE_FUSED_UP_GATE"]["first"]
        assert rows["FUSED_MUL_UNARY"]["first"] == 0 < rows["FUSED_MUL_UNARY"]["second"]
        for side in ("first", "second"):
            owned = sum(row[side] for row in phase["overhead"])
            assert owned == pytest.approx(phase["wall"][side])
    assert "noise µs" in output(*FAST, "--vs", "--no-fmoe")


def test_predictions_compared(output: Output) -> None:
    text = output("-m", model_path(DEEPSEEK), "-p", "64", "-n", "0", *HYBRID, "--vs", "-op 26,0,27,0,29,0")
    assert "offload_policy: " in text
    line = next(line for line in text.splitlines() if "ffn_gate_exps.weight" in line)
    lane, _, first, second, *_ = re.split(r"\s{2,}", line)
    assert lane == "sim0 up"
    assert float(second) == 0 < float(first)


def test_saved_profiles_compare(output: Output, tmp_path: Path) -> None:
    old, trace = tmp_path / "old.json", tmp_path / "trace.json"
    old.write_text(output(*FAST, "--json", "--trace", str(trace)))
    same = json.loads(output("--load", str(old), "--vs-file", str(trace), "--json"))
    assert same["settings"] == {}
    assert all(row["change"] == 0 for phase in same["phases"] for row in phase["ops"])
    assert "same" in output("--load", str(old), "--vs-file", str(trace))
    assert output("--load", str(old)).count("time by op") == 2
    change = json.loads(output(*FAST, "--vs-file", str(old), "--json"))
    assert len(change["phases"]) == 2
    old.write_text("{}")
    assert "old.json: not a profile that --json or --trace wrote" in output("--load", str(old), code=2)


# ---- timeline ----


def test_trace_of_a_run(output: Output, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    output(*FAST, "-t", "2", "--trace", str(path))
    trace = json.loads(path.read_text())
    assert_is_chrome_trace(trace)
    lanes = {e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"}
    assert lanes == {"Python", "CPU", "CPU thread 1"}
    kinds = {e["cat"] for e in trace["traceEvents"] if e["ph"] == "X"}
    assert {"step", "launch", "inputs", "outputs", "sampling", "detokenise", "wake"} <= kinds


def test_trace_of_a_prediction_has_flows(output: Output, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    output("-m", model_path(DEEPSEEK), "-p", "64", "-n", "1", *HYBRID, "--trace", str(path))
    trace = json.loads(path.read_text())
    assert_is_chrome_trace(trace)
    flows = [e for e in trace["traceEvents"] if e["ph"] == "f"]
    copies = [e for e in trace["traceEvents"] if e["ph"] == "X" and e["cat"] == "copy"]
    assert len(flows) > 0.9 * len(copies) > 20
    assert all(e["args"]["bytes"] > 0 for e in copies)


class Page(HTMLParser):
    """What of a page matters: tags, whatever it would load, and the data in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.data = ""
        self._is_data = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.loads += [v for k, v in attrs if k in ("src", "href") and v and not v.startswith("data:")]
        self._is_data = given.get("id") == "data"

    def handle_data(self, data: str) -> None:
        if self._is_data:
            self.data += data
            self._is_data = False


@pytest.fixture
def page(output: Output, tmp_path: Path) -> Path:
    path = tmp_path / "p.html"
    output("-m", model_path(DEEPSEEK), "-p", "64", "-n", "1", *HYBRID, "--html", str(path))
    return path


def test_page_is_self_contained(page: Path) -> None:
    text = page.read_text()
    found = Page(text)
    assert found.loads == []
    assert not re.search(r"https?://|@import|url\(", text)
    assert {"script", "canvas"} - set(found.tags) == {"canvas"}  # which the script makes
    data = json.loads(found.data)
    assert [p["phase"] for p in data["profile"]["phases"]] == ["prompt, 64 tokens", "generation"]
    for timeline in data["timelines"]:
        assert timeline["lanes"] == ["CPU", "sim0", "sim0 down", "sim0 up"]
        assert len(timeline["slices"]) == timeline["total"] > 100
        assert timeline["flows"]
        assert "split" in timeline["plan"].lower()


@needs_chromium
def test_page_in_a_browser(page: Path) -> None:
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--hide-scrollbars"]
    flags += [
        f"--user-data-dir={page.parent / 'browser'}",
        "--window-size=1200,1400",
        "--virtual-time-budget=2000",
    ]
    program = chromium()
    assert program is not None

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, *flags, *args, page.as_uri()], capture_output=True, text=True, timeout=90, check=True
        )

    drawn = run("--dump-dom")
    assert "CONSOLE" not in drawn.stderr
    assert 'data-ready="true"' in drawn.stdout
    assert drawn.stdout.count("<canvas") == 2
    for text in ("sim0: time by op", "kv_rope_compressed", "Where the wall time is", "copies to devices"):
        assert text in drawn.stdout
    picture = page.with_suffix(".png")
    assert "CONSOLE" not in run(f"--screenshot={picture}").stderr
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture.stat().st_size > 20_000  # an empty page of that size is a tenth of it


# ---- peaks ----


def test_peaks_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHSCHED_CACHE_DIR", str(tmp_path))
    calls: list[int] = []

    class Module:
        @staticmethod
        def measured_peaks(n_threads: int) -> dict[str, float]:
            calls.append(n_threads)
            return {"bandwidth": 1e10, "int8": 1e12, "f32": 1e11 * len(calls)}

    monkeypatch.setattr(importlib, "import_module", lambda name: Module)
    assert peaks.host_peaks(2)["f16"] == 1e11
    assert peaks.host_peaks(2)["f16"] == 1e11
    assert peaks.host_peaks(3)["f32"] == 2e11
    assert peaks.host_peaks(2, refresh=True)["f32"] == 3e11
    (tmp_path / "peaks").write_text('{"broken": ')
    assert peaks.host_peaks(2)["f32"] == 4e11
    assert calls == [2, 3, 2, 2]


def test_peaks_of_a_machine_are_those_described() -> None:
    from graphsched.session.options import SessionOptions

    found = peaks.peaks(SessionOptions(devices=("sim:rtx4090",)))
    machine = load("sim:rtx4090")
    assert found["sim0"]["bandwidth"] == machine.devices[0].processor.bandwidth
    assert found["sim0 up"]["bandwidth"] == machine.devices[0].link.up
    assert found["CPU"]["int8"] == machine.host.rates["int8"]


def test_measured_peaks_are_possible() -> None:
    from graphsched.backends.cpu.peaks import measured_peaks

    found = measured_peaks(1)
    assert 1e8 < found["bandwidth"] < 1e12
    assert 1e8 < found["f32"] < found["int8"] * 2 < 1e14
