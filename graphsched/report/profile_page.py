"""A profile as one self-contained HTML page: timelines that zoom, tables, and the plan."""

import json
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from graphsched.measure.profile import Phase
from graphsched.measure.profile_data import Data
from graphsched.report.chrome import flows, lanes
from graphsched.run.trace import Event

TEMPLATE: Final = Path(__file__).resolve().parents[1] / "data" / "profile.html"
MOST: Final = 60_000  # events that a page draws


def html_page(phases: Sequence[Phase], data: Data) -> str:
    """The page. It loads nothing from anywhere."""
    payload = {"profile": data, "timelines": [timeline(phase) for phase in phases]}
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    title = escape(f"graphsched profile of {data['settings'].get('model_name', 'a model')}")
    return TEMPLATE.read_text(encoding="utf-8").replace("__TITLE__", title).replace("__DATA__", text)


def timeline(phase: Phase) -> dict[str, Any]:
    """Lanes, slices and flows of a phase in µs; texts are numbers of entries in lists."""
    # A browser draws a bounded number of slices: the first ones are kept, `total` says how many there were.
    every = [e for e in phase.trace.events if e.kind != "view"]
    events = sorted(every, key=lambda e: e.begin)[:MOST]
    start, names = phase.wall[0][0], lanes(events)
    lane = {name: i for i, name in enumerate(names)}
    kinds, texts, ops, types = _Numbers(), _Numbers(), _Numbers(), _Numbers()

    def slice_of(e: Event) -> list[Any]:
        about = kinds.of(e.kind), texts.of(e.name), ops.of(e.op), types.of(e.type)
        return [lane[e.lane], _micro(e.begin - start), _micro(e.ns), *about, round(e.nbytes)]

    return {
        "slices": [slice_of(e) for e in events],
        "flows": [
            [lane[a.lane], _micro(t0 - start), lane[b.lane], _micro(t1 - start)]
            for flow in flows(events, phase.trace.runs)
            for (_, t0, a), (_, t1, b) in pairwise(flow)
        ],
        "lanes": names,
        "kinds": kinds.texts,
        "names": texts.texts,
        "ops": ops.texts,
        "types": types.texts,
        "total": len(every),
        "length": _micro(max((e.end for e in events), default=start) - start),
        "plan": phase.trace.runs[-1].schedule.dump() if phase.trace.runs else "",
    }


def _micro(ns: int) -> float:
    return round(ns / 1000, 3)


class _Numbers:
    """Interned texts: each is listed once and referred to by number."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._known: dict[str, int] = {}

    def of(self, text: str) -> int:
        if text not in self._known:
            self._known[text] = len(self.texts)
            self.texts.append(text)
        return self._known[text]
