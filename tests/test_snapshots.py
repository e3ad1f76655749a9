"""Plans of every architecture as text: what runs where and why, reviewed in tests/snapshots.

UPDATE_SNAPSHOTS=1 writes them anew; read the diff before committing it. A file has a section for one token and one for
each kind of prompt; a section that equals an earlier one says so. Of models with more than three layers the first
two and the last are shown.
"""

import os
import re
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from plans import PRESETS, SECTIONS, TOKEN, cases, opened

from graphsched.predict.plan import make_plan
from graphsched.session.model import Model
from graphsched.session.options import SessionOptions

FOLDER = Path(__file__).resolve().parent / "snapshots"


def snapshot(name: str, preset: str) -> str:
    told: dict[str, str] = {}  # text -> the first section that has it
    parts = []
    for title in SECTIONS:
        text = section(opened(name), title, PRESETS[preset])
        parts.append(f"# {title}\n" + (f"as {told[text]}" if text in told else text))
        told.setdefault(text, title)
    return "\n\n".join(parts) + "\n"


def section(model: Model, title: str, preset: dict[str, Any]) -> str:
    n = 1 if title == TOKEN else 512
    options = SessionOptions(n_ctx=1024, **preset, **SECTIONS[title])
    dump = make_plan(model, options, n, 1, n).schedule.dump()
    dump = re.sub(r"(n_\w+)<=\d+", r"\1", dump)  # a plan's capacities are not what it decides
    return "\n".join(shortened(dump.splitlines(), model.config.n_layer))


def shortened(lines: list[str], n_layer: int) -> list[str]:
    """Without the layers between the second and the last."""
    kept: list[str] = []
    for left_out, group in groupby(_marked(lines, n_layer), key=lambda pair: pair[1]):
        found = [line for line, _ in group]
        kept += [f"… {len(found)} more (layers 2 to {n_layer - 2})"] if left_out else found
    return kept


def _marked(lines: list[str], n_layer: int) -> list[tuple[str, bool]]:
    """Each line and whether it is left out; a split's head goes with the line after it."""
    marked: list[tuple[str, bool]] = []
    for line in reversed(lines):
        layer = re.search(r"blk\.(\d+)\.", line)
        if layer:
            marked.append((line, 2 <= int(layer[1]) < n_layer - 1))
        else:
            marked.append((line, bool(marked) and marked[-1][1] and line.startswith("split")))
    return marked[::-1]


@pytest.mark.parametrize(("name", "preset"), cases())
def test_plan_is_the_snapshot(name: str, preset: str) -> None:
    path, got = FOLDER / f"{name}-{preset}.txt", snapshot(name, preset)
    if os.environ.get("UPDATE_SNAPSHOTS"):
        FOLDER.mkdir(exist_ok=True)
        path.write_text(got, encoding="utf-8")
    assert got.splitlines() == path.read_text(encoding="utf-8").splitlines()


def test_without_the_middle_layers() -> None:
    dump = ["split 0 on CPU", " get_rows embed", "split 1 on sim0", " a blk.0.x", "split 2 on CPU"]
    dump += [" a blk.2.x", " a blk.3.x", "split 3 on sim0", " a blk.4.x", "     out"]
    assert shortened(dump, 5) == [*dump[:4], "… 3 more (layers 2 to 3)", *dump[7:]]


def test_every_snapshot_has_its_case() -> None:
    assert {p.stem for p in FOLDER.glob("*.txt")} == {f"{m}-{p}" for m, p in cases()}
