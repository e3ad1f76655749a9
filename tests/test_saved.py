"""Sequences saved in host memory: restored they are bit for bit what they were, in any slot, from any device."""

from typing import Any

import numpy as np
import pytest
from running import EXACT, in_turn, model_path

from graphsched.errors import ContextError
from graphsched.session.engine import Engine
from graphsched.session.model import open_default_or
from graphsched.session.options import session_options

NAMES = ["llama", "gemma3", "llama4", "deepseek2-v3", "qwen35moe", "lfm2", "mamba2"]
PLACED: dict[str, Any] = {"devices": ("sim:2x3090",), "overrides": ("blk.1.ffn=CPU",), "poison": True}


def opened(name: str, **options: Any) -> Engine:
    given = {"n_ctx": 512, "n_parallel": 4, "n_threads": 2, "n_ubatch": 64, **EXACT, **options}
    return Engine(open_default_or(model_path(name)), session_options(**given))


def tokens(n: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(3, 500, n).astype(np.int32)


@pytest.mark.parametrize(
    ("name", "options"), in_turn(NAMES, [{}, PLACED, {"type_k": "f16", "type_v": "f32"}])
)
def test_what_is_restored_is_what_was_saved(name: str, options: dict[str, Any]) -> None:
    engine = opened(name, checkpoint_every=48, **options)
    before = engine.slots.n_free
    first = engine.sequence()
    first.read(tokens(150))
    saved = first.saved()
    again = first.fork()
    expected = again.read(tokens(3, 1)), again.read(tokens(1, 2))
    for sequence in (first, again):
        sequence.close()
    others = [engine.sequence() for _ in range(3)]
    for i, other in enumerate(others):
        other.read(tokens(90, 5 + i))
    others.pop(0).close()  # blocks and rows that it had are others' now
    restored = engine.restored(saved, slot=3)
    assert (restored.slot, restored.n_past, saved.nearest(150)) == (3, 150, 150)
    found = restored.read(tokens(3, 1)), restored.read(tokens(1, 2))
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    for sequence in (*others, restored):
        sequence.close()
    assert engine.slots.n_free == before


@pytest.mark.parametrize("name", NAMES)
def test_it_goes_back_as_far_as_what_was_saved(name: str) -> None:
    engine = opened(name, checkpoint_every=48)
    first = engine.sequence()
    first.read(tokens(150))
    saved = first.saved()
    restored = engine.restored(saved)
    for n in (149, 100, 96, 60, 30):
        assert saved.nearest(n) == first.nearest(n) == restored.nearest(n)
    assert first.back_to(100) == restored.back_to(100)
    ids = tokens(20, 3)
    np.testing.assert_array_equal(first.read(ids), restored.read(ids))


@pytest.mark.parametrize("name", ["llama", "qwen35moe"])
def test_a_fork_of_a_beginning(name: str) -> None:
    engine = opened(name, checkpoint_every=48, deterministic=True)
    ids, first, alone = tokens(150), engine.sequence(), engine.sequence()
    first.read(ids)
    fork = first.fork(100, slot=3)
    assert (fork.slot, fork.n_past) == (3, first.nearest(100))
    assert fork.n_past == (100 if name == "llama" else 96)
    more = np.concatenate((ids[fork.n_past : 100], tokens(9, 4)))
    found = fork.read(more)
    np.testing.assert_array_equal(found, alone.read(np.concatenate((ids[:100], tokens(9, 4)))))
    assert first.n_past == 150


def test_too_few_cells_leave_everything_as_it_was() -> None:
    engine = opened("qwen35moe", n_ctx=256)
    first, other = engine.sequence(), engine.sequence()
    first.read(tokens(150))
    saved = first.saved()
    first.close()
    other.read(tokens(150))
    before = engine.slots.n_free
    with pytest.raises(ContextError, match="too few free cells"):
        engine.restored(saved)
    assert engine.slots.n_free == before


def test_a_slot_that_is_taken() -> None:
    engine = opened("llama")
    engine.sequence(2)
    with pytest.raises(ContextError, match="slot 2 is in use"):
        engine.sequence(2)
