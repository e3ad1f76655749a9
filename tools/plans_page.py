"""Writes docs/plans-of-real-models.md: what `plan` says of real models with the command lines of people who run them.

Headers only: nothing is downloaded, nothing runs. python tools/plans_page.py
"""

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from graphsched.cli.commands.plan import Asked, command  # noqa: E402
from graphsched.cli.flags import further  # noqa: E402
from graphsched.cli.screen import Screen  # noqa: E402
from graphsched.predict.memory import megabytes  # noqa: E402
from graphsched.predict.plan import Plan, bound_by  # noqa: E402
from graphsched.predict.session import SessionPlan  # noqa: E402
from graphsched.report.plan import copied, prediction  # noqa: E402
from graphsched.session.model import open_default_or  # noqa: E402
from graphsched.session.options import SessionOptions  # noqa: E402
from graphsched.synth import model as synth  # noqa: E402
from graphsched.types.devices import HOST  # noqa: E402

PAGE: Final = ROOT / "docs" / "plans-of-real-models.md"
N_PROMPT: Final = 2048
TOP: Final = f"""# Plans of real models

What `graphsched plan` says of ten models with the command lines of people who run them. `graphsched synth LAYOUT m.gguf
--header-only` makes the file, so nothing is downloaded. Times are predictions for described machines, never
measurements: a token behind a prompt of {N_PROMPT}, and that prompt (`--phase prefill`). "Copied" is what moves between
devices, of a prompt in its first micro-batch. Written by `tools/plans_page.py`.

Shares are of the run's time (of a prompt's first micro-batch): what "busy" says of a device, and "copies" of the links.
Machines: `rtx4090` and `2x3090` are desktops with 60 GB/s of host memory and come with graphsched;
[epyc-rtx4090.toml](epyc-rtx4090.toml) describes a server with 330 GB/s, for what fits into no desktop.

* With experts out, a token takes about the bytes of the experts that it uses over the host's bandwidth.
* A prompt uploads nearly all experts once for each micro-batch, however many tokens that has: `-ub 2048` divides the
  uploads of `-ub 512` by four. All go to the first card, as in llama.cpp, so a second one's link stays idle.
* Experts are uploaded from 32 rows per expert, as in ik_llama.cpp. gpt-oss 120B chooses 4 of 128, so that a micro-batch
  of 512 has 16, and the host computes it.
"""


@dataclass(frozen=True)
class Case:
    """A layout, the type of its matrices ("" its own), a machine, and flags."""

    layout: str
    type: str
    machine: str
    flags: str
    about: str


CASES: Final = (
    Case("gemma-3-27b", "", "sim:rtx4090", "-ngl 99 -fa 1 -c 32768", "dense, whole on one card"),
    Case("qwen3-32b", "Q8_0", "sim:2x3090", "-ngl 99 -sm layer -ts 1/1 -c 16384", "dense, over two cards"),
    Case("seed-oss-36b", "Q6_K", "sim:rtx4090", "-ngl 99 -ot ffn_=CPU", "dense, attention on the card"),
    Case("gpt-oss-120b", "", "sim:rtx4090", "-ngl 99 -ncmoe 26 -c 32768", "experts of 26 of 36 layers out"),
    Case("glm-4.5-air", "", "sim:rtx4090", "-ngl 99 -ot exps=CPU -ub 2048", "all experts out"),
    Case("qwen3-next-80b-a3b", "", "sim:rtx4090", "-ngl 99 -ncmoe 30 -ub 2048", "recurrent layers"),
    Case(
        "qwen3-235b-a22b",
        "IQ3_XXS",
        "sim:2x3090",
        "-ngl 99 -ts 1/1 -ncmoe 60",
        "two cards, experts of 60 out",
    ),
    Case(
        "minimax-m2",
        "",
        "docs/epyc-rtx4090.toml",
        "-ngl 99 -ot exps=CPU -op 27,0,29,0 -ub 2048",
        "experts out and never uploaded",
    ),
    Case(
        "deepseek-v3.2",
        "",
        "docs/epyc-rtx4090.toml",
        "-ngl 99 -cmoe -ub 2048 -c 16384",
        "sparse latent attention on the card",
    ),
    Case(
        "kimi-k2", "", "docs/epyc-rtx4090.toml", "-ngl 99 -ot exps=CPU -mla 3 -ub 4096 -b 4096", "a trillion"
    ),
)


