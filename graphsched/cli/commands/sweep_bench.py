"""`graphsched sweep-bench`: speed as the KV cache fills."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from graphsched.cli import flags
from graphsched.cli.interrupts import INTERRUPTED, Interrupts
from graphsched.cli.model_command import ModelCommand
from graphsched.cli.opening import open_session
from graphsched.cli.output_format import Write, output_format
from graphsched.cli.screen import Screen
from graphsched.cli.tables import Column, Row
from graphsched.cli.values import FileName, Number
from graphsched.errors import OptionError

if TYPE_CHECKING:
    from graphsched.measure.sweep import Point
    from graphsched.session.options import SessionOptions
    from graphsched.session.session import Session

COLUMNS: Final = {
    "PP": Column("pp", 6),
    "TG": Column("tg", 6),
    "N_KV": Column("n_kv", 6),
    "T_PP s": Column("t_pp", 8, 3),
    "S_PP t/s": Column("speed_pp", 8, 2),
    "T_TG s": Column("t_tg", 8, 3),
    "S_TG t/s": Column("speed_tg", 8, 2),
}


@click.command(
    cls=ModelCommand,
    epilog="""\b
Example: graphsched sweep-bench -m model.gguf -c 8192 -ub 512
Example: graphsched sweep-bench -c 512 -ub 64 -n 16 --plot sweep.svg
""",
)
@click.option(
    "-n", "--predict", "n_predict", type=Number(int, 1), help="tokens to generate (default: a quarter of -ub)"
)
@click.option(
    "-nrep", "--n-repetitions", "repetitions", type=Number(int, 1), default=1, help="runs (default: 1)"
)
@flags.session
@output_format("table", COLUMNS)
@click.option("--plot", type=FileName(), help="draw both speeds into an .svg or .png file")
@click.option("-v", "--verbose", is_flag=True, help="say more about model and options")
@click.option("-q", "--quiet", is_flag=True, help="only the results")
def command(model: Path | None, options: "SessionOptions", write: Write, **values: Any) -> None:
    """Measure prompts and generation as the KV cache fills, up to the context of -c tokens.

    At every multiple of -ub tokens: some are generated and forgotten again, then -ub tokens of a prompt are read. N_KV
    are the tokens in the cache before.
    """
    asked = Asked(model, options, values["n_predict"], values["repetitions"], values["plot"])
    screen = Screen(quiet=values["quiet"], verbose=values["verbose"])
    write(asked.rows(screen))


@dataclass(frozen=True)
class Asked:
    """The arguments of one sweep-bench."""

    model: Path | None
    options: "SessionOptions"
    n_predict: int | None
    repetitions: int
    plot: Path | None

    def rows(self, screen: Screen) -> Iterator[Row]:
        """The results, each as soon as it is there; the plot when all are."""
        from graphsched.gguf.atomic import replacing  # these import numpy, which --help does without
        from graphsched.report.plot import draw, plot_format
        from graphsched.session.settings import described, model_described

        kind = plot_format(self.plot) if self.plot else ""
        with Interrupts() as interrupts, replacing(self.plot) if self.plot else nullcontext() as file:
            session = open_session(self.model, self.options, screen, interrupts)
            about = model_described(session.model) | described(session)
            points = []
            for point in self._points(session, screen, interrupts):
                points.append(point)
                yield as_row(point) | about
            if file is not None:
                draw(points, session.model.name, file, kind)

    def _points(self, session: "Session", screen: Screen, interrupts: Interrupts) -> Iterator["Point"]:
        from graphsched.measure.sweep import sweep
        from graphsched.session.session import Aborted

        pp = min(self.options.n_ubatch, self.options.n_batch)
        if pp > session.n_ctx:
            raise OptionError(f"-ub is {pp}, the context has {session.n_ctx}; a larger one is -c N")
        n_predict = self.n_predict or max(pp // 4, 1)
        if n_predict > session.n_ctx:
            raise OptionError(f"-n is {n_predict}, the context has {session.n_ctx}; a larger one is -c N")
        try:
            with interrupts.aborting(session):
                for point in sweep(session, pp, n_predict, self.repetitions, screen.progress):
                    screen.clear()
                    yield point
        except Aborted:
            raise click.exceptions.Exit(INTERRUPTED) from None


def as_row(point: "Point") -> Row:
    """A result as sweep-bench's JSON lines name it."""
    return {
        "pp": point.pp,
        "tg": point.tg,
        "n_kv": point.n_kv,
        "t_pp": point.t_pp,
        "speed_pp": point.speed_pp,
        "t_tg": point.t_tg,
        "speed_tg": point.speed_tg,
    }
