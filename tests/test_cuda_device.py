"""The CUDA device in sessions: whole models through the unmodified cuda.core on a stand-in libcuda, without a GPU."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from shared import shared
from test_cuda_driver import HERE, ROOT, library, on_stand_in, pytestmark  # noqa: F401  # skips where they skip
from test_models import MODELS, QUANTS, limits, nmse, reference
from test_profile import assert_is_chrome_trace

import graphsched

Array = NDArray[np.float32]


ENDED = "the worker has ended"


class StandIn:
    """A process on the stand-in driver that answers questions (cuda_emu/worker.py)."""

    def __init__(self, **env: str) -> None:
        command = [sys.executable, str(HERE / "on_stand_in.py"), str(library()), str(HERE / "worker.py")]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env={**os.environ, **env}, cwd=ROOT
        )

    def ask(self, question: str, **arguments: Any) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"ask": question, **arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, ENDED
        answer: dict[str, Any] = json.loads(line)
        assert "failed" not in answer, answer["where"]
        return answer

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            pipe.close()
        self._process.wait(60)


@pytest.fixture(
    scope="module"
)  # for tests that leave nothing behind: starting a process takes longer than most of them
def gpu() -> Iterator[StandIn]:
    made = StandIn()
    yield made
    made.close()


@pytest.fixture(scope="module")
def without_words() -> Iterator[StandIn]:
    """A device whose streams cannot wait for words: the host does."""
    made = StandIn(GS_FAKE_MEM_OPS="0")
    yield made
    made.close()


@pytest.fixture(params=["stream", "host"])
def either(request: pytest.FixtureRequest, gpu: StandIn, without_words: StandIn) -> StandIn:
    """Both kinds of device in turn, by who waits."""
    return gpu if request.param == "stream" else without_words


# ---- ops

CHEAP = [
    "add", "add_id", "clamp", "concat", "cont", "copy_f32", "div", "fused_mul_unary", "fused_rms_norm",
    "get_rows", "grouped_top_k", "mul", "multi_add", "repeat", "rms_norm", "rope", "scale",
    "set_rows", "sigmoid", "softcap", "sqr", "sum_rows", "swiglu_oai",
    "temperature_scale", "top_k", "topk_moe", "unary",
]  # fmt: skip
COSTLY = ["mul_mat", "mul_mat_id", "moe_fused_up_gate"]
# Cases without a kernel, which the scheduler places on the host: matrices of blocks that heads share, as no model has
# them, and types that only the CPU reads.
WITHOUT = {"mul_mat": 2, "get_rows": 1}


def groups() -> list[Any]:
    made = [
        pytest.param(CHEAP, id="cheap ones"),
        pytest.param(["flash_attn_ext", "soft_max", "soft_cap_max"], id="attention"),
    ]
    return [*made, *(pytest.param([op], id=op, marks=pytest.mark.slow) for op in COSTLY)]


@pytest.mark.parametrize("ops", groups())
def test_ops_agree_with_their_references(gpu: StandIn, ops: list[str]) -> None:
    answer = gpu.ask("cases", ops=ops)
    assert answer["bad"] == []
    assert answer["n"] > 3
    missing = Counter(case.partition("(")[0] for case in answer["without"])
    assert missing == {op: n for op, n in WITHOUT.items() if op in ops}


def test_ternary_products_have_the_bits_of_the_host(gpu: StandIn) -> None:
    answer = gpu.ask("same_bits", op="mul_mat", types=["IQ1_BN", "IQ2_BN"])
    assert answer["n"] > 20
    assert answer["differ"] == []


# ---- models


def run(gpu: StandIn, tmp_path: Path, name: str, n: int = 32, **options: Any) -> Array:
    shared(f"{name}.npz")
    path = tmp_path / "logits.npy"
    gpu.ask("logits", name=name, path=str(path), n=n, **options)
    got: Array = np.load(path)
    return got


def close(name: str, got: Array) -> None:
    want = reference(name).logits[: len(got)]
    limit, gap = limits(name)
    assert nmse(got, want) <= limit
    if "gemma2" in name:  # it repeats its input: the best token says nothing
        return
    best = np.sort(want, axis=1)[:, -2:]
    clear = best[:, 1] - best[:, 0] > gap
    np.testing.assert_array_equal(got.argmax(axis=1)[clear], want.argmax(axis=1)[clear])


FEW = {"conformance/deepseek2-lite-f16": 7}  # tokens by default, of a model of a thousand nodes
DEFAULT = [
    "conformance/llama-f16", "quants/llama-Q4_0", "quants/llama-Q8_0", "conformance/qwen3moe-f16",
    "conformance/deepseek2-lite-f16", "conformance/gpt-oss-f16", "quants/bitnet-b1.58-iq2_bn", "quants/bitnet-iq1_bn",
]  # fmt: skip


def by_default(names: list[str], default: list[str]) -> list[Any]:
    return [pytest.param(n, marks=() if n in default else pytest.mark.slow) for n in names]


@pytest.mark.parametrize("name", by_default(MODELS + QUANTS, DEFAULT))
def test_models_on_the_gpu(gpu: StandIn, tmp_path: Path, name: str) -> None:
    n = FEW.get(name, 32)
    close(name, run(gpu, tmp_path, name, n, first=min(24, n - 3)))


IN_PARTS = ["conformance/gemma2-f16", "conformance/gpt-oss-f16"]  # soft cap; sinks and windows


@pytest.mark.parametrize("name", by_default(MODELS, IN_PARTS))
def test_attention_in_parts_on_the_gpu(gpu: StandIn, tmp_path: Path, name: str) -> None:
    n = FEW.get(name, 32)
    close(name, run(gpu, tmp_path, name, n, first=min(24, n - 3), off=["fa"]))


@pytest.mark.slow
@pytest.mark.parametrize("mla", range(4))
def test_latent_attention_in_parts_on_the_gpu(gpu: StandIn, tmp_path: Path, mla: int) -> None:
    name = "conformance/deepseek2-v3-f16"
    close(name, run(gpu, tmp_path, name, 32, first=24, off=["fa"], mla=mla))


SPLITS: dict[str, dict[str, Any]] = {
    "experts out": {"overrides": ["exps=CPU"]},
    "experts out, baseline rules": {"overrides": ["exps=CPU"], "off": ["traffic", "hoist"]},
    "offload experts": {"overrides": ["exps=CPU"], "offload_min_batch": 1},
    "-op 29,0": {"overrides": ["exps=CPU"], "offload_min_batch": 1, "offload_policy": ["29,0"]},
    "offload all": {"n_gpu_layers": 0, "offload_min_batch": 1},
    "one layer": {"n_gpu_layers": 1},
    "host cache": {"kv_offload": False},
    "attention out": {"overrides": ["attn=CPU"]},
    "attention in parts": {"off": ["fa"]},
    "q8_0 cache": {"type_k": "q8_0", "type_v": "q8_0"},
    "q4_0 cache": {"type_k": "q4_0", "type_v": "q4_0"},
    "q8_0 keys, q4_0 values": {"type_k": "q8_0", "type_v": "q4_0"},
    "q4_0 cache, attention in parts": {"type_k": "q4_0", "type_v": "q4_0", "off": ["fa"]},
}
ROUGH = [name for name in SPLITS if "q4_0" in name or "q8_0" in name]
# Tokens in front of one with two experts of almost the same weight: in layer 14 token 7's second and third are 0.45 %
# apart, less than what rounding to halves has made of them by then. From there on another expert is chosen.
NEARLY_TIED = {("conformance/deepseek2-lite-f16", "attention out"): 7}
MIXED = [
    "quants/bitnet-25-iq2_bn",
    "conformance/llama-f16",
    "quants/llama-Q4_0",
    "conformance/qwen3moe-f16",
    "conformance/deepseek2-lite-f16",
]
USUAL = {
    ("quants/bitnet-25-iq2_bn", "one layer"), ("quants/bitnet-25-iq2_bn", "offload all"),
    ("conformance/qwen3moe-f16", "experts out"), ("conformance/qwen3moe-f16", "offload experts"),
    ("quants/llama-Q4_0", "offload all"), ("conformance/llama-f16", "host cache"),
    ("conformance/llama-f16", "attention in parts"), ("conformance/qwen3moe-f16", "-op 29,0"),
    ("quants/llama-Q4_0", "q4_0 cache"), ("conformance/llama-f16", "q8_0 keys, q4_0 values"),
}  # fmt: skip


def splits() -> list[Any]:
    return [
        pytest.param(name, split, marks=() if (name, split) in USUAL else pytest.mark.slow)
        for name in MIXED
        for split in SPLITS
    ]


@pytest.mark.parametrize(("name", "split"), splits())
def test_models_split_with_the_host(gpu: StandIn, tmp_path: Path, name: str, split: str) -> None:
    first = 24 if split in ROUGH else 10  # prompts of 16 and more read the cache as halves
    got = run(gpu, tmp_path, name, first + 4, first=first, **SPLITS[split])
    if split not in ROUGH:
        close(name, got[: NEARLY_TIED.get((name, split))])
        return
    want = on_the_host(name, first + 4, first, SPLITS[split])
    cost = nmse(want, reference(name).logits[: len(want)])  # of rounding the cache
    assert nmse(got, want) <= max(1e-3, cost)


def on_the_host(name: str, n: int, first: int, options: dict[str, Any], file: Path | None = None) -> Array:
    """The CPU's logits, with such a cache or of such a model."""
    given = {**options, "off": frozenset(options.get("off", ()))}
    ref = reference(name)
    session = graphsched.load(file or ref.model, n_ctx=64, devices=(), n_threads=1, **given)
    cuts = [0, *range(first, n + 1)]
    rows = [session.eval(ref.tokens[a:b], all_logits=True) for a, b in pairwise(cuts)]
    session.close()
    return np.concatenate(rows)


