"""The CUDA device in sessions: whole models through the unmodified cuda.core on a stand-in libcuda, without a GPU."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chrome_traces import assert_is_chrome_trace
from numpy.typing import NDArray
from running import model_path, nmse, reference, tokens_of
from stand_in import ENDED, ROOT, StandIn, by_default, close, needs_stand_in, on_stand_in, run
from tiny.early import EARLY
from tiny.files import MODELS, QUANTS
from tiny.recurrent import RECURRENT
from tiny.special import SPECIAL

import graphsched

pytestmark = needs_stand_in

Array = NDArray[np.float32]


@pytest.fixture(
    scope="module"
)  # for tests that leave nothing behind: starting a process takes longer than most of them
def gpu() -> Iterator[StandIn]:
    with StandIn() as made:
        yield made


@pytest.fixture(scope="module")
def without_words() -> Iterator[StandIn]:
    """A device whose streams cannot wait for words: the host does."""
    with StandIn(GS_FAKE_MEM_OPS="0") as made:
        yield made


@pytest.fixture(params=["stream", "host"])
def either(request: pytest.FixtureRequest, gpu: StandIn, without_words: StandIn) -> StandIn:
    """Both kinds of device in turn, by who waits."""
    return gpu if request.param == "stream" else without_words


# ---- ops

CHEAP = [
    "add", "add_id", "clamp", "concat", "cont", "copy_f32", "copy_rows", "div", "fused_add_rms_norm", "fused_mul_unary",
    "fused_norm", "fused_rms_norm", "fused_rope", "fused_set_rows", "get_rows",
    "grouped_top_k", "hc_weights", "layer_norm", "mul", "mul_multi_add", "multi_add",
    "repeat", "rms_norm", "rope", "scale",
    "set_rows", "sigmoid", "softcap", "sqr", "sum_rows", "swiglu_oai",
    "temperature_scale", "top_k", "topk_moe", "unary", "xielu",
]  # fmt: skip
COSTLY = ["mul_mat", "mul_mat_id", "mul_mat_qkv", "mul_mat_up_gate", "moe_fused_up_gate"]
# Cases without a kernel, which the scheduler places on the host: matrices of blocks that heads share, as no model has
# them, types that only the CPU reads, and gates that no model has.
WITHOUT = {"mul_mat": 2, "get_rows": 1, "fused_mul_unary": 2}


def groups() -> list[Any]:
    made = [
        pytest.param(CHEAP, id="cheap ones"),
        pytest.param(["flash_attn_ext", "soft_max", "soft_cap_max"], id="attention"),
        pytest.param(["gated_delta_net", "l2_norm", "ssm_conv", "ssm_scan"], id="recurrent"),
        pytest.param(
            ["lightning_indexer", "sparse_attn", "compressed_attn", "pool_rows"], id="sparse attention"
        ),
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


FEW = {"deepseek2-lite": 7}  # tokens by default, of a model of a thousand nodes
DEFAULT = [
    "llama", "llama-Q4_0", "llama-Q8_0", "qwen3moe",
    "deepseek2-lite", "gpt-oss", "bitnet-b1.58-iq2_bn", "bitnet-iq1_bn", "qwen35moe", "mamba2", "jais",
    "deepseek32", "deepseek4",
]  # fmt: skip


@pytest.mark.parametrize("name", by_default([*MODELS, *QUANTS, *EARLY, *RECURRENT, *SPECIAL], DEFAULT))
def test_models_on_the_gpu(gpu: StandIn, tmp_path: Path, name: str) -> None:
    n = FEW.get(name, 32)
    close(name, run(gpu, tmp_path, name, n, first=min(24, n - 3)))


SEQUENCES: dict[str, dict[str, Any]] = {
    "llama": {}, "gemma3": {}, "gpt-oss": {"off": ["fa"]},
    "qwen35moe": {}, "deepseek2-v3": {}, "mamba2": {}, "lfm2": {},
}  # fmt: skip


@pytest.mark.parametrize("name", by_default(list(SEQUENCES), ["llama", "gemma3", "qwen35moe"]))
def test_sequences_beside_others_on_the_gpu(gpu: StandIn, tmp_path: Path, name: str) -> None:
    """Prompts and single tokens of several in one forward; a fork has the same cells and a copy of the state."""
    path = tmp_path / "logits.npy"
    answer = gpu.ask("sequences", name=name, path=str(path), **SEQUENCES[name])
    assert answer == {"fork has the same bits": True}
    close(name, np.load(path))


IN_PARTS = ["gemma2", "gpt-oss"]  # soft cap; sinks and windows


@pytest.mark.parametrize("name", by_default(MODELS, IN_PARTS))
def test_attention_in_parts_on_the_gpu(gpu: StandIn, tmp_path: Path, name: str) -> None:
    n = FEW.get(name, 32)
    close(name, run(gpu, tmp_path, name, n, first=min(24, n - 3), off=["fa"]))


@pytest.mark.slow
@pytest.mark.parametrize("mla", range(4))
def test_latent_attention_in_parts_on_the_gpu(gpu: StandIn, tmp_path: Path, mla: int) -> None:
    name = "deepseek2-v3"
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
    "q5_1 keys, iq4_nl values": {"type_k": "q5_1", "type_v": "iq4_nl"},
    "q8_KV cache": {"type_k": "q8_KV", "type_v": "q8_KV"},
    "bf16 cache": {"type_k": "bf16", "type_v": "bf16"},
    "q8_KV keys, q5_1 values, attention in parts": {"type_k": "q8_KV", "type_v": "q5_1", "off": ["fa"]},
    "q4_0 cache, attention in parts": {"type_k": "q4_0", "type_v": "q4_0", "off": ["fa"]},
}
ROUGH = [name for name, options in SPLITS.items() if "type_k" in options]
MIXED = [
    "bitnet-25-iq2_bn",
    "llama",
    "llama-Q4_0",
    "qwen3moe",
    "deepseek2-lite",
]
USUAL = {
    ("bitnet-25-iq2_bn", "one layer"), ("bitnet-25-iq2_bn", "offload all"),
    ("qwen3moe", "experts out"), ("qwen3moe", "offload experts"),
    ("llama-Q4_0", "offload all"), ("llama", "host cache"),
    ("llama", "attention in parts"), ("qwen3moe", "-op 29,0"),
    ("llama-Q4_0", "q4_0 cache"), ("llama", "q8_0 keys, q4_0 values"),
    ("llama-Q4_0", "q8_KV cache"), ("llama", "q5_1 keys, iq4_nl values"),
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
        close(name, got)
        return
    want = on_the_host(name, first + 4, first, SPLITS[split])
    cost = nmse(want, reference(name).logits[: len(want)])  # of rounding the cache
    assert nmse(got, want) <= max(1e-3, cost)


def on_the_host(name: str, n: int, first: int, options: dict[str, Any], file: Path | None = None) -> Array:
    """The CPU's logits, with such a cache or of such a model."""
    given = {**options, "off": frozenset(options.get("off", ()))}
    tokens, path = tokens_of(name), file or model_path(name)
    session = graphsched.load(path, n_ctx=64, devices=(), n_threads=1, **given)
    cuts = [0, *range(first, n + 1)]
    rows = [session.eval(tokens[a:b], all_logits=True) for a, b in pairwise(cuts)]
    session.close()
    return np.concatenate(rows)


