"""backends/cuda/driver through the unmodified cuda.core, on a stand-in libcuda with lazy streams; no GPU."""

from pathlib import Path

import pytest
from stand_in import ROOT, gpu_check, needs_stand_in, on_stand_in

pytestmark = needs_stand_in


START = """
import gpu_calls
import numpy as np
from graphsched.backends.cuda import driver
from graphsched.backends.cuda.families import elementwise, norm
from graphsched.backends.cuda.launch import compiler
from graphsched.backends.cuda.driver.signature import KernelError
gpu = driver.open_gpu()
s, other = driver.new_stream(gpu), driver.new_stream(gpu)
def kernels(stem):
    m = compiler.build(compiler.assemble(stem), gpu.arch)
    return driver.load_kernels(gpu, m.cubin, m.signatures)
k = kernels("elementwise")
def launch(call, stream=s, pdl=False):
    gpu_calls.launch(stream, k[call.kernel], call.grid, call.block, call.args, call.shared, pdl)
x = np.arange(64, dtype=np.float32)
a, b, c = (gpu_calls.allocate(gpu, x.nbytes, s) for _ in range(3))
def read(buffer, stream=s):
    y = np.empty(64, np.float32)
    gpu_calls.download(buffer, y, stream)
    return y
def double(src, dst, stream=s): launch(elementwise.scale(src, dst, 1, 64, (64, 64), 2.0), stream)
"""


def run(tmp_path: Path, body: str, **env: str) -> str:
    """`body` after START on the stand-in; what it printed."""
    script = tmp_path / "script.py"
    script.write_text(START + body)
    done = on_stand_in(script, **env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_upload_launch_download(tmp_path: Path) -> None:
    assert (
        run(
            tmp_path, "gpu_calls.upload(a, x, s); double(a, b); double(b, c); print((read(c) == 4 * x).all())"
        )
        == "True"
    )


def test_offsets(tmp_path: Path) -> None:
    body = "gpu_calls.upload(a, x, s); gpu_calls.upload(a, x[:4] + 100, s, 16); y = np.empty(8, np.float32)\n"
    assert run(tmp_path, body + "gpu_calls.download(a, y, s, 8); print(y.astype(int).tolist())") == str(
        [2, 3, 100, 101, 102, 103, 8, 9]
    )


def test_memory_starts_as_nan(tmp_path: Path) -> None:
    assert run(tmp_path, "print(np.isnan(read(a)).all())") == "True"


@pytest.mark.parametrize("waits", [True, False])
def test_a_missing_wait_between_streams_shows(tmp_path: Path, waits: bool) -> None:
    body = "gpu_calls.upload(a, x, s); double(a, b)\n" + "other.wait(driver.record(s))\n" * waits
    assert run(tmp_path, body + "double(b, c, other); print((read(c, other) == 4 * x).all())") == str(waits)


@pytest.mark.parametrize("missing", ["", "slot.sync()", "s.wait(ready)", "copies.wait(used)"])
def test_an_upload_ring(tmp_path: Path, missing: str) -> None:
    """Two pinned slots and two device buffers, reused; each synchronisation left out in turn shows."""
    body = """
copies = driver.new_stream(gpu)
slots = [gpu_calls.pinned(x.nbytes) for _ in range(2)]
wait, free, done = [None] * 2, [None] * 2, []
total = gpu_calls.allocate(gpu, x.nbytes, s)
gpu_calls.upload(total, np.zeros(64, np.float32), s)
s.sync()
for layer in range(8):
    i, buffer = layer % 2, (a, b)[layer % 2]
    slot, used = wait[i], free[i]
    if slot: slot.sync()
    if used: copies.wait(used)
    slots[i][1].view(np.float32)[:] = x * (layer + 1)
    gpu_calls.upload_later(buffer, 0, slots[i][1].ctypes.data, x.nbytes, copies)
    ready = wait[i] = driver.record(copies)
    s.wait(ready)
    launch(elementwise.binary("add", total, buffer, total, 1, 64, (64, 64, 64)))
    free[i] = driver.record(s)
print(bool((read(total) == 36 * x).all()), driver.free_memory()[0] > 0)
"""
    right = run(tmp_path, body.replace(missing, "pass") if missing else body).split()[0]
    assert right == str(missing == "")


def test_a_graph_repeats_what_was_captured(tmp_path: Path) -> None:
    body = """
gpu_calls.upload(a, x, s)
g = driver.captured(s, lambda stream: (double(a, b, stream), double(b, a, stream)))
print(np.isnan(read(b)).all())  # captured, not run
driver.replay(g, s); driver.replay(g, s)
print((read(a) == 16 * x).all())
"""
    assert run(tmp_path, body).split() == ["True", "True"]


def test_timed_events(tmp_path: Path) -> None:
    body = "e = driver.record(s, True); double(a, b); f = driver.record(s, True); f.sync(); print(f - e > 0)"
    assert run(tmp_path, body) == "True"


def test_a_signature_that_differs_from_the_kernel_is_refused(tmp_path: Path) -> None:
    body = """
from dataclasses import replace
m = compiler.build(compiler.assemble("elementwise"), gpu.arch)
wrong = replace(m.signatures["weighted_sum"], types=("float*", "float*", "float*", "int", "i64"))
try: driver.load_kernels(gpu, m.cubin, {"weighted_sum": wrong})
except KernelError as e: print(e)
"""
    assert (
        run(tmp_path, body)
        == "weighted_sum: declared argument sizes [8, 8, 8, 4, 8], compiled [8, 8, 8, 4, 4]"
    )


def test_more_shared_memory_has_to_be_asked_for(tmp_path: Path) -> None:
    body = """
kernel = kernels("gemm")["gemm_f16_128_128"]
driver.allow_shared(kernel, 98304)
try: driver.allow_shared(kernel, 300000)
except KernelError as e: print(e)
"""
    assert run(tmp_path, body) == "CUDA: CUDA_ERROR_INVALID_VALUE"


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ({}, "None"),
        ({"GS_FAKE_INIT": "100"}, "the NVIDIA driver finds no GPU"),
        ({"GS_FAKE_DEVICES": "0"}, "the NVIDIA driver finds no GPU"),
        ({"GS_FAKE_INIT": "803"}, "the NVIDIA driver does not start (cuInit returned 803)"),
        (
            {"GS_FAKE_VERSION": "12080"},
            "the NVIDIA driver is too old: it knows CUDA 12.8, 13.0 is needed (driver 580)",
        ),
    ],
)
def test_probe(tmp_path: Path, env: dict[str, str], reason: str) -> None:
    script = tmp_path / "probe.py"
    script.write_text("from graphsched.backends.cuda import driver\nprint(driver.probe())")
    assert on_stand_in(script, **env).stdout.strip() == reason


