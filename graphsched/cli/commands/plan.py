"""`graphsched plan`: what would run where, what it takes, and why, without running it."""

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from graphsched.cli import flags
from graphsched.cli.arguments import Command
from graphsched.cli.fitting import with_fit
from graphsched.cli.hints import say_hints
from graphsched.cli.interrupts import Interrupts
from graphsched.cli.model_command import ModelCommand
from graphsched.cli.opening import hint_at_unused, open_session
from graphsched.cli.screen import Screen
from graphsched.cli.values import FileName, ListOf, Number, OneOf
from graphsched.errors import OptionError

if TYPE_CHECKING:
    from graphsched.fit.fit import Fit
    from graphsched.predict.plan import Plan
    from graphsched.predict.session import SessionPlan
    from graphsched.session.model import Model
    from graphsched.session.options import SessionOptions
    from graphsched.session.session import Session

Shown = tuple[Any, Callable[[], Any]]  # data, and what renders it
DEFAULT_PROMPT: Final = 512  # tokens, where the context has room for them
NO_DEVICE: Final = (
    "hint: everything is on the CPU, as no device is named; --device sim:NAME or CUDA0 names one"
)


@click.command(cls=ModelCommand, epilog="Example: graphsched plan --device sim:rtx4090 -ot exps=CPU --nodes")
@flags.sequences
@click.option(
    "--phase", type=OneOf("prefill", "decode"), default="decode", help="a prompt, or one token (default)"
)
@click.option(
    "-p", "--n-prompt", type=Number(int, 1), help="tokens of the prompt (default: 512, or the context)"
)
@click.option("--nodes", is_flag=True, help="every node with its device and why it is there")
@click.option("--vs", metavar="FLAGS", help="what changes with other flags, as in --vs '-op 26,0'")
@click.option(
    "--critical-path", "critical", is_flag=True, help="what the predicted time consists of, end to end"
)
@click.option(
    "--sweep", type=ListOf(Number(int, 1)), metavar="N,...", help="prompts of these lengths, as in 32-4096*2"
)
@click.option("--plot", type=FileName(), help="draw their speeds into an .svg or .png file")
@click.option(
    "--check", "checks", is_flag=True, help="run it, and lay what is measured beside the prediction"
)
@click.option("--json", "as_json", is_flag=True, help="plain data instead of tables")
def command(
    model: Path | None,
    options: "SessionOptions",
    phase: str,
    n_prompt: int | None,
    nodes: bool,
    vs: str | None,
    critical: bool,
    sweep: tuple[int, ...] | None,
    plot: Path | None,
    checks: bool,
    as_json: bool,
) -> None:
    """Show what would run where, and why, without running it.

    Works on a file that ends after its header. Times are predictions for the machine that --device names. With -np N
    a token is one of each of N sequences, and a table compares fewer that generate together.
    """
    from graphsched.session.model import open_default_or

    loaded = open_default_or(model, options.override_kv, header_only=not checks)
    asked = Asked(loaded, phase, n_prompt, Screen())
    if plot and not sweep:
        raise OptionError("--plot draws the lengths of --sweep N,...")
    options, fit = with_fit(loaded, options, asked.screen)
    if sweep:
        return show(*swept(asked, options, sweep, plot, checks), as_json)
    made = asked.plan(options)
    hint_at_unused(loaded, options, asked.screen)
    if checks:
        found = checked(asked, options, *made)
    elif vs is not None:
        behind = with_flags(vs, flags.sequences)
        if behind.override_kv != options.override_kv:
            loaded = open_default_or(model, behind.override_kv, header_only=True)
        behind, _ = with_fit(loaded, behind, asked.screen)
        found = compared(made, replace(asked, model=loaded).plan(behind))
    elif options.what_if:
        found = compared(asked.plan(replace(options, what_if=())), made)
    else:
        found = alone(*made, nodes, critical)
    return show(*fitted(found, fit), as_json)


def fitted(shown: Shown, fit: "Fit | None") -> Shown:
    """A plan with what --fit chose in front of it."""
    if fit is None:
        return shown
    from rich.console import Group

    from graphsched.report.fit import render

    data, rendered = shown
    return data | {"fit": fit.as_json()}, lambda: Group(render(fit), rendered())


def alone(plan: "Plan", about: "SessionPlan", nodes: bool, critical: bool) -> Shown:
    """A plan, with every node and the critical path if these are asked for."""
    from rich.console import Group

    from graphsched.report import critical as report_path
    from graphsched.report import plan as report

    data = report.as_data(plan, nodes, about)
    if not critical:
        return data, lambda: report.render(plan, nodes, about)
    path = report_path.path_data(plan)
    return data | {"critical_path": path}, lambda: Group(
        report.render(plan, nodes, about), report_path.path_table(path)
    )


def compared(before: "tuple[Plan, SessionPlan]", after: "tuple[Plan, SessionPlan]") -> Shown:
    """What changes from one plan to another."""
    from graphsched.report.plan_diff import difference, render_difference

    change = difference(before[0], after[0], before[1], after[1])
    return change, lambda: render_difference(change)


