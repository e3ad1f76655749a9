"""What `--fit` costs against the best that users and other engines would choose, on the virtual clock.

    python tools/bench/fit_regret.py -o regret.md
    python tools/bench/fit_regret.py --layouts qwen3-30b-a3b --machines rtx4090 --goals chat

Others are, for each layout, machine and goal: the fewest layers with experts on the host that fit, and one more; the
most layers on devices that fit, and one less; all on the host; each with uploads from 32 rows, never, and by cost.
Regret is how much longer a request takes with `--fit` than with the fastest of them.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from graphsched.cli.main import run
from graphsched.errors import OptionError
from graphsched.fit.fit import fit
from graphsched.fit.flags import typed
from graphsched.fit.judge import Judged, judged, overflows
from graphsched.session.model import Model, open_default_or
from graphsched.session.options import SessionOptions, session_options

LAYOUTS: Final = (
    *("llama-8b", "qwen3-32b", "seed-oss-36b", "gemma-3-27b", "mistral-small-3.2", "qwen3-30b-a3b"),
    *("deepseek-v2-lite", "gpt-oss-20b", "hunyuan-a13b", "qwen3.5-35b-a3b"),
)
MACHINES: Final = ("rtx4090", "rtx4090-pcie3x4", "rtx4080-7950x", "2x3090", "h200")
GOALS: Final = ("chat", "prompt", "pp=128,tg=128,slots=8")
POLICIES: Final[tuple[Any, ...]] = ((), "-1,0", "auto")


@dataclass(frozen=True)
class Case:
    """A fit, the best of the others (None if none fits), and the seconds that choosing took."""

    layout: str
    machine: str
    goal: str
    fitted: Judged
    best: Judged | None
    seconds: float

    @property
    def regret(self) -> float:
        """How much longer a request takes than with the best of the others."""
        return self.fitted.seconds / self.best.seconds - 1 if self.best else 0.0


def others(model: Model, asked: SessionOptions) -> Iterator[Judged]:
    """Those that fit of what others would choose; fewest experts on the host first, then some more."""
    has_experts = any("ffn_down_exps" in name for name in model.file.tensors)
    n = model.config.n_layer
    by_number = [{"n_cpu_moe": i} for i in range(n + 1)] if has_experts else []
    by_layer = [{"n_gpu_layers": n + 1 - i} for i in range(n + 2)]
    for placed in (by_number, by_layer):
        fitting = [p for p in placed if not overflows(model, _placed(asked, p))]
        found = 0
        for p in fitting:
            some = [judged("", model, o) for o in _policies(asked, p)]
            found += any(one.fits for one in some)
            yield from (one for one in some if one.fits)
            if found == 2:
                break
    yield from (judged("", model, o) for o in _policies(asked, {"n_gpu_layers": 0})[:1])


def _placed(asked: SessionOptions, placed: dict[str, int]) -> SessionOptions:
    placement: Any = replace(asked.placement, **placed)  # type: ignore[arg-type]  # counts by name
    return replace(asked, placement=placement)


def _policies(asked: SessionOptions, placed: dict[str, int]) -> list[SessionOptions]:
    return [replace(_placed(asked, placed), offload_policy=policy) for policy in POLICIES]


def case(model: Model, layout: str, machine: str, goal: str) -> Case | None:
    """A case; None where the model does not fit the machine at all."""
    slots = int(goal.rpartition("slots=")[2]) if "slots" in goal else 1
    asked = session_options(devices=f"sim:{machine}", n_ctx=8192, fit_for=goal, n_parallel=slots)
    started = time.perf_counter()
    try:
        found = fit(model, asked)
    except OptionError as e:
        print(f"{layout} on {machine}: {e}", file=sys.stderr)
        return None
    seconds = time.perf_counter() - started
    best = min((one for one in others(model, asked) if one.fits), key=lambda one: one.seconds, default=None)
    return Case(layout, machine, goal, found.chosen, best, seconds)


def row(found: Case) -> str:
    """The row of a table."""
    best = f"{found.best.seconds:.3g}" if found.best else ""
    what = typed(found.best.options.placement) or "as by default" if found.best else ""
    cells = (
        found.layout,
        found.machine,
        found.goal,
        f"{found.fitted.seconds:.3g}",
        best,
        f"{found.regret:+.1%}",
    )
    return f"| {' | '.join(cells)} | {what} | {found.seconds:.1f} |"


def main(args: Sequence[str] | None = None) -> None:
    """Prints or writes the table, rows as they come on standard error."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("layouts", LAYOUTS), ("machines", MACHINES), ("goals", GOALS)):
        made.add_argument(f"--{name}", nargs="+", default=default)
    made.add_argument("-o", "--output", type=Path)
    options = made.parse_args(args)
    rows = ["| layout | machine | goal | fit, s | best other, s | regret | its flags | chosen in, s |"]
    rows.append("|---|---|---|---:|---:|---:|---|---:|")
    regrets = []
    with TemporaryDirectory() as folder:
        for layout in options.layouts:
            path = Path(folder) / f"{layout}.gguf"
            run(["synth", layout, str(path), "--header-only"])
            model = open_default_or(path, (), header_only=True)
            for machine in options.machines:
                for goal in options.goals:
                    if found := case(model, layout, machine, goal):
                        rows.append(row(found))
                        regrets.append(found.regret)
                        print(rows[-1], file=sys.stderr, flush=True)
    text = "\n".join(rows) + f"\n\n{len(regrets)} cases, the worst {max(regrets, default=0):+.1%}.\n"
    if options.output:
        options.output.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