def test_a_model_of_i2_s(gpu: StandIn, tmp_path: Path) -> None:
    """Its matrices have one scale behind all rows; the device reads them as IQ2_BN."""
    name, file = "conformance/bitnet-b1.58-f16", tmp_path / "i2_s.gguf"
    shared(f"{name}.gguf")
    command = [sys.executable, "-m", "graphsched", "quantize", str(reference(name).model), str(file), "I2_S"]
    subprocess.run(command, check=True, capture_output=True)
    got = run(gpu, tmp_path, name, 20, first=17, file=str(file))
    assert nmse(got, on_the_host(name, 20, 17, {}, file)) <= 1e-3


@pytest.mark.parametrize("name", by_default(MIXED, MIXED[2:4]))
def test_captured_is_the_same_as_launch_by_launch(gpu: StandIn, tmp_path: Path, name: str) -> None:
    shared(f"{name}.npz")
    rows, graphs = {}, {}
    for mode in ("whole", "split", "off"):
        path = tmp_path / f"{mode}.npy"
        answer = gpu.ask(
            "logits", name=name, path=str(path), n=12, first=8, overrides=["exps=CPU"], graphs=mode
        )
        rows[mode], graphs[mode] = np.load(path), answer["graphs"]
    assert graphs["split"] > graphs["whole"] >= 2 > graphs["off"] == 0
    np.testing.assert_array_equal(rows["whole"], rows["off"])
    np.testing.assert_array_equal(rows["split"], rows["off"])


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("conformance/qwen3moe-f16", "experts out"),
        ("quants/llama-Q4_0", "offload all"),
        *(pytest.param(name, split, marks=pytest.mark.slow) for name in MIXED[3:] for split in SPLITS),
    ],
)
def test_the_host_may_wait_for_streams(
    gpu: StandIn, without_words: StandIn, tmp_path: Path, name: str, split: str
) -> None:
    """The same bits where streams cannot wait for words: then there is not one stream memory operation."""
    shared(f"{name}.npz")
    path, rows, answers = tmp_path / "logits.npy", [], []
    for process in (gpu, without_words):
        answers.append(process.ask("logits", name=name, path=str(path), n=12, first=8, **SPLITS[split]))
        rows.append(np.load(path))
    whole, parts = answers
    assert whole["word operations"] > 0 == parts["word operations"]
    assert parts["graphs"] > whole["graphs"]
    np.testing.assert_array_equal(*rows)