def test_a_model_of_i2_s(gpu: StandIn, tmp_path: Path) -> None:
    """Its matrices have one scale behind all rows; the device reads them as IQ2_BN."""
    name, file = "bitnet-b1.58", tmp_path / "i2_s.gguf"
    model_path(name)
    command = [sys.executable, "-m", "graphsched", "quantize", str(model_path(name)), str(file), "I2_S"]
    subprocess.run(command, check=True, capture_output=True)
    got = run(gpu, tmp_path, name, 20, first=17, file=str(file))
    assert nmse(got, on_the_host(name, 20, 17, {}, file)) <= 1e-3


@pytest.mark.parametrize("name", by_default(MIXED, MIXED[2:4]))
def test_captured_is_the_same_as_launch_by_launch(gpu: StandIn, tmp_path: Path, name: str) -> None:
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
        ("qwen3moe", "experts out"),
        ("llama-Q4_0", "offload all"),
        *(pytest.param(name, split, marks=pytest.mark.slow) for name in MIXED[3:] for split in SPLITS),
    ],
)
def test_the_host_may_wait_for_streams(
    gpu: StandIn, without_words: StandIn, tmp_path: Path, name: str, split: str
) -> None:
    """The same bits where streams cannot wait for words: then there is not one stream memory operation."""
    path, rows, answers = tmp_path / "logits.npy", [], []
    for process in (gpu, without_words):
        answers.append(process.ask("logits", name=name, path=str(path), n=12, first=8, **SPLITS[split]))
        rows.append(np.load(path))
    whole, parts = answers
    assert whole["word operations"] > 0 == parts["word operations"]
    assert parts["graphs"] > whole["graphs"]
    np.testing.assert_array_equal(*rows)


def test_how_streams_wait_can_be_chosen(tmp_path: Path) -> None:
    name, path = "llama", str(tmp_path / "logits.npy")
    with StandIn() as process:
        before = process.ask("logits", name=name, path=path, n=4, first=2, waits="host")["word operations"]
        after = process.ask("logits", name=name, path=path, n=4, first=2, waits="stream")["word operations"]
    assert before == 0 < after
    with StandIn(GS_FAKE_MEM_OPS="0", GRAPHSCHED_CUDA_WAITS="stream") as other:
        said = other.ask("sentence", name=name)["error"]
    assert said == "GRAPHSCHED_CUDA_WAITS is stream, and CUDA0 has no stream memory operations"


FUSED = ["llama", "llama-Q4_0", "bitnet-b1.58-iq2_bn", "llama-Q4_K_M"]
CHOOSE = ["deepseek2-v3", "gpt-oss", "llama4", "glm4moe", "mixtral"]


