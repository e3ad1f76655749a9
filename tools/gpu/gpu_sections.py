"""The sections of gpu_check.py: what each finds, one line at a time, as (kind, fields): check, row or fact."""

import argparse
import hashlib
import platform
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import gpu_calls
import numpy as np

from graphsched.backends.cuda import driver

ROOT: Final = Path(__file__).resolve().parents[2]
Found = tuple[str, dict[str, Any]]
Options = argparse.Namespace


@dataclass(frozen=True)
class Section:
    """A part of the script. Seconds: at most, and those that the sections before it must leave."""

    name: str
    about: str
    work: Callable[[Options, float], Iterator[Found]]
    least: float
    most: float
    is_bench: bool = False
    has_models: bool = False


def checked(name: str, work: Callable[[], tuple[Any, bool]]) -> Found:
    """A check of what `work` returns, an error and whether it is small enough; one that raises has failed."""
    try:
        error, passed = work()
    except Exception as e:  # one case must not hide the others
        error, passed = f"{type(e).__name__}: {str(e)[:300]}", False
    return "check", {"name": name, "error": error, "passed": bool(passed)}


def facts(options: Options, until: float) -> Iterator[Found]:
    gpu = driver.open_gpu(options.device)
    files = sorted((ROOT / "backends" / "cuda" / "kernels").iterdir())
    free, total = driver.free_memory()
    yield (
        "fact",
        {
            "gpu": gpu.name,
            "architecture": gpu.arch,
            "multiprocessors": gpu.multiprocessors,
            "memory": f"{total / 1e9:.1f} GB, {free / 1e9:.1f} GB free",
            "stream memory operations": driver.has_stream_memory_operations(gpu),
            "driver knows CUDA": driver.driver_version(),
            "NVRTC": driver.nvrtc_version(),
            **{name: installed(name) for name in ("cuda-core", "cuda-bindings")},
            "Python": platform.python_version(),
            "kernels": hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:16],
        },
    )


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def kernels(options: Options, until: float) -> Iterator[Found]:
    """Every gs_* wrapper, then every kernel case, with fresh random inputs."""
    from cuda_emu.cases import cases
    from gpu_target import GpuTarget

    target, wanted = GpuTarget(options.device), options.only.split("|")
    if not (options.only or options.small):
        began = time.monotonic()
        yield (
            "fact",
            {
                "kernels compiled": target.compile_all(),
                "seconds to compile": round(time.monotonic() - began, 1),
            },
        )
    seed = int(time.time())
    found = [c for c in cases() if any(w in c.name for w in wanted)]
    for case in found[:: 10 if options.small else 1]:
        yield checked(f"{case.name} (seed {seed})", partial(_case, case, target, seed))
        if time.monotonic() > until:
            return


def _case(case: Any, target: Any, seed: int) -> tuple[float, bool]:
    from cuda_emu.values import error

    got, want, tolerance = case.run(target, np.random.default_rng(seed))
    e = float(error(got, want))
    return e, e <= tolerance


def launches(options: Options, until: float) -> Iterator[Found]:
    """A chain of dependent launches: plain, with PDL, captured, captured with PDL; many times."""
    from gpu_target import GpuTarget, decode_like

    target, (layers, k) = GpuTarget(options.device), (1, 256) if options.small else (24, 1024)
    chain = partial(decode_like, target, layers, k)
    want = chain(pdl=False, graph=False)
    for name, pdl, graph in (("PDL", True, False), ("graph", False, True), ("graph with PDL", True, True)):
        again = partial(chain, pdl=pdl, graph=graph)
        yield checked(f"same bits: {name}", partial(_same, again, want, 1 if options.small else 20))


def _same(again: Callable[[], Any], want: Any, times: int) -> tuple[int, bool]:
    wrong = sum(not np.array_equal(again(), want) for _ in range(times))
    return wrong, wrong == 0 and bool(np.isfinite(want).all())


LARGE: Final = (  # type, tokens, rows, k, floats from row to row of the result
    ("f16", 64, 128, 256, 128), ("bf16", 64, 128, 256, 192), ("bf16", 33, 100, 72, 100), ("f16", 512, 1028, 1024, 1028),
)  # fmt: skip


def cublas(options: Options, until: float) -> Iterator[Found]:
    """cuBLASLt against numpy, odd sizes and strides too; then models whose products go by it."""
    if not driver.cublas_version():
        yield "fact", {"cuBLASLt": "absent"}
        return
    yield "fact", {"cuBLASLt": driver.cublas_version()}
    gpu = driver.open_gpu(options.device)
    room = driver.malloc(driver.CUBLAS_ROOM)
    blas, stream = driver.Cublas(room), driver.new_stream(gpu)
    for given in LARGE:
        yield checked(f"cuBLASLt {' '.join(map(str, given))}", partial(_large, gpu, stream, blas, *given))
    blas.close()
    driver.free(room)
    yield from models("by_library", options, until)


def _large(
    gpu: Any, stream: Any, blas: Any, kind: str, m: int, n: int, k: int, stride: int
) -> tuple[float, bool]:
    from cuda_emu.values import error, narrow, normal, widen

    rng = np.random.default_rng(m)
    x, w, y = (
        narrow(normal(rng, m, k), kind),
        narrow(normal(rng, n, k), kind),
        np.empty((m, stride), np.float32),
    )
    rooms = [gpu_calls.allocate(gpu, a.nbytes, stream) for a in (x, w, y)]
    for array, on_device in ((x, rooms[0]), (w, rooms[1])):
        gpu_calls.upload(on_device, array, stream)
    at_x, at_w, at_y = (int(r.handle) for r in rooms)
    blas.prepared(kind, at_x, at_w, at_y, (m, n, k), stride)(stream)
    gpu_calls.download(rooms[2], y, stream)
    want = widen(x, kind).astype(np.float64) @ widen(w, kind).astype(np.float64).T
    e = float(error(y[:, :n], want))
    return e, e <= 1e-5