def test_how_streams_wait_can_be_chosen(tmp_path: Path) -> None:
    name, path = "conformance/llama-f16", str(tmp_path / "logits.npy")
    shared(f"{name}.npz")
    process = StandIn()
    before = process.ask("logits", name=name, path=path, n=4, first=2, waits="host")["word operations"]
    after = process.ask("logits", name=name, path=path, n=4, first=2, waits="stream")["word operations"]
    process.close()
    assert before == 0 < after
    other = StandIn(GS_FAKE_MEM_OPS="0", GRAPHSCHED_CUDA_WAITS="stream")
    said = other.ask("sentence", name=name)["error"]
    other.close()
    assert said == "GRAPHSCHED_CUDA_WAITS is stream, and CUDA0 has no stream memory operations"


FUSED = ["conformance/llama-f16", "quants/llama-Q4_0", "quants/bitnet-b1.58-iq2_bn", "quants/llama-Q4_K_M"]
CHOOSE = [f"conformance/{name}-f16" for name in ("deepseek2-v3", "gpt-oss", "llama4", "glm4moe", "mixtral")]


@pytest.mark.parametrize(
    "name", by_default([*dict.fromkeys(FUSED + MIXED + CHOOSE)], [*FUSED[:3], *CHOOSE[:1]])
)
@pytest.mark.parametrize("first", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_fused_launches_have_the_bits_of_a_launch_each(
    gpu: StandIn, tmp_path: Path, name: str, first: int
) -> None:
    apart = StandIn(GRAPHSCHED_CUDA_FUSION="0", GRAPHSCHED_CUDA_OVERLAP="0")
    a, b = (run(s, tmp_path, name, 12, first=first) for s in (gpu, apart))
    apart.close()
    np.testing.assert_array_equal(a, b)


def test_kernels_overlap_only_behind_kernels(gpu: StandIn, tmp_path: Path) -> None:
    """Also where uploads, waits and graphs stand between them."""
    name = "conformance/qwen3moe-f16"
    shared(f"{name}.gguf")
    given = {"name": name, "path": str(tmp_path / "logits.npy"), "n": 10, "first": 7}
    for options in ({}, {"overrides": ["exps=CPU"], "offload_min_batch": 2}):
        many, early = gpu.ask("logits", **given, **options)["overlaps"]
        assert many > 100
        assert early == 0


def test_two_gpus(tmp_path: Path) -> None:
    both = StandIn(GS_FAKE_DEVICES="2")
    name = "quants/llama-Q4_0"
    got = run(both, tmp_path, name, 12, first=8, devices=["CUDA0", "CUDA1"])
    both.close()
    close(name, got)


@pytest.mark.parametrize(
    "seed", ["2", "3", *(pytest.param(str(s), marks=pytest.mark.slow) for s in range(4, 12))]
)
def test_the_order_of_independent_work_does_not_matter(tmp_path: Path, seed: str, gpu: StandIn) -> None:
    other = StandIn(GS_FAKE_SEED=seed)
    name, options = "conformance/qwen3moe-f16", {"overrides": ["exps=CPU"], "offload_min_batch": 1}
    a, b = (run(s, tmp_path, name, 12, first=8, **options) for s in (gpu, other))
    other.close()
    np.testing.assert_array_equal(a, b)


UPLOADED = {
    "overrides": ["exps=CPU"],
    "offload_min_batch": 2,
}  # of prompts; experts of one token run on the host


@pytest.mark.parametrize("stream", ["CUDA0", "CUDA0 up", "CUDA0 down"])
def test_a_stream_that_does_not_wait_shows(gpu: StandIn, tmp_path: Path, stream: str) -> None:
    name, path = "conformance/qwen3moe-f16", str(tmp_path / "logits.npy")
    run(gpu, tmp_path, name, 9, first=6, **UPLOADED)
    assert asked_without(StandIn(), name=name, path=path, stream=stream, **UPLOADED)["shows"]


def asked_without(process: StandIn, **given: Any) -> dict[str, Any]:
    """The answer of a process of its own: what a wrong address does to a GPU stays.

    The host may sort experts while their numbers still come, and then read anywhere: that shows, too.
    """
    try:
        return process.ask("without", **given)
    except AssertionError as e:
        if ENDED not in str(e):
            raise
        return {"shows": True}
    finally:
        process.close()


def without_each(gpu: StandIn, tmp_path: Path, every: int, **options: Any) -> tuple[list[str], int]:
    """Leaves out waits one at a time, in the order that is worst for each; those that did not show, and all."""
    name, path = "conformance/qwen3moe-f16", str(tmp_path / "logits.npy")
    run(gpu, tmp_path, name, 9, first=6, **options)
    waits: int = gpu.ask("without", name=name, path=path, **options)["waits"]
    hidden = []
    for number in range(every // 2, waits, every):
        process = StandIn(GS_FAKE_SEED=str(number))
        answer = asked_without(process, name=name, path=path, number=number, **options)
        hidden += [] if answer["shows"] else [f"{number}: {answer['about']}"]
    return hidden, waits


def test_a_missing_wait_shows(gpu: StandIn, tmp_path: Path) -> None:
    hidden, waits = without_each(gpu, tmp_path, 12, **UPLOADED)
    assert hidden == []
    assert waits > 30


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"overrides": ["exps=CPU"]}, UPLOADED, {"overrides": ["exps=CPU"], "offload_min_batch": 1}],
    ids=["experts out", "prompts uploaded", "all uploaded"],
)
def test_every_missing_wait_shows(gpu: StandIn, tmp_path: Path, options: dict[str, Any]) -> None:
    """All: 34 of 34 waits of a prompt and of tokens with experts out, 34 of 34 with prompts uploaded."""
    hidden, waits = without_each(gpu, tmp_path, 1, **options)
    assert hidden == []
    assert waits > 30