def swept(
    asked: "Asked", options: "SessionOptions", lengths: tuple[int, ...], plot: Path | None, checks: bool
) -> Shown:
    """Prompts of several lengths; with `checks` each is run, too."""
    from graphsched.gguf.atomic import replacing
    from graphsched.measure.check import prompt_seconds
    from graphsched.predict.sweep import predicted
    from graphsched.report.lengths import draw, table
    from graphsched.report.plot import plot_format

    kind = plot_format(plot) if plot else ""
    asked.model.batching(options).check_room(max(lengths), 0)
    found = list(predicted(asked.model, options, lengths))
    if checks:
        check_plan(found[0].plans[0])
        with asked.session(options) as session:
            found = [replace(f, measured=prompt_seconds(session, f.n_tokens)) for f in found]
    if plot:
        with replacing(plot) as file:
            draw(found, asked.model.summary(options).partition(":")[0], file, kind)
    return [f.as_json() for f in found], lambda: table(found)


def check_plan(plan: "Plan") -> None:
    """OptionError for a plan that cannot be laid beside a run."""
    if plan.planner.devices:
        raise OptionError("--check is for plans without simulated devices, whose times are never measured")
    if plan.machine is None:
        what = "measures this machine, with as many threads"
        raise OptionError(f"--check needs a prediction: graphsched measure {what}, --machine FILE names one")


def checked(asked: "Asked", options: "SessionOptions", plan: "Plan", about: "SessionPlan") -> Shown:
    """A run of what was planned, beside its prediction. OptionError where there is no prediction, or nothing to run."""
    from graphsched.measure.check import check
    from graphsched.report.check import render

    check_plan(plan)
    n_past = 0 if plan.lengths["n_tokens"] > plan.n_sequences else plan.n_kv - 1
    with asked.session(options) as session:
        found = check(session, about.prompt.plans if about.prompt else (plan,), n_past)
    return found.as_json(), lambda: render(found)


@dataclass(frozen=True)
class Asked:
    """What is planned: a phase with a prompt of so many tokens, None for as many as there is room for."""

    model: "Model"
    phase: str
    n_prompt: int | None
    screen: Screen

    @contextmanager
    def session(self, options: "SessionOptions") -> "Iterator[Session]":
        """A session to run what was planned, which Ctrl-C ends."""
        with Interrupts() as interrupts:
            session = open_session(self.model, options, self.screen, interrupts)
            with interrupts.aborting(session):
                yield session

    def plan(self, options: "SessionOptions") -> "tuple[Plan, SessionPlan]":
        """The plan of a token behind the prompt, or of its first micro-batch, and its session. Says what is odd.

        The token is one of each sequence.
        """
        from graphsched.predict.plan import make_plan
        from graphsched.predict.session import prompt_plans, session_of
        from graphsched.schedule.effects import layers_apart

        if not options.devices and flags.asks_for_devices(options):
            self.screen.hint(NO_DEVICE)
        reading = self.model.batching(options)
        n_prompt = min(DEFAULT_PROMPT, reading.n_each) if self.n_prompt is None else self.n_prompt
        reading.check_room(n_prompt, 0)
        if self.phase == "prefill":
            prompt = tuple(prompt_plans(self.model, options, n_prompt))
        else:
            n, n_kv = options.n_parallel, min(n_prompt + 1, reading.n_each)
            prompt = (make_plan(self.model, options, n, n, n_kv, n_sequences=n),)
        about = session_of(prompt[0], prompt)
        say_hints(self.model, options, about.given, self.screen)
        if n := layers_apart(prompt[0].planner.homes.placement.homes):
            self.screen.hint(f"hint: up and gate of experts are apart, on two devices, in {n} layers")
        for need in about.needs.values():
            if not need.fits:
                self.screen.hint(f"hint: {need.sentence}")
        return prompt[0], about


def show(data: Any, render: Callable[[], Any], as_json: bool) -> None:
    """Data as JSON, or a rendering of it, on standard output."""
    if as_json:
        click.echo(json.dumps(data, indent=1))
        return
    from rich.console import Console

    width = None if sys.stdout.isatty() else 200  # piped tables are not folded
    Console(width=width).print(render())


def with_flags(text: str, add: flags.Function = flags.session) -> "SessionOptions":
    """The options of the command that runs, with further flags behind its own. add: what adds those that it has."""
    try:
        words = shlex.split(text)
    except ValueError as e:
        raise OptionError(f"--vs {text}: {str(e).lower()}") from None

    @click.command(cls=Command)
    @add
    def reader(model: Path | None, options: "SessionOptions") -> None:
        """A command that is never run; click parses flags with it."""

    behind = reader.make_context("--vs", words).params
    if behind["model"] is not None:
        raise OptionError("--vs compares flags, not models")
    return flags.further(click.get_current_context().params, behind)
