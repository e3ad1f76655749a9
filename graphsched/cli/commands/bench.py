"""`graphsched bench`: the pp/tg table of llama-bench."""

import gc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphsched.cli import flags
from graphsched.cli.interrupts import INTERRUPTED, Interrupts
from graphsched.cli.model_command import ModelCommand
from graphsched.cli.opening import open_session
from graphsched.cli.screen import Screen
from graphsched.cli.tables import WRITERS, Row
from graphsched.cli.toggle import Toggle
from graphsched.cli.values import ListOf, Number, OneOf, Pair, Switch
from graphsched.errors import OptionError

if TYPE_CHECKING:
    from graphsched.measure.bench import Test
    from graphsched.session.options import SessionOptions

Grid = tuple[tuple[Path | None, "SessionOptions"], ...]
TOKENS = ListOf(Number(int, 0))


@click.command(
    cls=ModelCommand,
    epilog="""\b
Example: graphsched bench -p 512 -n 128 -r 5 -o json
Example: graphsched bench -p 128-1024*2 -n 0 -ub 128,512 -fmoe 0,1
Example: graphsched bench -m a.gguf,b.gguf -pg 512,128 -gp 4096,64
Example: graphsched bench -np 1-8*2 -p 0 -n 64
Example: graphsched bench --device sim:rtx4090 -ot "exps=CPU;" -op "26,0;"
""",
)
@click.option(
    "-p", "--n-prompt", type=TOKENS, multiple=True, help="tokens of a prompt, pp tests (default: 512)"
)
@click.option("-n", "--n-gen", type=TOKENS, multiple=True, help="tokens to generate, tg tests (default: 128)")
@click.option(
    "-pg", "both", type=Pair(), multiple=True, help="a prompt and tokens after it, one time of both"
)
@click.option(
    "-gp", "after", type=Pair(), multiple=True, help="a prompt that does not count, tokens after it"
)
@click.option(
    "-d", "--n-depth", type=TOKENS, multiple=True, help="tokens in the cache before -p, -n, -pg (default: 0)"
)
@click.option("-r", "--repetitions", type=Number(int, 1), default=5, help="runs of each test (default: 5)")
@click.option(
    "-w",
    "--warmup",
    cls=Toggle,
    off=("--no-warmup",),
    type=Switch(),
    default="1",
    help="a run before, that does not count (default: 1)",
)
@click.option(
    "-o",
    "--output",
    type=OneOf(*WRITERS),
    metavar="|".join(WRITERS),
    default="md",
    help="(default: md)",
)
@click.option("--json", "as_json", is_flag=True, help="the same as -o json")
@flags.grid
@click.option("-v", "--verbose", is_flag=True, help="say more about model and options")
@click.option("-q", "--quiet", is_flag=True, help="only the results")
def command(grid: Grid, output: str, as_json: bool, **values: Any) -> None:
    """Measure tokens per second: prompts (pp) and generation (tg), mean and standard deviation.

    Each test starts from an empty cache, after a run that is not counted; 0 tokens leave it out. The context is as
    long as the longest test, if -c does not say more. With -np N each of N sequences reads and generates so many
    tokens, all at once, and the speed is that of all together.

    Flags take lists: 1,2 or repeated, of integers also the ranges first-last, first-last+step and first-last*factor;
    every combination is measured. Where commas belong to a value (-ot, -op, --device) a semicolon stands between the
    values of the list, and repeating the flag adds to each of them. Rows carry every setting that was in effect; the
    md table shows those that differ.
    """
    from graphsched.measure.bench import asked  # imports the compiler, which --help does without
    from graphsched.session.settings import settings

    prompts, generations, depths = (
        tuple(chain.from_iterable(values[name])) for name in ("n_prompt", "n_gen", "n_depth")
    )
    wanted = tuple(
        asked(prompts or (512,), generations or (128,), values["both"], values["after"], depths or (0,))
    )
    grid = tuple((m, replace(o, n_ctx=context(o, wanted))) for m, o in grid)
    screen = Screen(quiet=values["quiet"], verbose=values["verbose"])
    rows = measured(grid, wanted, screen, values["repetitions"], is_warm=not values["warmup"])
    WRITERS["json" if as_json else output](rows, [settings(options) for _, options in grid])


def context(options: "SessionOptions", tests: "Sequence[Test]") -> int:
    """Cells that the longest test needs, or as many as are asked for if these are enough; 0 is those of training."""
    from graphsched.arch.cells import cells_of_sequences

    if not tests:
        raise OptionError("-p and -n are both 0, there is nothing to measure")
    asked, n = options.n_ctx, options.n_parallel
    needed = cells_of_sequences(n, max(test.n_tokens for test in tests))
    if 0 < asked < needed:
        what = "the longest test needs" if n == 1 else f"{n} sequences of the longest test need"
        raise OptionError(f"-c is {asked}, {what} {needed}")
    return needed if asked < 0 else asked


def measured(
    grid: Grid, tests: "Sequence[Test]", screen: Screen, repetitions: int, *, is_warm: bool = False
) -> Iterator[Row]:
    """The results, each as soon as it is there: every test in a session of every combination."""
    with Interrupts() as interrupts:
        from graphsched.measure import bench  # after the interrupts, as it imports the compiler
        from graphsched.session.model import open_default_or
        from graphsched.session.session import Aborted

        files = dict.fromkeys((path, options.override_kv) for path, options in grid)
        models = {(path, overrides): open_default_or(path, overrides) for path, overrides in files}
        total, done = len(grid) * len(tests), 0
        for path, options in grid:
            session = open_session(models[path, options.override_kv], options, screen, interrupts)
            for test in tests:
                done += 1
                label = f"{done} of {total}: " if total > 1 else ""

                def progress(what: str, i: int, n: int, label: str = label) -> None:
                    screen.progress(label + what, i, n)

                try:
                    with interrupts.aborting(session):
                        result = bench.measure(session, test, repetitions, progress, is_warm=is_warm)
                except Aborted:
                    raise click.exceptions.Exit(INTERRUPTED) from None
                screen.clear()
                yield bench.row(session, result)
            del session
            gc.collect()  # its memory is back before the next one takes as much
