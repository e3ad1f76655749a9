"""A profile as plain data, for --json and as the source of tables, pages and comparisons."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any, Final

from graphsched.measure.peaks import Peaks
from graphsched.measure.profile import Phase
from graphsched.measure.sums import Row, Rows, Sums

Data = dict[str, Any]
FORMAT: Final = "graphsched profile 1"
PER_DEVICE: Final = ("ops", "labels")


def profile_data(phases: Sequence[Phase], settings: Mapping[str, Any], peaks: Peaks) -> Data:
    """Phases with the settings in effect and the peaks that shares refer to."""
    return {
        "format": FORMAT,
        "settings": dict(settings),
        "peaks": {device: dict(peak) for device, peak in peaks.items() if peak},
        "phases": [phase_data(phase, peaks) for phase in phases],
    }


def phase_data(phase: Phase, peaks: Peaks) -> Data:
    """One phase; seconds are means of the repetitions, bytes and operations those of one."""
    sums, n = phase.sums, len(phase.sums.wall)
    wall = mean(sums.wall) * 1e-9
    return {
        "phase": phase.name,
        "tokens": phase.tokens,
        "predicted": phase.is_predicted,
        "repetitions": n,
        "wall": wall,
        "spread": _spread(sums.wall),
        "tokens_per_second": phase.tokens / wall if wall else 0.0,
        "devices": _devices(sums),
        "lost": sums.lost,
        "ops": rows_data(sums.ops, n, peaks),
        "labels": rows_data(sums.labels, n, peaks),
        "layers": sorted(rows_data(sums.layers, n, {}), key=lambda r: (r["device"], int(r["name"]))),
        "copies": rows_data(sums.copies, n, peaks),
        "waits": rows_data(sums.waits, n, {}),
        "threads": sorted(rows_data(sums.threads, n, {}), key=lambda r: (r["device"], r["name"])),
        "overhead": [
            {"name": name, **_seconds(row), "busy": mean(row.busy) * 1e-9}
            for (_, name), row in sums.overhead.items()
        ],
    }


def _devices(sums: Sums) -> list[str]:
    """Devices and the lanes of copies, in the order of the tables."""
    return list(dict.fromkeys((*sums.devices, *(device for device, _ in sums.ops))))


def rows_data(rows: Rows, n: int, peaks: Peaks) -> list[Data]:
    """Rows as plain data, longest first."""
    ordered = sorted(rows.items(), key=lambda item: -item[1].mean)
    return [{"device": d, "name": name, **_row(row, n, peaks.get(d, {}))} for (d, name), row in ordered]


def _row(row: Row, n: int, peak: Mapping[str, float]) -> Data:
    seconds, total = row.mean * 1e-9, sum(row.ns) * 1e-9
    flops = sum(row.ops.values())
    data = {**_seconds(row), "bytes": row.nbytes / n, "flops": flops / n, "count": row.count / n}
    if seconds:
        data |= {"gb_s": row.nbytes / total / 1e9, "gop_s": flops / total / 1e9}
        data |= {"of_peak": share(row, total, peak), "bound": bound(row, peak)} if peak else {}
    return data


def share(row: Row, seconds: float, peak: Mapping[str, float]) -> float:
    """The row's time at the peak rate of its bounding resource, as a share of its time; above 1 in caches."""
    return max(_at_peak(row, peak)) / seconds


def bound(row: Row, peak: Mapping[str, float]) -> str:
    """memory or arithmetic: which of the two would take longer."""
    memory, arithmetic = _at_peak(row, peak)
    return "memory" if memory >= arithmetic else "arithmetic"


def _at_peak(row: Row, peak: Mapping[str, float]) -> tuple[float, float]:
    memory = row.nbytes / peak["bandwidth"]
    return memory, sum(ops / peak[kind] for kind, ops in row.ops.items() if kind in peak)


def _seconds(row: Row) -> Data:
    return {"seconds": row.mean * 1e-9, "spread": _spread(row.ns)}


def _spread(ns: Sequence[int]) -> float:
    """Standard deviation of the repetitions, in seconds."""
    return stdev(ns) * 1e-9 if len(ns) > 1 else 0.0
