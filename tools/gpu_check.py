"""Checks and times the CUDA kernels on a real GPU: python tools/gpu_check.py [--out DIR] [--tune].

First every gs_* wrapper and every kernel case against numpy, then launches against graph replays bit by bit, then
whole models against the reference logits beside the checkout, then benchmarks of kernels and models. Runs from a
copied tree without installation, links or network; needs numpy, numba, gguf, cuda-core, NVRTC, a driver.
Writes gpu_check.json and <gpu>.md; prints a short table last. Exit code 1 when a check fails or no GPU can be used.
"""

import argparse
import hashlib
import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tools")]
import graphsched  # noqa: E402

graphsched.__path__.append(str(ROOT))  # graphsched.backends, where the tree's symlink did not travel

import gpu_models  # noqa: E402
import numpy as np  # noqa: E402
from cuda_emu.cases import cases  # noqa: E402
from cuda_emu.values import Target, error  # noqa: E402
from gpu_bench import Bench, Row  # noqa: E402
from gpu_target import GpuTarget, decode_like  # noqa: E402

from graphsched.backends.cuda import driver  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """Everything; the exit code."""
    options = parse(argv)
    reason = driver.probe()
    if reason:
        print(f"no GPU can be used: {reason}", file=sys.stderr)
        return 1
    target = GpuTarget(options.device)
    began = time.monotonic()
    kernels = target.compile_all()
    print(f"{target.gpu.name}: {kernels} kernels compiled in {time.monotonic() - began:.1f} s", flush=True)
    checks = [*run_cases(target, options.only), *same_bits(target, options.small)]
    if not options.no_models:
        checks += gpu_models.checks(options.small)
    bad = [c for c in checks if not c["passed"]]
    bench = None if options.no_bench else Bench(target, options.small)
    rows = [] if bench is None else measured(bench, options.tune)
    if bench is not None:
        bench.close()
    if not options.no_models and not options.no_bench:
        rows += gpu_models.speeds(options.small, began + options.minutes * 60)
    write(options.out, target, checks, rows)
    for c in bad:
        print(f"FAILED {c['name']}: {c['error']}")
    print(table(rows))
    print(f"{len(checks) - len(bad)} of {len(checks)} checks passed")
    return 1 if bad else 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description="Check and time the CUDA kernels on a GPU.")
    p.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks", help="where results are written")
    p.add_argument("--device", type=int, default=0)
    p.add_argument("--only", default="", help="cases whose name contains this")
    p.add_argument("--no-bench", action="store_true")
    p.add_argument("--no-models", action="store_true", help="kernels only")
    p.add_argument("--minutes", type=float, default=8, help="after which no further model is timed")
    p.add_argument("--tune", action="store_true", help="also time variants of the mat-vec")
    p.add_argument("--small", action="store_true", help="tiny benchmark shapes, to rehearse the script")
    return p.parse_args(argv)


def run_cases(target: Target, only: str) -> list[dict[str, Any]]:
    """Every case with fresh random inputs; a crash of one does not hide the others."""
    out, seed = [], int(time.time())
    for case in cases():
        if only not in case.name:
            continue
        try:
            got, want, tolerance = case.run(target, np.random.default_rng(seed))
            e = error(got, want)
            out.append({"name": case.name, "error": e, "passed": e <= tolerance, "seed": seed})
        except Exception as x:
            text = f"{type(x).__name__}: {str(x)[:300]}"
            out.append({"name": case.name, "error": text, "passed": False, "seed": seed})
    return out


def same_bits(target: GpuTarget, small: bool) -> list[dict[str, Any]]:
    """A chain of dependent launches: plain, with PDL, captured, captured with PDL; many times."""
    layers, k = (1, 256) if small else (24, 1024)
    want, out = decode_like(target, layers, k, pdl=False, graph=False), []
    for name, pdl, graph in (("PDL", True, False), ("graph", False, True), ("graph with PDL", True, True)):
        got = [decode_like(target, layers, k, pdl, graph) for _ in range(1 if small else 20)]
        wrong = sum(not np.array_equal(g, want) for g in got)
        finite = bool(np.isfinite(want).all())
        out.append({"name": f"same bits: {name}", "error": wrong, "passed": wrong == 0 and finite})
    return out


def measured(bench: Bench, tune: bool) -> list[Row]:
    rows = list(bench.everything())
    return rows + list(bench.tuned()) if tune else rows


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = ["| what | shape | µs | rate | share of peak |", "|---|---|---:|---:|---:|"]
    for r in rows:
        share = f"{r.share:.0%}" if r.share else ""
        lines.append(f"| {r.what} | {r.shape} | {r.us:.2f} | {r.rate:,.0f} {r.unit} | {share} |")
    return "\n".join(lines)


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def commit() -> str:
    """The checkout's commit; a copied tree has none."""
    if shutil.which("git") is None:
        return "unknown: no git here"
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "copied tree"


def digest() -> str:
    """Of all kernel sources: what these results are true of."""
    files = sorted((ROOT / "backends" / "cuda" / "kernels").iterdir())
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:16]


def write(out: Path, target: GpuTarget, checks: list[dict[str, Any]], rows: list[Row]) -> None:
    """gpu_check.json, and a page named after the card."""
    out.mkdir(parents=True, exist_ok=True)
    facts = {
        "gpu": target.gpu.name,
        "architecture": target.gpu.arch,
        "multiprocessors": target.gpu.multiprocessors,
        "driver knows CUDA": driver.driver_version(),
        "NVRTC": driver.nvrtc_version(),
        "cuda-core": installed("cuda-core"),
        "cuda-bindings": installed("cuda-bindings"),
        "Python": platform.python_version(),
        "command": " ".join(["python tools/gpu_check.py", *sys.argv[1:]]),
        "commit": commit(),
        "kernels": digest(),
        "date": time.strftime("%Y-%m-%d"),
    }
    result = {"facts": facts, "checks": checks, "rows": [r.dict() for r in rows]}
    (out / "gpu_check.json").write_text(json.dumps(result, indent=1))
    passed = sum(c["passed"] for c in checks)
    text = [f"# {target.gpu.name}", "", *(f"* {k}: {v}" for k, v in facts.items()), ""]
    text += [f"{passed} of {len(checks)} checks passed.", ""]
    text += [
        "Times are medians of graph replays between two events, weights rotated so that L2 does not hold them.",
        "",
    ]
    text += [
        "Shares: of the copy rate, or of torch's large bf16 product, both measured in the same run.",
        "",
        table(rows),
        "",
    ]
    slug = target.gpu.name.lower().removeprefix("nvidia ").replace(" ", "-")
    (out / f"{slug}.md").write_text("\n".join(text))


if __name__ == "__main__":
    sys.exit(main())
