"""Ops of several results: what is joined, what is not, and that placement and bits do not depend on it."""

from typing import Any

import pytest
from test_snapshots import PRESETS, SECTIONS, cases, opened

from graphsched.joins import RULES
from graphsched.options import SessionOptions
from graphsched.plan import make_plan

ALL = frozenset(RULES)


def dumped(name: str, n_tokens: int, **options: Any) -> list[str]:
    made = SessionOptions(n_ctx=1024, **options)
    return make_plan(opened(name), made, n_tokens, 1, n_tokens).schedule.dump().splitlines()


@pytest.mark.parametrize(("name", "preset"), cases())
def test_splits_and_copies_are_those_without(name: str, preset: str) -> None:
    """Every split's device, and what is copied before it, by name."""
    for n_tokens in (1, 512):
        for section in SECTIONS.values():
            for hoist in (frozenset(), frozenset({"hoist"})):
                options = {**PRESETS[preset], **section}
                joined = dumped(name, n_tokens, off=hoist, **options)
                plain = dumped(name, n_tokens, off=hoist | ALL, **options)
                assert without_nodes(joined) == without_nodes(plain)


def without_nodes(lines: list[str]) -> list[list[str]]:
    """Splits with their inputs, whose order in a split is that of the nodes."""
    splits: list[list[str]] = []
    for line in lines:
        if line.startswith(("split", "results")):
            splits.append([line])
        elif line.startswith("  <-"):
            splits[-1].append(line)
    return [[head, *sorted(inputs)] for head, *inputs in splits]