def page() -> str:
    """The page as text."""
    return TOP + "".join(f"\n{section(case)}" for case in CASES)


def section(case: Case) -> str:
    """A case as text: command line, memory, predictions and what bounds them."""
    token, about = planned(case, "decode")
    prompt, of_prompt = planned(case, "prefill")
    lines = [
        heading(case),
        "",
        f"{token.model.summary(token.options)}.",
        "",
        *_memory(about),
        "",
        *_runs((("token", token, about), ("prompt", prompt, of_prompt))),
    ]
    return "\n".join(lines) + "\n"


def heading(case: Case) -> str:
    """A case's title and its command lines."""
    type = f" --type {case.type}" if case.type else ""
    lines = [
        f"## {case.layout}: {case.about}",
        "",
        "```",
        f"$ graphsched synth {case.layout} m.gguf --header-only{type}",
        f"$ graphsched plan -m m.gguf --device {case.machine} {case.flags} -p {N_PROMPT}",
        "```",
    ]
    return "\n".join(lines)


def planned(case: Case, phase: str) -> tuple[Plan, SessionPlan]:
    """The plan of a phase, and its session."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.gguf"
        synth.write(case.layout, path, case.type, extent="header")
        options = options_of(case)
        model = open_default_or(path, options.override_kv, header_only=True)
        return Asked(model, phase, N_PROMPT, Screen()).plan(options)


def options_of(case: Case) -> SessionOptions:
    """What the flags of a case ask for."""
    machine = case.machine if ":" in case.machine else str(ROOT / case.machine)
    given = command.make_context("plan", ["--device", machine, *case.flags.split()]).params
    return further(given, command.make_context("plan", []).params)


def _memory(about: SessionPlan) -> Iterator[str]:
    yield "| device | weights | cache and state | compute | total | of |"
    yield "|---|---|---|---|---|---|"
    for on, need in about.needs.items():
        sizes = (need.weights + need.derived, need.kv + need.state, need.arena + need.staging, need.total)
        yield f"| {on} | {' | '.join(map(megabytes, (*sizes, need.has or 0)))} |"


def _runs(runs: tuple[tuple[str, Plan, SessionPlan], ...]) -> Iterator[str]:
    for name, plan, about in runs:
        splits = plan.schedule.splits
        moved = sum(copied(plan, copy) for split in splits for copy in split.inputs)
        yield f"* **{name}**: {prediction(plan, about)}. Copied: {megabytes(moved)} into {len(splits)} splits."
        yield f"  {bound(plan)}"


def bound(plan: Plan) -> str:
    """A sentence: the device or the links that are busy longest, and by what."""
    timeline = plan.timeline
    assert timeline is not None
    lanes = {on: timeline.busy("compute", "launch", lane=on) for on in (*plan.planner.devices, HOST)}
    busiest = max(lanes, key=lambda on: lanes[on])
    if (links := timeline.busy("up", "down")) > lanes[busiest]:
        up = sum(e.nbytes for e in timeline.events if e.kind == "up")
        return f"Bound by the link: {megabytes(up)} go up in {links * 1e3:.1f} ms."
    events = [e for e in timeline.events if e.lane == busiest]
    why = bound_by(events, plan.processor(busiest))
    moved = sum(e.nbytes for e in events if e.kind == "compute")
    what = f": {megabytes(moved)} are read or written in" if why == "memory" else ", which is busy for"
    return f"Bound by {why} of {busiest}{what} {lanes[busiest] * 1e3:.1f} ms."


if __name__ == "__main__":
    PAGE.write_text(page())
