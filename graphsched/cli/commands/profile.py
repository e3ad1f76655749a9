"""`graphsched profile`: where the time of a prompt and of a token goes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from graphsched.cli import flags
from graphsched.cli.commands.plan import with_flags
from graphsched.cli.model_command import ModelCommand
from graphsched.cli.profile_output import report
from graphsched.cli.profile_runs import Profiled, profiled
from graphsched.cli.values import FileName, Number, OneOf
from graphsched.errors import OptionError
from graphsched.gguf.atomic import check_target, replacing

if TYPE_CHECKING:
    from graphsched.measure.profile import Request
    from graphsched.measure.profile_data import Data
    from graphsched.session.options import SessionOptions


@click.command(cls=ModelCommand, epilog="Example: graphsched profile -p 128 -n 32 --csv")
@flags.session
@click.option(
    "-p", "--n-prompt", type=Number(int, 0), default=128, help="tokens of the prompt (default: 128)"
)
@click.option(
    "-n", "--n-gen", type=Number(int, 0), default=32, help="tokens generated after it (default: 32)"
)
@click.option("-r", "--repetitions", type=Number(int, 1), default=3, help="times each is run (default: 3)")
@click.option("--phase", type=OneOf("both", "prefill", "decode"), default="both", help="which to profile")
@click.option("--vs", metavar="FLAGS", help="compare with other flags in turn, as in --vs '-op 26,0,27,0'")
@click.option("--load", type=FileName(), help="a profile that --json or --trace saved, instead of a run")
@click.option("--vs-file", type=FileName(), help="compare with such a saved profile")
@click.option(
    "--trace", "trace_file", type=FileName(), help="write the timeline for Perfetto or chrome://tracing"
)
@click.option("--html", "html_file", type=FileName(), help="write a page with timeline, tables and plan")
@click.option("--refresh-peaks", is_flag=True, help="measure again what this machine can do at most")
@click.option("--json", "as_json", is_flag=True, help="plain data instead of tables")
@click.option("--csv", "as_csv", is_flag=True, help="the rows of all tables as CSV")
def command(
    model: Path | None,
    options: "SessionOptions",
    n_prompt: int,
    n_gen: int,
    repetitions: int,
    phase: str,
    vs: str | None,
    load: Path | None,
    vs_file: Path | None,
    trace_file: Path | None,
    html_file: Path | None,
    refresh_peaks: bool,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Show where time goes: per op, per result, waiting and overhead.

    On the CPU times are measured inside the compiled program, on GPUs by events. With --device sim:NAME they are
    predictions, and a file that ends after its header will do.
    """
    from graphsched.measure.profile import Request

    asked = Request(n_prompt, n_gen, repetitions, phase)
    check(asked, options, load is not None, (vs, vs_file), (trace_file, html_file), (as_json, as_csv))
    # Files are checked first: a measurement of minutes must not be lost to a folder that does not exist.
    for file in filter(None, (trace_file, html_file)):
        check_target(file, 0)
    first = Profiled([], read(load)) if load is not None else None
    other = read(vs_file) if vs_file is not None else None
    if first is None:
        # Both are profiled together, repetition by repetition, so that what slows the machine slows both.
        runs = [options] if vs is None else [options, with_flags(vs)]
        first, *more = profiled(model, runs, asked, refresh_peaks)
        other = more[0].data if more else other
    if trace_file:
        write(trace_file, trace_text(first))
    if html_file:
        write(html_file, page(first))
    names = load.name if load else "first", vs_file.name if vs_file else vs or ""
    report(first.data, other, names, as_json, as_csv)


def check(
    asked: "Request",
    options: "SessionOptions",
    is_saved: bool,
    others: Sequence[object],
    files: Sequence[object],
    outputs: Sequence[bool],
) -> None:
    """OptionError for flags that leave nothing to do, or contradict each other."""
    if not (asked.has_prompt or asked.has_generation):
        raise OptionError("-p 0 and -n 0 leave nothing to profile")
    if not options.trace:
        raise OptionError("--no-trace leaves nothing to profile")
    if all(outputs):
        raise OptionError("there is one output, --json or --csv")
    if all(o is not None for o in others):
        raise OptionError("there is one comparison, --vs or --vs-file")
    if is_saved and (others[0] is not None or any(files)):
        raise OptionError("--load shows a saved profile, --vs, --trace and --html need a run")


def read(path: Path) -> "Data":
    """A profile that `--save` has written. LoadError for another file."""
    from graphsched.measure.profile_diff import read_saved

    return read_saved(path)


def trace_text(made: Profiled) -> str:
    """The trace as Chrome trace JSON, for Perfetto."""
    from graphsched.report.chrome import chrome_trace

    return json.dumps(chrome_trace(made.phases, made.data), ensure_ascii=False)


def page(made: Profiled) -> str:
    """The profile as an HTML page without references to other files."""
    from graphsched.report.profile_page import html_page

    return html_page(made.phases, made.data)


def write(path: Path, text: str) -> None:
    """A file that appears whole or not at all."""
    data = text.encode()
    check_target(path, len(data))
    with replacing(path) as file:
        file.write(data)
