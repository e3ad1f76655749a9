"""Predictions over numbers of tokens, as a table and as a plot."""

from collections.abc import Sequence
from typing import Any, BinaryIO

from rich.table import Table

from graphsched.predict.sweep import Length
from graphsched.report.plot import figure_of


def table(found: Sequence[Length]) -> Table:
    """A row for each length; measured columns only where something was measured."""
    is_measured = any(length.measured for length in found)
    made = Table(title="prompts", title_justify="left")
    for column in (
        "tokens",
        "uploads",
        "predicted ms",
        "tokens/s",
        *(("measured ms", "error") if is_measured else ()),
    ):
        made.add_column(column, justify="right")
    for length in found:
        made.add_row(*_cells(length, is_measured))
    return made


def _cells(length: Length, is_measured: bool) -> list[str]:
    seconds = length.predicted
    cells = [str(length.n_tokens), str(length.uploads)]
    cells += ["", ""] if seconds is None else [f"{seconds * 1e3:.1f}", f"{length.n_tokens / seconds:.1f}"]
    if is_measured:
        error = "" if length.error is None else f"{length.error:+.0%}"
        cells += ["" if length.measured is None else f"{length.measured * 1e3:.1f}", error]
    return cells


def draw(found: Sequence[Length], title: str, file: BinaryIO, kind: str) -> None:
    """Tokens per second over tokens, predicted and measured; where weights begin to be uploaded is a line."""
    with figure_of(title, file, kind) as figure:
        axes: Any = figure.subplots()
        for name, value in (("predicted", "predicted"), ("measured", "measured")):
            points = [(p.n_tokens, p.n_tokens / s) for p in found if (s := getattr(p, value))]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
        if first := next((p.n_tokens for p in found if p.uploads), None):
            axes.axvline(first, linestyle="--", color="grey", label="weights are uploaded")
        axes.set_xscale("log", base=2)
        axes.set_ylim(bottom=0)
        axes.set(xlabel="tokens of the prompt", ylabel="tokens/s")
        axes.grid(alpha=0.3)
        axes.legend()
