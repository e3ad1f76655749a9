"""Whether a trace is one that Chrome and Perfetto draw."""

from typing import Any


def assert_is_chrome_trace(trace: dict[str, Any]) -> None:
    """The rules of the Trace Event Format for the events that are used: M, X, and flows s, t, f."""
    named: set[tuple[int, int]] = set()
    slices: dict[tuple[int, int], list[tuple[float, float]]] = {}
    flows: dict[str, list[dict[str, Any]]] = {}
    for e in trace["traceEvents"]:
        assert {"ph", "name", "pid", "tid"} <= e.keys()
        lane = e["pid"], e["tid"]
        if e["ph"] == "M":
            assert e["name"] in ("process_name", "thread_name", "thread_sort_index")
            assert len(e["args"]) == 1
            named.add(lane)
        elif e["ph"] == "X":
            assert e["ts"] >= -1
            assert e["dur"] >= 0
            assert isinstance(e["cat"], str)
            slices.setdefault(lane, []).append((e["ts"], e["ts"] + e["dur"]))
        else:
            assert e["ph"] in "stf"
            assert e["bp"] == "e"
            flows.setdefault(e["id"], []).append(e)
    assert slices.keys() <= named
    for own in slices.values():  # slices of a lane are nested or apart, or they are drawn wrong
        stack: list[float] = []
        for begin, end in sorted(own, key=lambda s: (s[0], -s[1])):
            while stack and stack[-1] <= begin + 1e-6:
                stack.pop()
            assert not stack or end <= stack[-1] + 1e-6
            stack.append(end)
    for points in flows.values():
        assert [p["ph"] for p in points] == ["s", *["t"] * (len(points) - 2), "f"]
        assert [p["ts"] for p in points] == sorted(p["ts"] for p in points)
        for p in points:
            assert any(a - 1e-6 <= p["ts"] <= b + 1e-6 for a, b in slices[p["pid"], p["tid"]])
