"""Profiles as tables: index, OP, µs and fraction as in ik_llama.cpp's PR 232, products by result with layers summed."""

from collections.abc import Iterable, Sequence
from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from graphsched.measure.profile_data import Data
from graphsched.predict.memory import megabytes

BLOCKS: Final = "▁▂▃▄▅▆▇█"
STRIP: Final = 80  # layers in a line


def render(data: Data, plain: bool = False) -> RenderableType:
    """All tables of a profile; `plain`: columns without lines, for pipes."""
    return Group(*(part for phase in data["phases"] for part in phase_sections(phase, plain)))


def phase_sections(phase: Data, plain: bool) -> list[RenderableType]:
    """Headline and tables of one phase, in order."""
    parts: list[RenderableType] = [Text(f"\n{headline(phase)}")]
    for device in phase["devices"]:
        parts += _of(phase, "ops", device, "OP", f"{device}: time by op", plain)
        parts += _of(phase, "labels", device, "result", f"{device}: products by result, layers summed", plain)
        if strip := heat_strip(phase, device):
            parts += [Text(strip), Text("")]
    tables = (_copies, _waits, _threads)
    parts += [part for table in tables for part in table(phase, plain)]
    return [*parts, overhead_table(phase, plain)]


def headline(phase: Data) -> str:
    """prompt, 512 tokens: 100.0 tokens/s, …"""
    tokens, wall = phase["tokens"], phase["wall"]
    how = "predicted" if phase["predicted"] else f"measured, mean of {phase['repetitions']}"
    lost = f"; {phase['lost']} runs are missing, their steps were overwritten" if phase["lost"] else ""
    return (
        f"{phase['phase']}: {phase['tokens_per_second']:.1f} tokens/s, {wall * 1e6 / tokens:.1f} µs per token, "
        f"{wall * 1e3:.3f} ms, {how}{lost}"
    )


def new_table(title: str, plain: bool, *columns: str, left: Sequence[str] = ()) -> Table:
    """A table whose columns are numbers, but for those named in `left`."""
    table = Table(
        title=title, title_justify="left", box=None if plain else box.HEAVY_HEAD, pad_edge=not plain
    )
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right")
    return table


def _of(phase: Data, key: str, device: str, what: str, title: str, plain: bool) -> Iterable[RenderableType]:
    rows = [row for row in phase[key] if row["device"] == device]
    if not rows:
        return
    table = new_table(
        title, plain, "index", what, "µs", "fraction", "GB/s", "GOP/s", "of peak", left=("index", what)
    )
    total = sum(row["seconds"] for row in rows) or 1.0
    for index, row in enumerate(rows):
        table.add_row(
            str(index), Text(row["name"]), micro(row["seconds"]), f"{row['seconds'] / total:.4f}", *rates(row)
        )
    yield from (table, Text(""))


def rates(row: Data) -> tuple[str, str, str]:
    """GB/s, GOP/s, and the share of the peak rate of the resource that bounds the row."""
    gb, gop = (f"{row[k]:.1f}" if row.get(k) else "" for k in ("gb_s", "gop_s"))
    peak = f"{row['of_peak']:.0%} {row['bound']}" if row.get("of_peak") else ""
    return gb, gop, peak


def micro(seconds: float) -> str:
    """Seconds as microseconds; two decimals below 10."""
    return f"{seconds * 1e6:.0f}" if seconds >= 1e-5 else f"{seconds * 1e6:.2f}"


def heat_strip(phase: Data, device: str) -> str:
    """A block per layer, as high as its share of the slowest layer's time."""
    found = {int(r["name"]): r["seconds"] for r in phase["layers"] if r["device"] == device}
    if not found:
        return ""
    most = max(found.values()) or 1.0
    layers = range(min(found), max(found) + 1)
    blocks = "".join(BLOCKS[min(int(found[i] / most * 8), 7)] if i in found else " " for i in layers)
    slowest = max(found, key=lambda i: found[i])
    lines = [blocks[i : i + STRIP] for i in range(0, len(blocks), STRIP)]
    return (
        f"{device}: layers {layers[0]} to {layers[-1]}, the slowest is {slowest} with {micro(most)} µs\n"
        + "\n".join(lines)
    )


def _copies(phase: Data, plain: bool) -> Iterable[RenderableType]:
    if not phase["copies"]:
        return
    table = new_table(
        "copies", plain, "link", "tensor", "copies", "bytes", "µs", "GB/s", "of link", left=("link", "tensor")
    )
    for row in phase["copies"]:
        of_link = f"{row['of_peak']:.0%}" if "of_peak" in row else ""
        table.add_row(
            row["device"], Text(row["name"]), f"{row['count']:.0f}", megabytes(row["bytes"]), micro(row["seconds"]),
            f"{row.get('gb_s', 0.0):.2f}", of_link,
        )  # fmt: skip
    yield from (table, Text(""))


def _waits(phase: Data, plain: bool) -> Iterable[RenderableType]:
    if not phase["waits"]:
        return
    table = new_table("waits", plain, "who", "for whom", "times", "µs", "fraction", left=("who", "for whom"))
    for row in phase["waits"]:
        fraction = f"{row['seconds'] / phase['wall']:.4f}"
        table.add_row(row["device"], row["name"], f"{row['count']:.0f}", micro(row["seconds"]), fraction)
    yield from (table, Text(""))


def _threads(phase: Data, plain: bool) -> Iterable[RenderableType]:
    lanes = list(dict.fromkeys(row["device"] for row in phase["threads"]))
    if len(lanes) < 2 or phase["predicted"]:
        return
    whats = ("compute", "barriers", "wake-up")
    table = new_table("threads, µs", plain, "thread", *whats, left=("thread",))
    found = {(row["device"], row["name"]): row["seconds"] for row in phase["threads"]}
    for lane in lanes:
        table.add_row(lane, *(micro(found.get((lane, what), 0.0)) for what in whats))
    yield from (table, Text(""))


def overhead_table(phase: Data, plain: bool) -> Table:
    """Where the wall time is: each instant has one owner, so that µs add up to it; busy counts all of a row's time."""
    table = new_table("where the wall time is", plain, "owner", "µs", "fraction", "busy µs", left=("owner",))
    for row in phase["overhead"]:
        cells = micro(row["seconds"]), f"{row['seconds'] / phase['wall']:.4f}", micro(row["busy"])
        table.add_row(row["name"], *cells)
    table.add_row("wall", micro(phase["wall"]), "1.0000", "")
    return table