def ops(options: Options, until: float) -> Iterator[Found]:
    """Every case of the op table through the device: placed, lowered, packed and run as in a session."""
    from op_runs import all_cases

    without = 0
    for row in list(all_cases())[:: 40 if options.small else 1]:
        if options.only not in row.id:
            continue
        kind, found = checked(row.id, partial(_op_case, *row.values))
        if found["error"] is None:
            without += 1
        else:
            yield kind, found
        if time.monotonic() > until:
            break
    yield "fact", {"op cases without a kernel": without}


def _op_case(definition: Any, case: Any) -> tuple[float | None, bool]:
    from cuda_emu.worker import TOLERANCE, run_case

    e = run_case(definition, case)
    most = max(case.tolerance, *(TOLERANCE.get(t.dtype.name, 0.0) for t in case.types))
    return e, e is None or e <= most


def bench(options: Options, until: float) -> Iterator[Found]:
    from gpu_bench import Bench
    from gpu_target import GpuTarget

    made = Bench(GpuTarget(options.device), options.small)
    for part in [*made.parts, made.tuned] if options.tune else made.parts:
        try:
            for row in part():
                yield "row", row.dict()
                if time.monotonic() > until:
                    return
        except Exception as e:  # one library that does not answer must not hide the other timings
            error = f"{type(e).__name__}: {str(e)[:300]}"
            yield "check", {"name": f"timing {part.__name__}", "error": error, "passed": False}


TOOLS: Final = ("memcheck", "racecheck", "synccheck", "initcheck")


def sanitizers(options: Options, until: float) -> Iterator[Found]:
    """compute-sanitizer over some cases of all kernel files, where there is one and the machine lets it work."""
    from cuda_emu.cases import cases

    program = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path="/usr/local/cuda/bin"
    )
    if program is None:
        yield "fact", {"compute-sanitizer": "absent"}
        return
    names = "|".join(c.name for c in list(cases())[::15])
    for tool in TOOLS:
        with tempfile.TemporaryDirectory() as folder:
            command = [
                program,
                "--tool",
                tool,
                *shlex.split(options.python),
                str(ROOT / "tools" / "gpu" / "gpu_check.py"),
            ]
            command += ["--section", "kernels", "--only", names, "--lines", str(Path(folder, "lines"))]
            command += ["--seconds", "1000", "--device", str(options.device)]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, check=False, timeout=until - time.monotonic()
                )
            except (subprocess.TimeoutExpired, OSError, ValueError) as e:
                yield "fact", {f"compute-sanitizer {tool}": f"not run: {type(e).__name__}"}
                continue
        told = [
            line
            for line in done.stdout.splitlines()
            if "ERROR SUMMARY" in line or "RACECHECK SUMMARY" in line
        ]
        if told:
            clean = told[-1].partition(":")[2].strip().startswith("0 ")
            yield (
                "check",
                {"name": f"compute-sanitizer {tool}", "error": told[-1].strip("= "), "passed": clean},
            )
        else:
            last = (done.stdout + done.stderr).strip().splitlines()[-1:] or ["no output"]
            yield "fact", {f"compute-sanitizer {tool}": f"does not work here: {last[0][:200]}"}


def models(what: str, options: Options, until: float) -> Iterator[Found]:
    import gpu_models  # it needs pytest, and so do the sections of models only

    yield from getattr(gpu_models, what)(options, until)


def speeds(number: int, options: Options, until: float) -> Iterator[Found]:
    import gpu_models

    yield from gpu_models.speeds(gpu_models.FULL[number], options.small, until)


SECTIONS: Final = (
    Section("facts", "the card and what runs on it", facts, 5, 60),
    Section("kernels", "wrappers and kernel cases against numpy", kernels, 20, 100),
    Section("launches", "PDL and graphs against plain launches, bit by bit", launches, 10, 30),
    Section("ops", "cases of the op table through the device", ops, 10, 60),
    Section(
        "bounds", "graphs and ways to wait, bit by bit", partial(models, "bounds"), 10, 60, has_models=True
    ),
    Section(
        "models", "reference logits, split in five ways", partial(models, "checks"), 20, 120, has_models=True
    ),
    Section("cublas", "products by cuBLASLt", cublas, 10, 60, has_models=True),
    Section("bench", "kernels timed", bench, 30, 80, is_bench=True),
    *(
        Section(f"speed-{i}", f"{about}, timed", partial(speeds, i), 15, 75, is_bench=True, has_models=True)
        for i, about in enumerate(
            (
                "Llama 8B Q4_0",
                "DeepSeek-V2-Lite IQ4_NL, experts on the CPU",
                "BitNet 2B IQ2_BN",
                "Llama 8B Q4_K_M",
                "DeepSeek-V2-Lite IQ4_NL",
                "Qwen3-30B-A3B Q4_0",
            )
        )
    ),
    Section("sanitizers", "compute-sanitizer over some kernels", sanitizers, 15, 90),
)


def chosen(options: Options) -> Sequence[Section]:
    """The sections that the flags ask for."""
    wanted = set(filter(None, options.sections.split(",")))
    if unknown := wanted - {s.name for s in SECTIONS}:
        raise SystemExit(
            f"no section {', '.join(sorted(unknown))}; there are {', '.join(s.name for s in SECTIONS)}"
        )
    return [
        s
        for s in SECTIONS
        if (not wanted or s.name in wanted or s.name == "facts")
        and not (s.is_bench and options.no_bench)
        and not (s.has_models and options.no_models)
    ]
