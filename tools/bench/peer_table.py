"""Rounds of several programs become rows: medians, ratios, shares of what the machine can do."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final

from bench_report import NONE, middle, number, percent, table

from graphsched.measure.products import last_level_cache

Speeds = dict[str, list[float]]  # by program, one a round
ABOUT: Final = "≈"


@dataclass(frozen=True)
class Estimate:
    """A peer that is not there: `factor` times the first peer, in tests and on models whose names match.

    of: the model whose figures are taken, if it is another one.
    """

    name: str
    factor: float
    test: str = "*"
    model: str = "*"
    of: str = ""

    def fits(self, test: str, model: str) -> bool:
        return fnmatchcase(test, self.test) and fnmatchcase(model, self.model)


@dataclass
class Results:
    """All rounds. peaks: bandwidth, int8 and f32 by number of threads, one of each a round.

    left_out: program and model where a program failed.
    """

    speeds: dict[tuple[str, str], Speeds] = field(default_factory=dict)  # by model and test
    threads: dict[str, int] = field(default_factory=dict)  # by model
    peaks: dict[int, list[Mapping[str, float]]] = field(default_factory=dict)
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def add(self, model: str, program: str, found: Mapping[str, float]) -> None:
        for test, speed in found.items():
            self.speeds.setdefault((model, test), {}).setdefault(program, []).append(speed)

    def median(self, model: str, test: str, program: str) -> float | None:
        return middle(self.speeds.get((model, test), {}).get(program, []))

    def peak(self, model: str, kind: str) -> float | None:
        return middle([peak[kind] for peak in self.peaks.get(self.threads[model], [])])


@dataclass(frozen=True)
class Row:
    """One program of ours in one test; speeds in tokens/s, rates per second, shares of the rounds' peaks."""

    model: str
    test: str
    threads: int
    program: str
    speed: float | None
    peers: Mapping[str, float | None]
    estimated: tuple[str, ...]
    bandwidth: float | None = None
    of_bandwidth: float | None = None
    of_int8: float | None = None

    @property
    def best(self) -> str:
        """The fastest peer, or nothing where none measured."""
        there = {name: speed for name, speed in self.peers.items() if speed}
        return max(there, key=lambda name: there[name]) if there else ""

    def ratio(self, peer: str) -> float | None:
        speed = self.peers.get(peer)
        return self.speed / speed if self.speed and speed else None

    def data(self) -> dict[str, Any]:
        ratios = {name: self.ratio(name) for name in self.peers}
        return {**asdict(self), "ratios": ratios, "best": self.best, "of_best": self.ratio(self.best)}


@dataclass(frozen=True)
class Work:
    """What a model asks for, by its name: bytes a token, operations of a prompt of n tokens.

    cache: bytes of the last level.
    """

    token_bytes: Callable[[str], float]
    prompt_ops: Callable[[str, int], float]
    cache: int = field(default_factory=last_level_cache)


def rows(
    results: Results, ours: Sequence[str], peers: Sequence[str], estimates: Sequence[Estimate], work: Work
) -> list[Row]:
    """A row for each of our programs in each test, models in the order of the rounds."""
    measured = [name for name in peers if any(name in speeds for speeds in results.speeds.values())]
    names = list(dict.fromkeys((*measured, *(e.name for e in estimates))))
    made = []
    for model, test in results.speeds:
        speeds = {name: results.median(model, test, name) for name in peers}
        guesses = {name: estimated(results, estimates, name, peers, model, test) for name in names}
        there = {name: speeds.get(name) or guesses[name] for name in names}
        marks = tuple(name for name in names if there[name] and not speeds.get(name))
        for program in ours:
            speed = results.median(model, test, program)
            shares = _shares(results, work, model, test, speed)
            made.append(Row(model, test, results.threads[model], program, speed, there, marks, *shares))
    return made


def estimated(
    results: Results, estimates: Sequence[Estimate], name: str, peers: Sequence[str], model: str, test: str
) -> float | None:
    """The first estimate that fits and whose own figure was measured."""
    for e in estimates:
        if e.name == name and e.fits(test, model) and peers:
            others = [m for m, t in results.speeds if t == test and fnmatchcase(m, e.of or model)]
            base = next((v for m in others if (v := results.median(m, test, peers[0]))), None)
            if base:
                return base * e.factor
    return None


def _shares(
    results: Results, work: Work, model: str, test: str, speed: float | None
) -> tuple[float | None, float | None, float | None]:
    """GB/s and its share for single tokens, the share of the int8 peak for prompts.

    Weights that a cache may hold say nothing about memory.
    """
    kind, count = test[:2], test[2:]
    if not speed or not count.isdigit():
        return None, None, None
    if kind == "tg":
        nbytes, peak = work.token_bytes(model), results.peak(model, "bandwidth")
        if nbytes < 2 * work.cache:
            return None, None, None
        return nbytes * speed, nbytes * speed / peak if peak else None, None
    ops, peak = work.prompt_ops(model, int(count)) * speed / int(count), results.peak(model, "int8")
    return None, None, ops / peak if ops and peak else None


def as_table(made: Sequence[Row]) -> str:
    """One line a row; a ratio is ours over theirs, ≈ marks what is estimated."""
    peers = list(made[0].peers) if made else []
    several = len({row.program for row in made}) > 1
    header = ["model", "test", "threads", *(["program"] if several else []), "tokens/s"]
    for name in peers:
        guess = ", estimate" if all(name in row.estimated for row in made if row.peers[name]) else ""
        header += [name + (guess if any(row.peers[name] for row in made) else ""), f"× {name}"]
    header += ["× best", "GB/s", "of read", "of int8"]
    return table(header, [_cells(row, peers, several) for row in made], 4 if several else 3)


def _cells(row: Row, peers: Sequence[str], several: bool) -> list[str]:
    cells = [row.model, row.test, str(row.threads), *([row.program] if several else []), number(row.speed)]
    for name in peers:
        cells += [_marked(row, name, number(row.peers[name])), _marked(row, name, number(row.ratio(name), 2))]
    cells.append(_marked(row, row.best, number(row.ratio(row.best), 2)))
    bandwidth = None if row.bandwidth is None else row.bandwidth / 1e9
    return [*cells, number(bandwidth), percent(row.of_bandwidth), percent(row.of_int8)]


def _marked(row: Row, name: str, text: str) -> str:
    return ABOUT + text if name in row.estimated and text != NONE else text


def peak_lines(results: Results) -> list[str]:
    """What the machine did in the same rounds."""
    lines = []
    for threads, rounds in sorted(results.peaks.items()):
        of = {kind: [r[kind] / 1e9 for r in rounds] for kind in ("bandwidth", "int8", "f32")}
        parts = [
            f"{what} {number(middle(of[kind]))} {unit} ({number(min(of[kind]))} to {number(max(of[kind]))})"
            for what, kind, unit in (
                ("reads", "bandwidth", "GB/s"),
                ("int8", "int8", "GOP/s"),
                ("f32", "f32", "GOP/s"),
            )
        ]
        lines.append(f"{threads} thread{'s' * (threads > 1)}: {', '.join(parts)}.")
    return lines


def round_lines(results: Results) -> list[str]:
    """Every round of every program, so that medians can be judged."""
    lines = []
    for (model, test), speeds in results.speeds.items():
        rounds = (f"{name} {' '.join(number(s) for s in values)}" for name, values in speeds.items())
        lines.append(f"* {model} {test}: " + "; ".join(rounds))
    return lines
