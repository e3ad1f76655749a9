"""Layers that see a window keep its blocks only: the same bits as with the whole context, for less memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from running import model_path

import graphsched
from graphsched import Session
from graphsched.arch.cells import window_cells
from graphsched.cli.interactive import Chat
from graphsched.gguf.loader import open_model
from graphsched.graph.tensor import i32, input_tensor
from graphsched.predict.plan import make_plan
from graphsched.schedule.placement import PlacementOptions
from graphsched.session.cells import Blocks
from graphsched.session.model import Model
from graphsched.session.options import SessionOptions
from graphsched.session.rows import Runs

NAMES = ["gemma2", "gemma3", "gpt-oss", "llama4"]
PROMPT, STEPS, CONTEXT = 700, 30, 1024
WINDOW = 16  # of all four; Llama 4's chunk is made that small here


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Llama 4's chunk of 8192 does not end in a test."""
    graphsched.arch.registry.get("llama4", "")
    monkeypatch.setattr("graphsched.models.llama4.CHUNK", WINDOW)


def path(name: str) -> Path:
    return model_path(name)


def tokens(n: int, seed: int = 3) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(3, 512, n)


def opened(name: str, **options: Any) -> Session:
    return graphsched.load(path(name), n_ctx=CONTEXT, n_ubatch=64, **options)


def logits(name: str, **options: Any) -> NDArray[np.float32]:
    """A prompt much longer than the window, in micro-batches, then token by token."""
    session = graphsched.load(path(name), **{"n_ctx": CONTEXT, "n_ubatch": 64, **options})
    ids = tokens(PROMPT + STEPS)
    rows = [session.eval(ids[:PROMPT], all_logits=True), *(session.eval([int(t)]) for t in ids[PROMPT:])]
    assert session.engine.feed.window_cells == (0 if options.get("swa_full") else 256)
    session.close()
    return np.concatenate(rows)


@pytest.mark.parametrize("name", NAMES)
def test_same_bits_as_the_whole_cache(name: str) -> None:
    np.testing.assert_array_equal(logits(name), logits(name, swa_full=True))


@pytest.mark.parametrize("kv", ["f32", "q8_0", "q4_0", "q5_1"])
def test_same_bits_in_every_cache_type(kv: str) -> None:
    types = {"type_k": kv, "type_v": kv}
    np.testing.assert_array_equal(logits("gemma3", **types), logits("gemma3", swa_full=True, **types))


@pytest.mark.parametrize("name", NAMES)
def test_same_bits_in_micro_batches_of_five(name: str) -> None:
    np.testing.assert_array_equal(
        logits(name, n_ubatch=5, n_threads=2), logits(name, n_ubatch=5, n_threads=1, swa_full=True)
    )


@pytest.mark.parametrize("name", NAMES)
def test_same_bits_on_simulated_devices(name: str) -> None:
    placed: dict[str, Any] = {
        "devices": ("sim:2x3090",),
        "placement": PlacementOptions(overrides=("blk.1.*=CPU", "ffn=CPU")),
        "poison": True,
    }
    np.testing.assert_array_equal(logits(name, **placed), logits(name, swa_full=True))