# How Python sees a machine without the library: it cannot be loaded.
ABSENT = {
    "": "",
    "libcuda": "reason.probe.__defaults__ = (lambda name: open('/nowhere'), None)",
    "libnvrtc": "nvrtc.nvrtc_version = lambda: open('/nowhere')",
}
COMMAND = """
import sys
from graphsched.cli import main as cli
from graphsched.backends.cuda.driver import nvrtc, reason
{}
sys.exit(cli.run(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("env", "absent", "reason"),
    [
        ({}, "libcuda", "no NVIDIA driver (libcuda.so.1 was not found)"),
        ({"GS_FAKE_DEVICES": "0"}, "", "the NVIDIA driver finds no GPU"),
        ({"GS_FAKE_VERSION": "12080"}, "", "the NVIDIA driver is too old: it knows CUDA 12.8"),
        ({}, "libnvrtc", "NVRTC, which compiles the kernels, was not found (pip install 'graphsched[cuda]')"),
    ],
    ids=["no driver", "no device", "too old a driver", "no NVRTC"],
)
def test_commands_say_why_there_is_no_gpu(
    tmp_path: Path, env: dict[str, str], absent: str, reason: str
) -> None:
    """`devices` in its list; `run` on stderr, once, where a flag asks for a device, and goes on without one."""
    script = tmp_path / "command.py"
    script.write_text(COMMAND.format(ABSENT[absent]))
    listed = on_stand_in(script, "devices", **env)
    assert listed.returncode == 0, listed.stderr
    assert f"GPU    none: {reason}" in listed.stdout
    ran = on_stand_in(script, "run", "-ngl", "99", "-p", "Once", "-n", "2", "--temp", "0", **env)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count(f"no usable GPU, everything runs on the CPU: {reason}") == 1


def test_gpu_check_says_why_it_cannot_run() -> None:
    done = on_stand_in(ROOT / "tools" / "gpu" / "gpu_check.py", GS_FAKE_DEVICES="0")
    assert (done.returncode, done.stderr) == (1, "no GPU can be used: the NVIDIA driver finds no GPU\n")


def test_gpu_check_goes_on_after_a_section_fails(tmp_path: Path) -> None:
    """A card that runs out of memory in one section has done the others; the page tells both."""
    done, result = gpu_check(
        tmp_path, "--sections", "kernels,launches,bench", "--only", "norm", GS_FAKE_MEMORY="9000000"
    )
    found = {s["section"]: s for s in result["sections"]}
    assert done.returncode == 1
    assert [s for s, o in found.items() if o["problem"]] == ["bench"]
    assert "OUT_OF_MEMORY" in found["bench"]["problem"]
    assert all(c["passed"] for c in result["checks"])
    assert len(found["launches"]["checks"]) == 3
    page = (tmp_path / "stand-in.md").read_text()
    assert page.startswith("# stand-in\n")
    assert "OUT_OF_MEMORY" in page


def test_gpu_check_without_time(tmp_path: Path) -> None:
    done, result = gpu_check(tmp_path, "--sections", "launches", "--minutes", "0.01")
    assert done.returncode == 1
    assert {s["problem"] for s in result["sections"]} == {"no time was left"}
    assert "0 of 0 checks passed" in done.stdout


@pytest.mark.slow
def test_gpu_check_rehearsed(tmp_path: Path) -> None:
    """The whole script: cases, ops, models, replays against launches, and the benchmarks' code at tiny shapes."""
    done, result = gpu_check(tmp_path, "--tune", "--minutes", "60")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert all(c["passed"] for c in result["checks"])
    assert not any(s["problem"] for s in result["sections"])
    assert {s["section"] for s in result["sections"]} >= {
        "facts",
        "kernels",
        "ops",
        "bounds",
        "models",
        "speed-0",
    }
    assert len(result["rows"]) > 100
    what = " ".join(r["what"] for r in result["rows"])
    for part in (
        "compute on CUDA0",
        "uploads behind compute",
        "waits host",
        "loading, file → GPU, first",
        "experts uploaded",
        "matvec q4_0",
    ):
        assert part in what
    assert done.stdout.splitlines()[-1].endswith("checks passed")


@pytest.mark.slow
def test_bench_w2a8_rehearsed() -> None:
    done = on_stand_in(ROOT / "tools" / "bench" / "bench_w2a8.py", "--small", "--tokens", "1,16")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "50 of 50 W2A8 checks passed on stand-in" in done.stdout
    assert "| 64 × 512 | 16 |" in done.stdout
    assert "times as fast" in done.stdout
