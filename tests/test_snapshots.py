"""Plans of every architecture as text: what runs where and why, reviewed in tests/snapshots.

UPDATE_SNAPSHOTS=1 writes them anew; read the diff before committing it. A file has a section for one token and one for
each kind of prompt; a section that equals an earlier one says so. Of models with more than three layers the first
two and the last are shown.
"""

import os
import re
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from shared import SHARED, shared

from graphsched.gguf.loader import open_model
from graphsched.predict.plan import make_plan
from graphsched.schedule.placement import PlacementOptions
from graphsched.session.model import Model
from graphsched.session.options import SessionOptions

FOLDER = Path(__file__).resolve().parent / "snapshots"
MODELS = sorted(p.stem.removesuffix("-f16") for p in (SHARED / "conformance").glob("*.gguf"))
ONE, TWO = ("sim:rtx4090",), ("sim:2x3090",)
TOKEN, PROMPT, HELD = "one token", "prompt of 512 tokens", "prompt of 512 tokens, -op -1,0"
PRESETS: dict[str, dict[str, Any]] = {
    "two-devices": {"devices": TWO},
    "attention-on-cpu": {"devices": ONE, "placement": PlacementOptions(overrides=("attn=CPU",))},
    "experts-on-cpu": {"devices": ONE, "placement": PlacementOptions(overrides=("exps=CPU",))},
}
SECTIONS: dict[str, dict[str, Any]] = {
    TOKEN: {},
    PROMPT: {},
    HELD: {"offload_policy": ("-1,0",)},
}


@cache
def opened(name: str) -> Model:
    return Model(open_model(shared(f"conformance/{name}-f16.gguf")))


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


def cases() -> list[tuple[str, str]]:
    moe = {name for name in MODELS if any("exps" in tensor for tensor in opened(name).types)}
    return [(m, p) for m in MODELS for p in PRESETS if p != "experts-on-cpu" or m in moe]


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
    shared("conformance")
    assert {p.stem for p in FOLDER.glob("*.txt")} == {f"{m}-{p}" for m, p in cases()}