@pytest.mark.parametrize("name", NAMES)
def test_reference_backend(name: str) -> None:
    """Sums run in another order there."""
    ids, got = tokens(330), []
    for swa_full in (False, True):
        session = opened(name, backend="reference", swa_full=swa_full)
        session.eval(ids[:-30])
        got.append(session.eval(ids[-30:], all_logits=True))
    np.testing.assert_allclose(got[0], got[1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_going_back(name: str) -> None:
    """A little: the blocks are still there. Far: what it gave up is read again."""
    ids, session, whole = tokens(700), opened(name), opened(name, swa_full=True)
    for back in (690, 600, 300, 10, 0):
        for s in (session, whole):
            s.eval(ids[s.n_past :])
            s.rewind(back)
            assert s.n_past == back
        other = tokens(20, seed=back)
        np.testing.assert_allclose(session.eval(other), whole.eval(other), rtol=0, atol=1e-3)
        for s in (session, whole):
            s.rewind(back)


def blocks(n: int, **mask: int) -> Blocks:
    leaf = input_tensor("inp_table_swa", i32(n), **{"window": 0, "chunk": 0, **mask})
    return Blocks(leaf, n, 1, 64)


def take(pool: Blocks, first: int, end: int) -> None:
    pool.take(Runs(*(np.array([n]) for n in (0, first, end, end - first))))


def test_what_a_window_holds() -> None:
    pool = blocks(3, window=40)
    for first in range(0, 200, 20):
        take(pool, first, first + 20)
    assert (pool.first[0], pool.end[0], pool.n_free) == (4, 7, 0)  # positions 128 to 223
    assert [n for n in range(0, 201, 8) if pool.holds(0, n)] == [0, 168, 176, 184, 192, 200]
    pool.cut(0, 170)
    assert (pool.end[0], pool.n_free) == (6, 1)
    assert pool.holds(0, 170)
    assert not pool.holds(0, 160)


def test_a_chunk_needs_nothing_older() -> None:
    pool = blocks(3, chunk=64)
    for first in range(0, 130, 10):
        take(pool, first, first + 10)
    assert pool.first[0] == 2  # position 64
    assert [n for n in range(0, 131, 16) if pool.holds(0, n)] == [0, 64, 80, 96, 112, 128]


@pytest.mark.parametrize(
    ("span", "n_ubatch", "n_kv", "cells"),
    [
        (16, 5, 1024, 256),
        (128, 512, 4096, 768),
        (1024, 512, 1024, 1024),
        (4096, 512, 8192, 4864),
        (16, 5, 64, 64),
    ],
)
def test_size_of_a_ring(span: int, n_ubatch: int, n_kv: int, cells: int) -> None:
    assert window_cells(span, n_ubatch, n_kv) == cells


def test_memory_of_a_plan_is_that_of_the_rings() -> None:
    model = Model(open_model(path("gemma3")))
    near, full = (
        make_plan(model, SessionOptions(n_ctx=65536, n_ubatch=64, swa_full=swa), 1, 1, 9000)
        for swa in (False, True)
    )
    per_layer = 2 * 2 * model.config.n_head_kv * model.config.head_dim  # type: ignore[attr-defined]
    assert full.memory["CPU"].kv == 7 * 65536 * per_layer
    assert near.memory["CPU"].kv == 6 * 256 * per_layer + 65536 * per_layer
    assert near.lengths["n_kv_swa"] == 256
    assert "for windows (256 cells)" in model.summary(near.options)
    assert "windows" not in model.summary(full.options)


def test_a_context_no_longer_than_the_window_has_no_ring() -> None:
    model = Model(open_model(path("gemma2")))
    graph = model.graph(1, 1, 256, SessionOptions(n_ctx=256))
    assert {leaf.name for leaf in graph.leaves if "table" in leaf.name} == {"inp_table"}


class Letters:
    """A tokenizer of letters and a template of nothing but messages."""

    chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    bos = eos = None
    add_bos = False
    eog: frozenset[int] = frozenset()
    n_vocab = 503

    def encode(self, text: str, **_: bool) -> list[int]:
        return [3 + ord(c) % 500 for c in text]

    def encode_prompt(self, prompt: str) -> list[int]:
        return self.encode(prompt)

    def stream(self, **_: bool) -> "Letters":
        return self

    def push(self, token: int) -> str:
        return chr(token - 3)

    def flush(self) -> str:
        return ""


def answers(session: Session) -> Iterator[str]:
    """A conversation whose first answer is forgotten: the second prompt differs from what the cache holds."""
    chat = Chat(session, n_predict=5, sampling=graphsched.SamplingOptions(temperature=0))
    yield "".join(chat.answer("a" * 400))
    chat.restart()
    yield "".join(chat.answer("a" * 30 + "b" * 20))


def test_a_chat_that_goes_back_beyond_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "tokenizer", Letters())
    told = [list(answers(opened("gemma3", swa_full=swa))) for swa in (False, True)]
    assert told[0] == told[1]