@pytest.mark.parametrize(
    "name", by_default([*dict.fromkeys(FUSED + MIXED + CHOOSE)], [*FUSED[:3], *CHOOSE[:1]])
)
@pytest.mark.parametrize("first", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_fused_launches_have_the_bits_of_a_launch_each(
    gpu: StandIn, tmp_path: Path, name: str, first: int
) -> None:
    with StandIn(GRAPHSCHED_CUDA_FUSION="0", GRAPHSCHED_CUDA_OVERLAP="0") as apart:
        a, b = (run(s, tmp_path, name, 12, first=first) for s in (gpu, apart))
    np.testing.assert_array_equal(a, b)


def test_kernels_overlap_only_behind_kernels(gpu: StandIn, tmp_path: Path) -> None:
    """Also where uploads, waits and graphs stand between them."""
    name = "qwen3moe"
    model_path(name)
    given = {"name": name, "path": str(tmp_path / "logits.npy"), "n": 10, "first": 7}
    for options in ({}, {"overrides": ["exps=CPU"], "offload_min_batch": 2}):
        many, early = gpu.ask("logits", **given, **options)["overlaps"]
        assert many > 100
        assert early == 0


def test_two_gpus(tmp_path: Path) -> None:
    name = "llama-Q4_0"
    with StandIn(GS_FAKE_DEVICES="2") as both:
        got = run(both, tmp_path, name, 12, first=8, devices=["CUDA0", "CUDA1"])
    close(name, got)


@pytest.mark.parametrize(
    "seed", ["2", "3", *(pytest.param(str(s), marks=pytest.mark.slow) for s in range(4, 12))]
)
def test_the_order_of_independent_work_does_not_matter(tmp_path: Path, seed: str, gpu: StandIn) -> None:
    name, options = "qwen3moe", {"overrides": ["exps=CPU"], "offload_min_batch": 1}
    with StandIn(GS_FAKE_SEED=seed) as other:
        a, b = (run(s, tmp_path, name, 12, first=8, **options) for s in (gpu, other))
    np.testing.assert_array_equal(a, b)


UPLOADED = {
    "overrides": ["exps=CPU"],
    "offload_min_batch": 2,
}  # of prompts; experts of one token run on the host


@pytest.mark.parametrize("stream", ["CUDA0", "CUDA0 up", "CUDA0 down"])
def test_a_stream_that_does_not_wait_shows(gpu: StandIn, tmp_path: Path, stream: str) -> None:
    name, path = "qwen3moe", str(tmp_path / "logits.npy")
    run(gpu, tmp_path, name, 9, first=6, **UPLOADED)
    with StandIn() as process:
        assert asked_without(process, name=name, path=path, stream=stream, **UPLOADED)["shows"]


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


def without_each(gpu: StandIn, tmp_path: Path, every: int, **options: Any) -> tuple[list[str], int]:
    """Leaves out waits one at a time, in the order that is worst for each; those that did not show, and all."""
    name, path = "qwen3moe", str(tmp_path / "logits.npy")
    run(gpu, tmp_path, name, 9, first=6, **options)
    waits: int = gpu.ask("without", name=name, path=path, **options)["waits"]
    hidden = []
    for number in range(every // 2, waits, every):
        with StandIn(GS_FAKE_SEED=str(number)) as process:
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
    model_path("qwen3moe")
    found = either.ask("traced", name="qwen3moe", **options)
    assert found["wrong"] == found["untimed"] == []
    assert {"step CUDA0", "copy CUDA0 up", "copy CUDA0 down", "wait CUDA0", "wait CUDA0 up"} <= set(
        found["kinds"]
    )
    assert ("wait CPU" in found["kinds"]) == bool(options)


def test_times_without_a_profile(gpu: StandIn) -> None:
    """Those of the last run, by events around waits only: what lies between two shares the time."""
    model_path("qwen3moe")
    found = gpu.ask("brief", name="qwen3moe", overrides=["exps=CPU"])
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
    model_path("qwen3moe")
    with StandIn(GRAPHSCHED_CUDA_WAITS=waits) as process:
        said = process.ask("fault", name="qwen3moe")["error"]
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
    model_path("llama")
    with StandIn(**limit) as process:
        said = process.ask("sentence", name="llama", n_ctx=512, **options)["error"]
    assert all(w in said for w in words), said


def test_an_aborted_run_ends(either: StandIn) -> None:
    model_path("llama")
    assert either.ask("abort", name="llama") == {"ended": True, "same": True}


@pytest.mark.parametrize("n", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_nothing_leaks_between_sessions(either: StandIn, n: int) -> None:
    """Neither memory of device and host nor streams, events, modules and graphs."""
    model_path("llama")
    answer = either.ask("cycles", name="llama", n=n)
    assert answer["first"] == answer["last"]


def test_large_weights_arrive_whole(gpu: StandIn) -> None:
    """More parts than there are slots, of a driver that copies late."""
    shapes = {"Q4_K": [2, 8000, 4096], "F16": [3000, 1001], "IQ2_BN": [6000, 2560], "Q6_K": [3000, 1024]}
    answer = gpu.ask("uploaded", types=shapes)
    assert answer["wrong"] == []
    assert min(answer["pieces"]) > 1
    assert max(answer["pieces"]) > 16


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
