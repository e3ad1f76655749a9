"""Names that an unknown one is probably a typo of: those of its own kind, a letter or two away."""

from collections.abc import Iterable

_ABBREVIATION, _SHORT, _LONG = 4, 4, 7  # letters


def no_such(what: str, name: str, candidates: Iterable[str]) -> str:
    """The sentence for an unknown name, with the name that was probably meant."""
    meant = likely(name, candidates)
    return f"no such {what} {name}" + (f"; did you mean {meant}?" if meant else "")


def likely(name: str, candidates: Iterable[str]) -> str:
    """The candidate that was probably meant, the first of the nearest; "" if there is none.

    That is the same with other dashes, or one with as many dashes that differs by a letter (of 7 letters and more, by
    two), or that the name abbreviates. In a short flag no letter may be another one, as that soon is another flag.
    """
    near = [(d, c) for c in dict.fromkeys(candidates) if (d := _distance(name, c)) is not None]
    return min(near, key=lambda pair: pair[0], default=(0.0, ""))[1]


def _distance(name: str, candidate: str) -> float | None:
    """How far a typo is from a candidate; None if it is no typo of that one."""
    a, b = name.lstrip("-"), candidate.lstrip("-")
    if min(len(a), len(b)) < 2:
        return None
    if a == b.replace(" ", ""):  # a missing space or dash
        return 0.0
    if len(name) - len(a) != len(candidate) - len(b):
        return None
    if b.startswith(a) and len(a) >= _ABBREVIATION:
        return 0.5
    distance = edits(a, b)
    is_short_flag = name.startswith("-") and len(a) <= _SHORT
    if distance > (2 if len(a) >= _LONG else 1) or (is_short_flag and _is_substituted(a, b)):
        return None
    return float(distance)


def _is_substituted(a: str, b: str) -> bool:
    """Whether a name of the same length has other letters, not just swapped ones."""
    return len(a) == len(b) and sorted(a) != sorted(b)


def edits(a: str, b: str) -> int:
    """Letters to insert, leave out, replace, or swap with the next one, to make one text the other."""
    before, row = [0] * (len(b) + 1), list(range(len(b) + 1))
    for i, x in enumerate(a):
        older, before, row = before, row, [i + 1]
        for j, y in enumerate(b):
            row.append(min(before[j + 1] + 1, row[j] + 1, before[j] + (x != y)))
            if i and j and x == b[j - 1] and y == a[i - 1]:
                row[-1] = min(row[-1], older[j - 1] + 1)
    return row[-1]
