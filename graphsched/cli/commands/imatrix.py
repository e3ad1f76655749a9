"""`graphsched imatrix`: an importance matrix, collected while a model reads a text."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from graphsched.cli import flags
from graphsched.cli.arguments import Command
from graphsched.cli.interrupts import INTERRUPTED, Interrupts
from graphsched.cli.opening import open_session
from graphsched.cli.screen import Screen, is_terminal
from graphsched.cli.texts import read_text
from graphsched.cli.values import FileName, Number, OneOf
from graphsched.errors import OptionError

if TYPE_CHECKING:
    from graphsched.measure.perplexity import Estimate, Windows
    from graphsched.quantize.collected import Collected
    from graphsched.session.options import SessionOptions
    from graphsched.session.session import Session

CHUNK: Final = 512  # tokens, where -c does not say


@click.command(
    cls=Command,
    epilog="""\b
Example: graphsched imatrix -m model-f16.gguf -f calibration.txt -o imatrix.gguf
Example: graphsched imatrix --in-file a.gguf --in-file b.gguf -o both.gguf
""",
)
@click.option("-f", "--file", metavar="FILE", help="the text, - being standard input")
@click.option(
    "-o",
    "--output-file",
    "output",
    type=FileName(),
    default="imatrix.gguf",
    help="what is written (default: imatrix.gguf)",
)
@click.option(
    "--output-format",
    "form",
    type=OneOf("gguf", "dat"),
    help="(default: dat if -o ends with .dat, else gguf)",
)
@click.option(
    "--in-file", "given", type=FileName(), multiple=True, help="add what this file holds; repeatable"
)
@click.option(
    "--chunks", type=Number(int, 1, "-1 (all)"), default=-1, help="pieces of text to read (default: -1, all)"
)
@click.option(
    "--chunk", "--from-chunk", "first", type=Number(int, 0), default=0, help="the first of them (default: 0)"
)
@click.option("--process-output", is_flag=True, help="collect for output.weight, too")
@click.option("--no-ppl", is_flag=True, help="do not say how well the model predicts the text")
@click.option("--parse-special", is_flag=True, help="texts of control tokens are these tokens")
@click.option(
    "-ofreq",
    "--output-frequency",
    "every",
    type=Number(int, 1),
    default=10,
    help="pieces after each of which the file is written (default: 10)",
)
@flags.session
@click.option("-v", "--verbose", is_flag=True, help="say more about model and options")
@click.option("-q", "--quiet", is_flag=True, help="only the result")
def command(model: Path | None, options: "SessionOptions", quiet: bool, verbose: bool, **values: Any) -> None:
    """Collect how large the activations of each weight's columns are, for `graphsched quantize --imatrix`.

    The text is read in pieces of -c tokens (default: 512). Activations of a whole micro-batch (-ub) are kept in memory.
    """
    from graphsched.gguf.atomic import check_target

    screen = Screen(quiet=quiet, verbose=verbose)
    request = Request(options=options, model=model, screen=screen, **values)
    if values["file"] is None and not values["given"]:
        raise OptionError("a text is needed, -f FILE, or importance matrices to add up, --in-file FILE")
    # What takes hours must not be lost to a folder that does not exist.
    check_target(request.output, 0)
    with Interrupts() as interrupts:
        from graphsched.session.session import Aborted  # after the interrupts, as it imports the compiler

        try:
            collected = request.collected(interrupts) if request.file is not None else request.written(None)
        except Aborted:
            raise click.exceptions.Exit(INTERRUPTED) from None
    if not quiet:
        print(f"{request.output}: {len(collected.sums)} tensors, {collected.chunks} chunks")


@dataclass(frozen=True)
class Request:
    """The arguments of one imatrix run, and the screen for its messages."""

    model: Path | None
    options: "SessionOptions"
    file: str | None
    output: Path
    form: str | None
    given: tuple[Path, ...]
    chunks: int
    first: int
    process_output: bool
    no_ppl: bool
    parse_special: bool
    every: int
    screen: Screen

    @property
    def chunk_size(self) -> int:
        """Tokens of a piece of text."""
        return self.options.n_ctx or CHUNK

    def written(self, seen: "Collected | None") -> "Collected":
        """Writes what was seen, with what the given files hold; returns what is written."""
        from graphsched.quantize.collected import added, read_collected, write_importance

        files = [(str(path), read_collected(path, self.chunk_size)) for path in self.given]
        total = added(([("", seen)] if seen is not None else []) + files)
        is_old = (self.form or self.output.suffix.lstrip(".")) == "dat"
        write_importance(self.output, total, is_old=is_old)
        return total

    def collected(self, interrupts: Interrupts) -> "Collected":
        """Reads the text, and writes what is collected, at last and in between."""
        from graphsched.measure.activations import Activations, stored_way
        from graphsched.measure.perplexity import Estimate, cut
        from graphsched.session.model import open_default_or

        text = read_text(self.file or "-")
        activations = Activations(outputs=self.process_output)
        model = open_default_or(self.model, self.options.override_kv)
        options = stored_way(model, replace(self.options, n_ctx=self.chunk_size))
        if options.mla != self.options.mla:
            self.screen.hint(f"hint: -mla is {options.mla}, so that the matrices of the file are multiplied")
        session = open_session(model, options, self.screen, interrupts, needs_text=True, observer=activations)
        self.screen.long("tokenizing")
        ids = session.tokenizer.encode(text, parse_special=self.parse_special)
        windows = cut(ids[self.first * session.n_ctx :], session.n_ctx, self.chunks, self.file or "-")

        def seen(chunks: int) -> "Collected":
            return activations.collected((self.file or "-",), chunks, session.n_ctx)

        estimate = Estimate()
        with interrupts.aborting(session):
            for window in self._each(windows):
                self._read(session, windows, window, estimate)
                if self._shows_estimate:
                    print(f"[{window + 1}]{estimate.value:.4f},", end="", flush=True)
                if (window + 1) % self.every == 0 and window + 1 < len(windows):
                    self.written(seen(window + 1))
        if self._shows_estimate:
            print()
        return self.written(seen(len(windows)))

    @property
    def _shows_estimate(self) -> bool:
        return not (self.no_ppl or self.screen.quiet)

    def _read(self, session: "Session", windows: "Windows", window: int, estimate: "Estimate") -> None:
        """Reads a piece of the text; all rows want logits, or the last layer would see one of them only.

        What the model predicts of its second half goes into the estimate.
        """
        from graphsched.measure.perplexity import normalised

        ids = windows.tokens[window].copy()
        if (first := session.model.first_token) is not None:
            ids[0] = first
        session.reset()
        for start in range(0, len(ids), session.engine.n_ubatch):
            logits = session.eval(ids[start : start + session.engine.n_ubatch], all_logits=True)
            first, end = max(windows.first, start), min(start + len(logits), windows.n_ctx - 1)
            if first < end and not self.no_ppl:
                p = normalised(logits[first - start : end - start])
                estimate.add(p.nll(windows.tokens[window, first + 1 : end + 1]))

    def _each(self, windows: "Windows") -> Iterator[int]:
        """The pieces' numbers, with progress where the running estimate is not seen."""
        shows = not (self._shows_estimate and is_terminal(sys.stdout))
        for window in range(len(windows)):
            if shows:
                self.screen.progress("chunks", window, len(windows))
            yield window
        self.screen.clear()