# ---- times


@pytest.mark.parametrize(
    "options",
    [{}, {"overrides": ["exps=CPU"]}, {"overrides": ["exps=CPU"], "offload_min_batch": 2}],
    ids=["all", "experts out", "offloaded"],
)
def test_times_of_a_run(either: StandIn, options: dict[str, Any]) -> None:
    """Each op of a plan has its time, within the run and in its stream's order; copies are on their streams."""
    shared("conformance/qwen3moe-f16.gguf")
    found = either.ask("traced", name="conformance/qwen3moe-f16", **options)
    assert found["wrong"] == found["untimed"] == []
    assert {"step CUDA0", "copy CUDA0 up", "copy CUDA0 down", "wait CUDA0", "wait CUDA0 up"} <= set(
        found["kinds"]
    )
    assert ("wait CPU" in found["kinds"]) == bool(options)


def test_times_without_a_profile(gpu: StandIn) -> None:
    """Those of the last run, by events around waits only: what lies between two shares the time."""
    shared("conformance/qwen3moe-f16.gguf")
    found = gpu.ask("brief", name="conformance/qwen3moe-f16", overrides=["exps=CPU"])
    assert found["wrong"] == []
    assert found["runs with steps on CUDA0"] == [found["runs"] - 1]
    assert 2 < found["events"] < found["items"] / 2


