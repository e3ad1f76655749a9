"""`graphsched perplexity`: how well a model predicts a text, and how far it is from another model."""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from graphsched.cli import flags
from graphsched.cli.arguments import Command
from graphsched.cli.divergence_text import HEADER, running_line, statistics_lines
from graphsched.cli.interrupts import INTERRUPTED, Interrupts
from graphsched.cli.opening import open_session
from graphsched.cli.screen import Screen, is_terminal
from graphsched.cli.texts import read_text
from graphsched.cli.values import FileName, Number
from graphsched.errors import OptionError

if TYPE_CHECKING:
    from graphsched.measure.logits_file import BaseLogits
    from graphsched.measure.perplexity import Estimate, Windows
    from graphsched.session.options import SessionOptions
    from graphsched.session.session import Session

WINDOW: Final = 512  # tokens, where -c does not say
Report = dict[str, Any]


@click.command(
    cls=Command,
    epilog="""\b
Example: graphsched perplexity -m model.gguf -f wiki.test.raw -c 512
Example: graphsched perplexity -m f16.gguf -f text.txt --kl-divergence-base f16.kld
Example: graphsched perplexity -m q4_0.gguf --kl-divergence-base f16.kld --kl-divergence
""",
)
@click.option("-f", "--file", metavar="FILE", help="the text, - being standard input")
@click.option(
    "--chunks", type=Number(int, 1, "-1 (all)"), default=-1, help="windows to score (default: -1, all)"
)
@click.option(
    "--kl-divergence-base",
    "--save-all-logits",
    "base",
    type=FileName(),
    help="file of log probabilities, in llama-perplexity's format: written, or read with --kl-divergence",
)
@click.option("--kl-divergence", is_flag=True, help="compare with the model that wrote that file")
@flags.session
@click.option("--json", "as_json", is_flag=True, help="plain data instead of text")
@click.option("-v", "--verbose", is_flag=True, help="say more about model and options")
@click.option("-q", "--quiet", is_flag=True, help="only the result, without the running estimate")
def command(
    model: Path | None,
    options: "SessionOptions",
    file: str | None,
    chunks: int,
    base: Path | None,
    kl_divergence: bool,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Measure the perplexity of a model on a text, with the windows of llama-perplexity.

    The text is cut into windows of -c tokens (default: 512), BOS stands at the start of each where the model wants
    it, and the second half of each is scored. The running estimate [n]PPL comes after each window.
    """
    is_silent = quiet or as_json
    with Interrupts() as interrupts:
        screen = Screen(quiet=quiet, verbose=verbose)
        request = Request(model, options, file, chunks, base, is_silent, screen, interrupts)
        from graphsched.session.session import Aborted  # after the interrupts, as it imports the compiler

        try:
            report = request.compared() if kl_divergence else request.scored()
        except Aborted:
            raise click.exceptions.Exit(INTERRUPTED) from None
    if as_json:
        print(json.dumps(report, indent=1))
        return
    if not quiet:
        print()
    print("\n".join(statistics_lines(report["kl_divergence"]) if kl_divergence else estimate_lines(report)))


@dataclass(frozen=True)
class Request:
    """The arguments of one perplexity run, and the screen for its messages."""

    model: Path | None
    options: "SessionOptions"
    file: str | None
    chunks: int
    base: Path | None
    is_silent: bool
    screen: Screen
    interrupts: Interrupts

    def say(self, text: str) -> None:
        """A part of the running estimate."""
        if not self.is_silent:
            print(text, end="", flush=True)

    def session(self, n_ctx: int) -> "Session":
        """A session with room for n_ctx tokens; without a text of its own it needs no tokenizer."""
        options, needs_text = replace(self.options, n_ctx=n_ctx), self.file is not None
        return open_session(self.model, options, self.screen, self.interrupts, needs_text=needs_text)

    def scored(self) -> Report:
        """Perplexity of the text in the file; its log probabilities are written if `base` names a file for them."""
        if self.file is None:
            raise OptionError("a text is needed, -f FILE")
        text = read_text(self.file)
        session = self.session(self.options.n_ctx or WINDOW)
        from graphsched.measure import logits_file
        from graphsched.measure.perplexity import Estimate, cut, normalised, window_logits

        self.screen.long("tokenizing")
        windows = cut(session.tokenizer.encode(text), session.n_ctx, self.chunks, self.file)
        estimate, running = Estimate(), list[float]()
        saved = logits_file.writing(self.base, windows, session.model.n_vocab) if self.base else nullcontext()
        with self.interrupts.aborting(session), saved as out:
            for window in self._each(windows):
                for logits, targets in window_logits(session, windows, window):
                    p = normalised(logits)
                    estimate.add(p.nll(targets))
                    if out is not None:
                        out.write(logits_file.encoded(p).tobytes())
                running.append(estimate.value)
                self.say(f"[{window + 1}]{estimate.value:.4f},")
        return _report(session, windows, estimate) | {"running": running}

    def compared(self) -> Report:
        """Divergence from the model that wrote `base`, on the tokens that are in it."""
        if self.base is None:
            raise OptionError("--kl-divergence needs the base model's file, --kl-divergence-base FILE")
        if self.file is not None:
            raise OptionError("-f has no use with --kl-divergence, the text is in the base model's file")
        from graphsched.measure.divergence import Divergence
        from graphsched.measure.logits_file import open_base
        from graphsched.measure.perplexity import Estimate, Windows, normalised, window_logits

        with ExitStack() as stack:
            saved = stack.enter_context(open_base(self.base))
            windows = saved.windows if self.chunks < 0 else Windows(saved.windows.tokens[: self.chunks])
            session = self.session(_window(self.options, saved, self.base))
            _check_vocabulary(session, saved, self.base)
            estimate, divergence = Estimate(), Divergence()
            self.say(HEADER + "\n")
            stack.enter_context(self.interrupts.aborting(session))
            for window in self._each(windows):
                rows, done = saved.rows(window), 0
                for logits, targets in window_logits(session, windows, window):
                    p = normalised(logits)
                    estimate.add(p.nll(targets))
                    divergence.add(p, rows[done : done + len(targets)], targets)
                    done += len(targets)
                self.say(running_line(window + 1, divergence.means()) + "\n")
        return _report(session, windows, estimate) | {"kl_divergence": divergence.statistics()}

    def _each(self, windows: "Windows") -> Iterator[int]:
        """The windows' numbers, with progress where the running estimate is not seen."""
        shows = self.is_silent or not is_terminal(sys.stdout)
        for window in range(len(windows)):
            if shows:
                self.screen.progress("windows", window, len(windows))
            yield window
        self.screen.clear()


def _window(options: "SessionOptions", saved: "BaseLogits", base: Path) -> int:
    """The context for windows of the file's length."""
    if 0 < options.n_ctx < saved.windows.n_ctx:
        raise OptionError(f"-c is {options.n_ctx}, {base} has windows of {saved.windows.n_ctx}")
    return options.n_ctx or saved.windows.n_ctx


def _check_vocabulary(session: "Session", saved: "BaseLogits", base: Path) -> None:
    if saved.n_vocab != session.model.n_vocab:
        raise OptionError(
            f"{base}: is of a vocabulary of {saved.n_vocab}, this model has {session.model.n_vocab}"
        )


def _report(session: "Session", windows: "Windows", estimate: "Estimate") -> Report:
    from graphsched import __version__
    from graphsched.session.settings import described, model_described

    return {
        "perplexity": estimate.value,
        "error": estimate.error,
        "n_scored": estimate.n,
        "n_windows": len(windows),
        "n_window": windows.n_ctx,
        **model_described(session.model),
        **described(session),
        "version": __version__,
    }


def estimate_lines(report: Report) -> list[str]:
    """The last line, as llama-perplexity says it."""
    return [f"Final estimate: PPL = {report['perplexity']:.4f} +/- {report['error']:.5f}"]
