"""Streams of simulated devices: flags alone order copies and kernels; uploads run ahead through the staging ring."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import ONE, TWO, logits_in_pieces, on_host, reference

from graphsched.graph.tensor import TensorType
from graphsched.run.memory import Arena
from graphsched.run.operand import Addresses, Buffer, Item, Memory, Operand, Work, dense
from graphsched.run.streams import Flag, Signal, Wait, in_streams
from graphsched.schedule.placement import PlacementOptions as P
from graphsched.types import dtypes

PRESETS: dict[str, dict[str, Any]] = {
    "all on devices": {"devices": TWO},
    "experts out": {"devices": ONE, "placement": P(overrides=("exps=CPU",))},
    "offload all": {"devices": ONE, "placement": P(n_gpu_layers=0), "offload_min_batch": 1},
    "two devices": {
        "devices": TWO,
        "placement": P(overrides=("exps=CPU", r"blk\.1\.attn=CPU")),
        "offload_min_batch": 1,
    },
}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", ["qwen3moe", "mixtral", "deepseek2-short", "llama"])
def test_same_bits_in_streams_of_their_own(name: str, preset: str) -> None:
    ref = reference(name)
    got = logits_in_pieces(ref.model, ref.tokens, 24, streams=True, poison=True, **PRESETS[preset])
    np.testing.assert_array_equal(got, on_host(name))


@dataclass(frozen=True, eq=False)
class Touch:
    """An item that reads and writes bytes of one arena."""

    device: str
    read: tuple[Operand, ...]
    written: tuple[Operand, ...]
    work: Work = "compute"

    def reads(self) -> list[Operand]:
        return list(self.read)

    def writes(self) -> list[Operand]:
        return list(self.written)


@st.composite
def touches(draw: st.DrawFn) -> tuple[list[Touch], Addresses]:
    """Items of up to four streams over overlapping buffers."""
    sizes = st.tuples(st.integers(0, 40), st.integers(1, 12))
    spots = draw(st.lists(sizes, min_size=1, max_size=8))
    buffers: dict[Hashable, int] = {Buffer(f"b{i}", n): at for i, (at, n) in enumerate(spots)}
    operands = [dense(b, TensorType(dtypes.I8, (b.nbytes,))) for b in buffers if isinstance(b, Buffer)]
    some = st.lists(st.sampled_from(operands), max_size=2).map(tuple)
    items = draw(st.lists(st.builds(Touch, st.sampled_from("abcd"), some, some), max_size=20))
    return items, Addresses({"CPU": Arena(buffers, 64, None)}, {"CPU": Memory(4096, 64)})


@settings(max_examples=300, deadline=None)
@given(touches())
def test_every_conflict_is_ordered(drawn: tuple[list[Touch], Addresses]) -> None:
    items, addresses = drawn
    streams, _ = in_streams(items, lambda item: (item.device, item.device), addresses)
    before = happens_before(streams)
    for i, first in enumerate(items):
        for second in items[i + 1 :]:
            if conflict(first, second, addresses):
                assert first in before[second], "nothing orders two items that touch the same bytes"
            assert second not in before[first], "an item waits for one that comes after it"


@settings(max_examples=200, deadline=None)
@given(touches())
def test_no_wait_can_be_left_out(drawn: tuple[list[Touch], Addresses]) -> None:
    items, addresses = drawn
    streams, _ = in_streams(items, lambda item: (item.device, item.device), addresses)
    before = happens_before(streams)
    for stream, own in streams.items():
        for i, wait in enumerate(own):
            if isinstance(wait, Wait):
                after = happens_before({**streams, stream: own[:i] + own[i + 1 :]})
                assert any(after[item] < before[item] for item in after), "other waits order the same items"


def conflict(a: Touch, b: Touch, addresses: Addresses) -> bool:
    def overlap(x: tuple[Operand, ...], y: tuple[Operand, ...]) -> bool:
        spans = [(addresses.span(o), addresses.span(p)) for o in x for p in y]
        return any(s[0] < t[1] and t[0] < s[1] for s, t in spans)

    return overlap(a.written, b.written) or overlap(a.written, b.read) or overlap(a.read, b.written)


def happens_before(streams: dict[str, list[Item]]) -> dict[Item, set[Item]]:
    """For each item the items that are done when it starts; runs the streams as threads would."""
    raised: dict[Flag, set[Item]] = {}
    done: dict[str, set[Item]] = {s: set() for s in streams}
    found: dict[Item, set[Item]] = {}
    left = {s: list(items) for s, items in streams.items()}
    while any(left.values()):
        moved = False
        for stream, items in left.items():
            while items and not (isinstance(items[0], Wait) and items[0].flag not in raised):
                item, moved = items.pop(0), True
                if isinstance(item, Wait):
                    done[stream] |= raised[item.flag]
                elif isinstance(item, Signal):
                    raised[item.flag] = set(done[stream])
                else:
                    found[item] = set(done[stream])
                    done[stream].add(item)
        assert moved, "streams wait for each other"
    return found