def test_a_profile_of_the_gpu(tmp_path: Path) -> None:
    """Measured, not predicted: rows of ops, copies and waits, owners that add up, and a timeline of all streams."""
    trace, page = tmp_path / "t.json", tmp_path / "p.html"
    flags = ("-ot", "exps=CPU", "-p", "6", "-n", "3", "-r", "2", "-t", "1", "-c", "64")
    files = ("--trace", str(trace), "--html", str(page))
    done = on_stand_in(
        ROOT / "graphsched" / "__main__.py", "profile", "--json", "--device", "CUDA0", *flags, *files
    )
    assert done.returncode == 0, done.stderr
    phases = json.loads(done.stdout)["phases"]
    assert [p["predicted"] for p in phases] == [False, False]
    for phase in phases:
        assert phase["lost"] == 0
        assert sum(row["seconds"] for row in phase["overhead"]) == pytest.approx(phase["wall"])
        on = {(row["device"], row["name"]) for row in phase["ops"]}
        assert {
            ("CUDA0", "MUL_MAT"),
            ("CPU", "MUL_MAT_ID"),
            ("CUDA0 up", "COPY"),
            ("CUDA0 down", "COPY"),
        } <= on
        counts = {row["name"]: row["count"] for row in phase["ops"] if row["device"] == "CUDA0"}
        assert counts["FLASH_ATTN_EXT"] == 4 * (1 if phase["phase"].startswith("prompt") else 3)
        waits = {(row["device"], row["name"]) for row in phase["waits"]}
        assert {("CPU", "CUDA0 down"), ("CUDA0 down", "CUDA0"), ("CUDA0 up", "CPU")} <= waits
    timeline = json.loads(trace.read_text())
    assert_is_chrome_trace(timeline)
    lanes = {e["args"]["name"] for e in timeline["traceEvents"] if e["name"] == "thread_name"}
    assert lanes == {"Python", "CPU", "CUDA0", "CUDA0 up", "CUDA0 down"}
    assert "CUDA0 down" in page.read_text()


# ---- faults


@pytest.mark.parametrize("waits", ["stream", "host"])
def test_a_fault_ends_the_run_with_a_sentence(waits: str) -> None:
    shared("conformance/qwen3moe-f16.gguf")
    process = StandIn(GRAPHSCHED_CUDA_WAITS=waits)
    said = process.ask("fault", name="conformance/qwen3moe-f16")["error"]
    process.close()
    assert said == "CUDA0 failed (CUDA_ERROR_LAUNCH_FAILED); this session cannot go on"


