"""`graphsched batched-bench`: speed of several sequences at once."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, product
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
from graphsched.cli.toggle import Toggle
from graphsched.cli.values import ListOf, Number, Switch
from graphsched.errors import OptionError

if TYPE_CHECKING:
    from graphsched.measure.batched import Load, Point
    from graphsched.session.options import SessionOptions
    from graphsched.session.session import Session

COLUMNS: Final = {
    "PP": Column("pp", 6),
    "TG": Column("tg", 6),
    "B": Column("pl", 4),
    "N_KV": Column("n_kv", 6),
    "T_PP s": Column("t_pp", 8, 3),
    "S_PP t/s": Column("speed_pp", 8, 2),
    "T_TG s": Column("t_tg", 8, 3),
    "S_TG t/s": Column("speed_tg", 8, 2),
    "T s": Column("t", 8, 3),
    "S t/s": Column("speed", 8, 2),
}
NUMBERS: Final = ListOf(Number(int, 1))
SWITCH: Final[dict[str, Any]] = {"cls": Toggle, "type": Switch(), "default": "0"}


@click.command(
    cls=ModelCommand,
    epilog="""\b
Example: graphsched batched-bench -npp 128,512 -ntg 128 -npl 1,2,4,8
Example: graphsched batched-bench -npp 256 -ntg 32 -npl 1-32*2 -pps -o jsonl
""",
)
@click.option("-npp", "prompts", type=NUMBERS, multiple=True, help="tokens of each prompt (default: 128)")
@click.option(
    "-ntg", "generations", type=NUMBERS, multiple=True, help="tokens that each generates (default: 128)"
)
@click.option("-npl", "sequences", type=NUMBERS, multiple=True, help="sequences at once (default: 1,2,4,8)")
@click.option("-pps", "is_shared", **SWITCH, help="one sequence reads the prompt, the others share its cells")
@click.option("-tgs", "is_separate", **SWITCH, help="one sequence generates after the other")
@click.option(
    "-w",
    "--warmup",
    **SWITCH | {"default": "1"},
    off=("--no-warmup",),
    help="a run before each row, that does not count (default: 1)",
)
@flags.session
@output_format("md", COLUMNS)
@click.option("-v", "--verbose", is_flag=True, help="say more about model and options")
@click.option("-q", "--quiet", is_flag=True, help="only the results")
def command(model: Path | None, options: "SessionOptions", write: Write, **values: Any) -> None:
    """Measure several sequences at once: B prompts of PP tokens, then TG tokens of each.

    The table is that of llama-batched-bench. N_KV are the tokens in the cache at the end; speeds are of all sequences
    together. The context, of which all sequences take cells, is as large as the largest row needs, if -c does not say
    more. Lists are those of bench.
    """
    from graphsched.measure.batched import Load  # imports the compiler, which --help does without

    lists = (
        tuple(chain.from_iterable(values[name])) or default
        for name, default in (("prompts", (128,)), ("generations", (128,)), ("sequences", (1, 2, 4, 8)))
    )
    how = bool(values["is_shared"]), bool(values["is_separate"])
    loads = [Load(pp, tg, pl, *how) for pp, tg, pl in product(*lists)]
    screen = Screen(quiet=values["quiet"], verbose=values["verbose"])
    write(Asked(model, with_room(options, loads), loads, is_warm=not values["warmup"]).rows(screen))


def with_room(options: "SessionOptions", loads: "list[Load]") -> "SessionOptions":
    """The options with as many sequences and cells as the loads take. OptionError for too many, or a small -c."""
    n_parallel = max(load.pl for load in loads)
    if n_parallel > (most := int(flags.OPTIONS["n_parallel"].values.high)):  # type: ignore[attr-defined]
        raise OptionError(f"-npl is {n_parallel}, an integer from 1 to {most} is needed")
    largest = max(loads, key=lambda load: load.n_cells)
    if 0 < options.n_ctx < largest.n_cells:
        what = f"-npp {largest.pp} -ntg {largest.tg} -npl {largest.pl} needs {largest.n_cells}"
        raise OptionError(f"-c is {options.n_ctx}, {what}")
    n_ctx = largest.n_cells if options.n_ctx < 0 else options.n_ctx
    return replace(options, n_parallel=n_parallel, n_ctx=n_ctx)


@dataclass(frozen=True)
class Asked:
    """The arguments of one batched-bench."""

    model: Path | None
    options: "SessionOptions"
    loads: "list[Load]"
    is_warm: bool

    def rows(self, screen: Screen) -> Iterator[Row]:
        """The results, each as soon as it is there."""
        with Interrupts() as interrupts:
            from graphsched.session.settings import described, model_described

            session = open_session(self.model, self.options, screen, interrupts)
            about = model_described(session.model) | described(session)
            for point in self._points(session, screen, interrupts):
                yield as_row(point) | about

    def _points(self, session: "Session", screen: Screen, interrupts: Interrupts) -> "Iterator[Point]":
        from graphsched.measure.batched import measure
        from graphsched.session.session import Aborted

        for i, load in enumerate(self.loads):
            screen.progress(f"pp{load.pp}, tg{load.tg}, {load.pl} at once", i, len(self.loads))
            try:
                with interrupts.aborting(session):
                    point = measure(session, load, is_warm=self.is_warm)
            except Aborted:
                raise click.exceptions.Exit(INTERRUPTED) from None
            screen.clear()
            yield point


def as_row(point: "Point") -> Row:
    """A result as batched-bench's JSON lines name it."""
    load = point.load
    return {
        "pp": load.pp,
        "tg": load.tg,
        "pl": load.pl,
        "n_kv": load.n_kv,
        "t_pp": point.t_pp,
        "speed_pp": point.speed_pp,
        "t_tg": point.t_tg,
        "speed_tg": point.speed_tg,
        "t": point.t,
        "speed": point.speed,
        "is_pp_shared": load.is_shared,
        "is_tg_separate": load.is_separate,
    }
