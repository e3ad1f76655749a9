"""The plot of a sweep, with matplotlib, which is an extra of its own."""

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from graphsched.errors import OptionError
from graphsched.gguf.atomic import check_target
from graphsched.gguf.format import printable
from graphsched.measure.sweep import Point

FORMATS: Final = ("svg", "png")


def plot_format(path: Path) -> str:
    """The format that a file's name asks for. OptionError if no such file can be made, for lack of matplotlib too."""
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise OptionError(f"--plot {printable(str(path))}: a name that ends in .svg or .png is needed")
    try:
        importlib.import_module("matplotlib")
    except ImportError:
        raise OptionError("--plot needs matplotlib, which pip install 'graphsched[plot]' installs") from None
    check_target(path, 0)
    return kind


@contextmanager
def figure_of(title: str, file: BinaryIO, kind: str) -> Iterator[Any]:
    """A figure to draw into, which is written at the end; the same drawing gives the same file."""
    matplotlib: Any = importlib.import_module("matplotlib")
    figures: Any = importlib.import_module("matplotlib.figure")
    with matplotlib.rc_context({"svg.hashsalt": "graphsched", "svg.fonttype": "none"}):
        figure = figures.Figure(figsize=(8, 6), layout="constrained")
        yield figure
        figure.suptitle(title)
        figure.savefig(file, format=kind, dpi=144, metadata={"Date": None} if kind == "svg" else None)


def draw(points: Sequence[Point], title: str, file: BinaryIO, kind: str) -> None:
    """Tokens per second of prompts and of generation over the tokens in the cache, one above the other."""
    with figure_of(title, file, kind) as figure:
        above, below = figure.subplots(2, 1, sharex=True)
        at = [p.n_kv for p in points]
        for axes, speeds, what, colour in (
            (above, [p.speed_pp for p in points], f"prompt, {points[0].pp} tokens", "tab:blue"),
            (below, [p.speed_tg for p in points], f"generation, {points[0].tg} tokens", "tab:orange"),
        ):
            axes.plot(at, speeds, marker="o", markersize=3, color=colour)
            axes.set_ylim(bottom=0)
            axes.set_ylabel("tokens/s")
            axes.set_title(what, fontsize="medium")
            axes.grid(alpha=0.3)
        below.set_xlabel("tokens in the KV cache")