@pytest.mark.parametrize(
    ("code", "name"), [("719", "CUDA_ERROR_LAUNCH_FAILED"), ("214", "CUDA_ERROR_ECC_UNCORRECTABLE")]
)
@pytest.mark.parametrize("waits", ["stream", pytest.param("host", marks=pytest.mark.slow)])
def test_a_command_ends_when_the_device_fails(code: str, name: str, waits: str) -> None:
    flags = ("-ot", "exps=CPU", "-p", "Once upon a time", "-n", "6", "--temp", "0")
    fault = {"GS_FAKE_FAULT_AFTER": "150", "GS_FAKE_FAULT": code, "GRAPHSCHED_CUDA_WAITS": waits}
    done = on_stand_in(ROOT / "graphsched" / "__main__.py", "run", "--device", "CUDA0", *flags, **fault)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].endswith(f"CUDA0 failed ({name}); this session cannot go on")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("limit", "options", "words"),
    [
        (
            {"GS_FAKE_MEMORY": "200000"},
            {},
            ("CUDA0: 0.07 MB for blk.", "fewer layers on it with -ngl, experts on the host with -cmoe"),
        ),
        (
            {"GS_FAKE_MEMORY": "1000000"},
            {},
            ("caches and intermediate results do not fit", "a smaller -c or -ub"),
        ),
        (
            {"GS_FAKE_PINNED": "100000"},
            {},
            ("page-locked host memory for uploads do not fit", "--device none needs none"),
        ),
        (
            {"GS_FAKE_PINNED": "34077216"},
            {"n_gpu_layers": 0, "offload_min_batch": 1},
            ("page-locked host memory for blk.", "-op -1,0 leaves weights of the host where they are"),
        ),
    ],
    ids=["weights", "caches", "uploads", "weights that are uploaded"],
)
def test_what_does_not_fit_is_named(
    limit: dict[str, str], options: dict[str, Any], words: tuple[str, str]
) -> None:
    shared("conformance/llama-f16.gguf")
    process = StandIn(**limit)
    said = process.ask("sentence", name="conformance/llama-f16", n_ctx=512, **options)["error"]
    process.close()
    assert all(w in said for w in words), said


def test_an_aborted_run_ends(either: StandIn) -> None:
    shared("conformance/llama-f16.gguf")
    assert either.ask("abort", name="conformance/llama-f16") == {"ended": True, "same": True}


@pytest.mark.parametrize("n", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_nothing_leaks_between_sessions(either: StandIn, n: int) -> None:
    """Neither memory of device and host nor streams, events, modules and graphs."""
    shared("conformance/llama-f16.gguf")
    answer = either.ask("cycles", name="conformance/llama-f16", n=n)
    assert answer["first"] == answer["last"]


def test_large_weights_arrive_whole(gpu: StandIn) -> None:
    """More parts than there are slots, of a driver that copies late."""
    shapes = {"Q4_K": [2, 8000, 4096], "F16": [3000, 1001], "IQ2_BN": [6000, 2560], "Q6_K": [3000, 1024]}
    answer = gpu.ask("uploaded", types=shapes)
    assert answer["wrong"] == []
    assert min(answer["parts"]) > 1
    assert max(answer["parts"]) > 16


# ---- commands


def test_a_command_uses_the_gpu_that_is_there() -> None:
    flags = ("-ngl", "100", "-op", "29,0", "-p", "Once upon a time", "-n", "6", "--temp", "0")
    on_gpu, on_host = (
        on_stand_in(ROOT / "graphsched" / "__main__.py", "run", *flags, *more, GS_FAKE_MEMORY=memory)
        for more, memory in (((), "100000000"), (("--device", "none"), "1"))
    )
    assert on_gpu.returncode == on_host.returncode == 0, on_gpu.stderr
    assert on_gpu.stdout == on_host.stdout
    assert "no usable GPU" not in on_gpu.stderr


def test_the_list_of_devices() -> None:
    done = on_stand_in(ROOT / "graphsched" / "__main__.py", "devices", "--json")
    (found,) = json.loads(done.stdout)["gpus"]
    assert (found["name"], found["model"], found["bus"]) == ("CUDA0", "stand-in", "0000:01:00.0")
