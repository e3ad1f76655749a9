"""Two profiles side by side: what takes longer or shorter, and how much of that is noise."""

import json
from collections.abc import Iterator
from math import sqrt
from pathlib import Path
from typing import Any, Final

from graphsched.errors import LoadError
from graphsched.gguf.format import printable
from graphsched.measure.profile_data import FORMAT, Data

TABLES: Final = {"ops": "OP", "labels": "result", "copies": "tensor", "overhead": "owner"}
CLEAR: Final = 2.0  # standard errors that a difference must exceed


def difference(first: Data, second: Data) -> Data:
    """Phases that both have, row by row; seconds are second - first, noise is the standard error of that."""
    others = {phase["phase"]: phase for phase in second["phases"]}
    phases = [_phase(a, others[a["phase"]]) for a in first["phases"] if a["phase"] in others]
    changed = {
        key: [first["settings"].get(key), second["settings"].get(key)]
        for key in dict.fromkeys((*first["settings"], *second["settings"]))
        if first["settings"].get(key) != second["settings"].get(key)
    }
    return {"format": f"{FORMAT} difference", "settings": changed, "phases": phases}


def _phase(a: Data, b: Data) -> Data:
    """Times of one repetition, of both per token where they have different numbers of tokens."""
    counts = a["repetitions"], b["repetitions"]
    scale = 1.0 if a["tokens"] == b["tokens"] else a["tokens"] / b["tokens"]
    wall = _row("", "wall", _Side(a, counts[0], 1.0), _Side(b, counts[1], scale))
    tables = {
        key: sorted(_rows(a, b, key, counts, scale), key=lambda row: -abs(row["change"])) for key in TABLES
    }
    return {"phase": a["phase"], "tokens": a["tokens"], "wall": wall, **tables}


class _Side:
    """One profile's side of a compared row; empty if the profile lacks it."""

    def __init__(self, row: Data, n: int, scale: float) -> None:
        self.seconds = (row.get("wall") or row.get("seconds") or 0.0) * scale
        self.variance = ((row.get("spread") or 0.0) * scale) ** 2 / n


def _rows(a: Data, b: Data, key: str, counts: tuple[int, int], scale: float) -> Iterator[Data]:
    was, now = ({(r.get("device", ""), r["name"]): r for r in side[key]} for side in (a, b))
    for device, name in dict.fromkeys((*was, *now)):
        row = device, name
        sides = _Side(was.get(row, {}), counts[0], 1.0), _Side(now.get(row, {}), counts[1], scale)
        yield _row(device, name, *sides)


def _row(device: str, name: str, a: _Side, b: _Side) -> Data:
    noise = sqrt(a.variance + b.variance)
    change = b.seconds - a.seconds
    return {
        "device": device,
        "name": name,
        "first": a.seconds,
        "second": b.seconds,
        "change": change,
        "noise": noise,
        "is_clear": abs(change) > CLEAR * noise and change != 0.0,
    }


def read_saved(path: Path) -> Data:
    """The profile in a file that --json or --trace wrote. LoadError in one sentence."""
    name = printable(str(path))
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise LoadError(f"{name}: {(e.strerror or str(e)).lower()}") from None
    except (ValueError, RecursionError):
        raise LoadError(f"{name}: not a JSON file") from None
    if isinstance(found, dict) and "graphsched" in found:
        found = found["graphsched"]
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise LoadError(f"{name}: not a profile that --json or --trace wrote")
    return found
