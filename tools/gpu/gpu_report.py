"""What gpu_check.py writes: JSON, a page named after the card, and a short table."""

import json
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SHOWN = (
    "matvec q4_0",
    "matvec q8_0",
    "matvec q4_k",
    "gemm",
    "cuBLAS",
    "decoded",
    "copy",
    "llama",
    "deepseek",
    "qwen",
    "bitnet",
)
MOST_SHOWN = 40  # rows of the table that is printed


def commit() -> str:
    """The checkout's commit; a copied tree has none."""
    if shutil.which("git") is None:
        return "unknown: no git here"
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "copied tree"


def write(out: Path, outcomes: Sequence[Any], command: str) -> None:
    """Both files; called after each section, so that what there is stays."""
    out.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {"command": command, "commit": commit(), "date": time.strftime("%Y-%m-%d")}
    for o in outcomes:
        facts |= o.facts
    sections = [vars(o) for o in outcomes]
    data = {"facts": facts, "sections": sections}
    data |= {"checks": _all(outcomes, "checks"), "rows": _all(outcomes, "rows")}
    (out / "gpu_check.json").write_text(json.dumps(data, indent=1))
    if gpu := facts.get("gpu"):
        slug = gpu.lower().removeprefix("nvidia ").replace(" ", "-")
        (out / f"{slug}.md").write_text(page(gpu, facts, outcomes))


def _all(outcomes: Sequence[Any], what: str) -> list[dict[str, Any]]:
    return [{"section": o.section, **found} for o in outcomes for found in getattr(o, what)]


def page(gpu: str, facts: dict[str, Any], outcomes: Sequence[Any]) -> str:
    """Markdown: what it is true of, sections, what failed, all rows."""
    told = [f"* {name}: {value}" for name, value in facts.items()]
    bad = [f"* {c['name']}: {c['error']}" for c in _all(outcomes, "checks") if not c["passed"]]
    notes = (
        "Kernel times are medians of graph replays between two events, weights rotated so that L2 does not hold them.",
        "Shares: of the copy rate, or of cuBLAS's large bf16 product, both measured in the same run.",
        "Full-size models have made-up weights of zeros; their tokens per second are wall time.",
    )
    parts = [
        f"# {gpu}",
        "\n".join(told),
        sections(outcomes),
        "\n".join(["Failed:", *bad]) if bad else "",
        *notes,
    ]
    return "\n\n".join([p for p in parts if p] + [table(_all(outcomes, "rows"))]) + "\n"


def sections(outcomes: Sequence[Any]) -> str:
    lines = ["| section | s | checks | passed | |", "|---|---:|---:|---:|---|"]
    for o in outcomes:
        passed = sum(c["passed"] for c in o.checks)
        lines.append(
            f"| {o.section} | {o.seconds:.0f} | {len(o.checks)} | {passed} | {o.problem or o.note} |"
        )
    return "\n".join(lines)


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["| what | shape | µs | rate | share |", "|---|---|---:|---:|---:|"]
    for r in rows:
        share = f"{r['share']:.1%}" if r["share"] else ""
        rate = f"{r['rate']:,.1f} {r['unit']}" if r["unit"] else ""
        lines.append(f"| {r['what']} | {r['shape']} | {r['us']:.2f} | {rate} | {share} |")
    return "\n".join(lines)


def summary(outcomes: Sequence[Any]) -> str:
    """The short table: what failed, sections, and the rows that one looks for."""
    checks, rows = _all(outcomes, "checks"), _all(outcomes, "rows")
    bad = [f"FAILED {c['name']}: {c['error']}" for c in checks if not c["passed"]]
    kept = [r for r in rows if r["what"].startswith(SHOWN)][:MOST_SHOWN]
    passed = f"{len(checks) - len(bad)} of {len(checks)} checks passed"
    return "\n".join([*bad[:20], table(kept), sections(outcomes), passed])
