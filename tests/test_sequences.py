"""Several sequences: each gives the same alone or among others; forks, going back, and a pool that is full."""

from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from numpy.typing import NDArray
from running import EXACT, in_turn, model_path, nmse

from graphsched.errors import ContextError, OptionError
from graphsched.graph.opdef import Op
from graphsched.run.executable import Executable
from graphsched.schedule.scheduler import Schedule
from graphsched.session.engine import Engine
from graphsched.session.model import Head, open_default_or
from graphsched.session.options import session_options
from graphsched.session.rows import Aborted, Rows
from graphsched.session.sequence import Sequence
from graphsched.types.extents import CELL_BLOCK

NAMES = ["llama", "gemma3", "gpt-oss", "llama4", "deepseek2-v3", "qwen3moe", "qwen35moe", "lfm2", "mamba2"]
Ids = NDArray[np.int32]


def opened(name: str, **options: Any) -> Engine:
    given = {"n_ctx": 512, "n_parallel": 9, "n_threads": 2, "n_ubatch": 64, **EXACT, **options}
    return Engine(open_default_or(model_path(name)), session_options(**given))


def tokens(n: int, seed: int = 0) -> Ids:
    return np.random.default_rng(seed).integers(3, 500, n).astype(np.int32)


def in_pieces(engine: Engine, ids: Ids, first: int) -> NDArray[np.float32]:
    """Logits of a sequence alone: a prompt, then token by token."""
    sequence = engine.sequence()
    rows = [
        *engine.step([(sequence, ids[:first], first)]),
        *(sequence.read(ids[i : i + 1]) for i in range(first, len(ids))),
    ]
    sequence.close()
    return np.concatenate(rows)


def together(engine: Engine, texts: list[Ids], seed: int) -> list[NDArray[np.float32]]:
    """Logits of sequences that join and leave, in steps of pieces of random lengths, in any order."""
    rng, found = np.random.default_rng(seed), [list[NDArray[np.float32]]() for _ in texts]
    sequences: dict[int, Sequence] = {}
    left, done = list(range(len(texts))), [0] * len(texts)
    while left or sequences:
        while left and (not sequences or rng.random() < 0.5):
            sequences[left.pop()] = engine.sequence()
        order = [int(i) for i in rng.permutation(list(sequences))]
        sizes = [min(int(rng.choice([1, 1, 2, 7, 20])), len(texts[i]) - done[i]) for i in order]
        parts = [
            (sequences[i], texts[i][done[i] : done[i] + n], n) for i, n in zip(order, sizes, strict=True)
        ]
        for i, n, logits in zip(order, sizes, engine.step(parts), strict=True):
            found[i].append(logits)
            done[i] += n
            if done[i] == len(texts[i]):
                sequences.pop(i).close()
    return [np.concatenate(rows) for rows in found]


@pytest.mark.parametrize(("name", "others"), in_turn(NAMES, [1, 3, 8]))
def test_logits_among_others(name: str, others: int) -> None:
    engine = opened(name)
    before = engine.slots.n_free
    texts = [tokens(20 + 7 * i, i) for i in range(1 + others)][:9]
    for ids, logits in zip(texts, together(engine, texts, others), strict=True):
        assert nmse(logits, in_pieces(engine, ids, 16)) <= 1e-9
    assert engine.slots.n_free == before


@pytest.mark.parametrize("name", NAMES)
def test_same_bits_where_the_same_kernels_run(name: str) -> None:
    """Plans of up to 32 tokens: a piece of a prompt, alone and among others."""
    engine = opened(name)
    a, b, c = (engine.sequence() for _ in range(3))
    alone = engine.step([(a, tokens(20), 20)])[0]
    a.rewind(0)
    engine.step([(b, tokens(40, 1), 0)])
    _, beside, _ = engine.step([(c, tokens(3, 2), 1), (a, tokens(20), 20), (b, tokens(5, 3), 5)])
    np.testing.assert_array_equal(beside, alone)


@pytest.mark.parametrize(("name", "cache"), in_turn(NAMES, ["f32", "f16"]))
def test_deterministic_is_bit_for_bit(name: str, cache: str) -> None:
    engine = opened(name, deterministic=True, type_k=cache, type_v=cache)
    texts = [tokens(20 + 7 * i, i) for i in range(5)]
    for ids, logits in zip(texts, together(engine, texts, 3), strict=True):
        np.testing.assert_array_equal(logits, in_pieces(engine, ids, 16))


@pytest.mark.parametrize("name", ["llama-Q4_0", "llama-Q6_K"])
def test_deterministic_with_quantised_weights(name: str) -> None:
    test_deterministic_is_bit_for_bit(name, "f16")


@pytest.mark.parametrize("name", ["llama", "gemma3", "deepseek2-v3", "qwen35moe"])
def test_same_bits_on_simulated_devices(name: str) -> None:
    texts = [tokens(20 + 9 * i, i) for i in range(4)]
    placed: dict[str, Any] = {
        "devices": ("sim:2x3090",),
        "overrides": ("blk.1.ffn=CPU",),
        "poison": True,
    }
    for on_host, split in zip(
        together(opened(name), texts, 1), together(opened(name, **placed), texts, 1), strict=True
    ):
        np.testing.assert_array_equal(split, on_host)


@pytest.mark.parametrize("name", ["llama", "deepseek2-v3"])
@pytest.mark.parametrize(
    "options", [{"off": frozenset({"fa"})}, {"backend": "reference"}], ids=["-fa 0", "reference"]
)
def test_other_ways_to_compute_attention(name: str, options: dict[str, Any]) -> None:
    texts = [tokens(20 + 9 * i, i) for i in range(3)]
    engine = opened(name)
    for ids, logits in zip(texts, together(opened(name, **options), texts, 1), strict=True):
        assert nmse(logits, in_pieces(engine, ids, 16)) <= 1e-9


@pytest.mark.parametrize("kv", ["f16", "q8_0", "q4_0", "q8_KV"])
@pytest.mark.parametrize("off", [frozenset[str](), frozenset({"fa"})], ids=["fa", "-fa 0"])
def test_every_cache_type(kv: str, off: frozenset[str]) -> None:
    engine = opened("llama", type_k=kv, type_v=kv, off=off)
    texts = [tokens(40, i) for i in range(3)]
    for ids, logits in zip(texts, together(engine, texts, 1), strict=True):
        assert nmse(logits, in_pieces(engine, ids, 16)) <= 1e-4


def test_rows_in_any_order_have_their_own_logits() -> None:
    engine = opened("llama")
    a, b = engine.sequence(), engine.sequence()
    of_a, of_b = engine.step([(a, tokens(4), 4), (b, tokens(3, 1), 3)])
    mixed = Rows(
        np.array([b.slot, a.slot, b.slot, a.slot, a.slot, b.slot, a.slot], np.int32),
        np.array([0, 0, 1, 1, 2, 2, 3], np.int32),
        np.array(
            [
                *tokens(3, 1)[:1],
                tokens(4)[0],
                tokens(3, 1)[1],
                *tokens(4)[1:3],
                tokens(3, 1)[2],
                tokens(4)[3],
            ],
            np.int32,
        ),
        np.array([1, 1, 0, 1, 0, 1, 1], np.bool_),
    )
    expected = np.stack([of_b[0], of_a[0], of_a[1], of_b[2], of_a[3]])
    np.testing.assert_array_equal(engine.forward(mixed), expected)


def test_a_fork_has_the_same_blocks_until_one_writes() -> None:
    engine = opened("llama")
    pool = engine.slots.pools[0]
    a = engine.sequence()
    a.read(tokens(40))
    used = len(pool) - pool.n_free
    b = a.fork()
    assert len(pool) - pool.n_free == used
    of_a, of_b = engine.step([(a, [5, 6], 2), (b, [7], 1)])
    assert len(pool) - pool.n_free == used + 1  # the second of two blocks
    c = engine.sequence()
    np.testing.assert_allclose(engine.step([(c, [*tokens(40), 5, 6], 2)])[0], of_a, rtol=0, atol=2e-4)
    c.rewind(40)
    np.testing.assert_allclose(engine.step([(c, [7], 1)])[0], of_b, rtol=0, atol=2e-4)
    for sequence in (a, b, c):
        sequence.close()
    assert pool.n_free == len(pool)
    assert not pool.users.any()


def test_a_full_pool_is_an_error_that_loses_nothing() -> None:
    engine = opened("llama", n_ctx=4 * CELL_BLOCK)
    a, b = engine.sequence(), engine.sequence()
    a.read(tokens(70))  # three blocks
    b.read(tokens(30, 1))  # the fourth
    with pytest.raises(ContextError) as caught:
        engine.step([(a, tokens(5, 2), 1), (b, tokens(9, 3), 1)])
    assert str(caught.value) == "32 more cells are needed, 0 of 128 are free; more are -c N"
    assert (a.n_past, b.n_past) == (70, 30)
    got = engine.step([(a, tokens(5, 2), 1)])[0]
    b.close()
    c = engine.sequence()
    with pytest.raises(ContextError):
        c.read(tokens(60, 4))
    a.rewind(0)
    np.testing.assert_allclose(engine.step([(a, [*tokens(70), *tokens(5, 2)], 1)])[0], got, rtol=0, atol=2e-4)


def test_more_sequences_than_slots() -> None:
    engine = opened("llama", n_parallel=2)
    a, _ = engine.sequence(), engine.sequence()
    with pytest.raises(ContextError, match="all 2 sequences are in use"):
        engine.sequence()
    a.close()
    assert engine.sequence().slot == a.slot


def test_tokens_that_are_none() -> None:
    engine = opened("llama")
    with pytest.raises(OptionError, match="token 512 is outside"):
        engine.step([(engine.sequence(), [512], 1)])


class Conversations(RuleBasedStateMachine):
    """Sequences join, read, fork, go back, are aborted, leave; each has the logits of a text computed from scratch."""

    name, options = "llama", dict[str, Any]()
    engines: tuple[Engine, Engine]

    def __init__(self) -> None:
        super().__init__()
        self.engine, self.alone = type(self).engines
        self.held: dict[Sequence, list[int]] = {}
        self.free = self.engine.slots.n_free

    def pick(self, i: int) -> Sequence:
        return list(self.held)[i % len(self.held)]

    @precondition(lambda self: len(self.held) < 9)
    @rule()
    def join(self) -> None:
        self.held[self.engine.sequence()] = []

    @precondition(lambda self: self.held)
    @rule(
        picks=st.lists(st.integers(0, 8), min_size=1, max_size=4, unique=True),
        n=st.integers(1, 40),
        seed=st.integers(0, 99),
    )
    def read(self, picks: list[int], n: int, seed: int) -> None:
        some = list(dict.fromkeys(map(self.pick, picks)))
        parts = [(s, tokens(max(n // (i + 1), 1), seed + i), 1) for i, s in enumerate(some)]
        try:
            found = self.engine.step(parts)
        except ContextError:
            return
        for (sequence, ids, _), logits in zip(parts, found, strict=True):
            self.held[sequence] += ids.tolist()
            assert sequence.tokens.tolist() == self.held[sequence]
            fresh = self.alone.sequence()
            expected = fresh.read(np.array(self.held[sequence], np.int32))
            fresh.close()
            assert nmse(logits, expected) <= 1e-9

    @precondition(lambda self: 0 < len(self.held) < 9)
    @rule(i=st.integers(0, 8))
    def fork(self, i: int) -> None:
        source = self.pick(i)
        self.held[source.fork()] = list(self.held[source])

    @precondition(lambda self: self.held)
    @rule(i=st.integers(0, 8), share=st.floats(0, 1))
    def rewind(self, i: int, share: float) -> None:
        sequence = self.pick(i)
        n = int(share * len(self.held[sequence]))
        sequence.rewind(n)
        del self.held[sequence][n:]
        assert sequence.n_past == n

    @precondition(lambda self: self.held)
    @rule(i=st.integers(0, 8))
    def abort(self, i: int) -> None:
        sequence = self.pick(i)
        self.engine.abort()
        try:
            sequence.read(tokens(5))
        except (Aborted, ContextError):
            self.engine.clear_abort()
        assert sequence.tokens.tolist() == self.held[sequence]

    @precondition(lambda self: self.held)
    @rule(i=st.integers(0, 8))
    def leave(self, i: int) -> None:
        sequence = self.pick(i)
        del self.held[sequence]
        sequence.close()

    @invariant()
    def blocks_are_counted(self) -> None:
        for pool in self.engine.slots.pools:
            tables = [pool.tables[s.slot, pool.first[s.slot] : pool.end[s.slot]] for s in self.held]
            named = np.bincount(np.concatenate([*tables, np.empty(0, np.int32)]), minlength=len(pool))
            np.testing.assert_array_equal(pool.users, named)
            assert pool.n_free == (named == 0).sum()

    def teardown(self) -> None:
        for sequence in self.held:
            sequence.close()
        assert self.engine.slots.n_free == self.free


@pytest.mark.parametrize("name", ["llama", "gemma3", "qwen35moe"])
def test_conversations(name: str) -> None:
    class Of(Conversations):
        engines = opened(name, n_checkpoints=3, checkpoint_every=16), opened(name, n_parallel=1)

    Of.TestCase.settings = settings(max_examples=15, stateful_step_count=20)
    Of.TestCase().runTest()


def test_nothing_leaks() -> None:
    """10,000 operations, of which only one in a hundred computes."""
    engine = opened("gemma3")
    before, rng, held = engine.slots.n_free, np.random.default_rng(7), list[Sequence]()
    for i in range(10_000):
        kind = rng.integers(4)
        if kind == 0 and len(held) < 9:
            held.append(held[0].fork() if held and rng.random() < 0.5 else engine.sequence())
        elif kind == 1 and held:
            held.pop(int(rng.integers(len(held)))).close()
        elif kind == 2 and held:
            sequence = held[int(rng.integers(len(held)))]
            sequence.rewind(sequence.n_past - int(rng.integers(3)) if i % 100 else 0)
        elif held and i % 100 < 4:
            held[int(rng.integers(len(held)))].read(tokens(int(rng.integers(1, 20))))
    for sequence in held:
        sequence.close()
    assert engine.slots.n_free == before


# ---- recurrent state ----


def counted(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of each forward from now on."""
    found, forward = list[int](), engine.forward

    def count(rows: Rows, head: Head = "logits") -> NDArray[np.float32]:
        found.append(len(rows.token))
        return forward(rows, head)

    monkeypatch.setattr(engine, "forward", count)
    return found


RECURRENT = ["qwen35moe", "lfm2", "mamba2", "kimi-linear", "nemotron_h_moe"]


@pytest.mark.parametrize("name", RECURRENT)
def test_going_back_costs_at_most_the_tokens_between_checkpoints(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = opened(name, checkpoint_every=16, n_checkpoints=4)
    ids, sequence = tokens(100), engine.sequence()
    sequence.read(ids)
    assert [c.n_past for c in sequence.checkpoints] == [48, 64, 80, 96]  # the oldest gave way
    rows = counted(engine, monkeypatch)
    for back, again in ((99, 3), (90, 10), (80, 0), (79, 15), (50, 2), (47, 47), (0, 0)):
        assert sequence.rewind(back) == again == sum(rows)
        rows.clear()
        fresh = engine.sequence()
        expected = engine.step([(fresh, ids[: back + 5], 1)])[0]
        assert nmse(sequence.read(ids[back : back + 5]), expected) <= 1e-9
        fresh.close()
        sequence.rewind(back)
        rows.clear()


@pytest.mark.parametrize("name", RECURRENT[:2])
def test_a_checkpoint_before_what_may_be_taken_back(name: str) -> None:
    engine = opened(name, checkpoint_every=512)
    sequence = engine.sequence()
    sequence.read(tokens(30))
    sequence.checkpoint()
    expected = sequence.read(tokens(3, 1))
    sequence.read(tokens(5, 2))
    assert sequence.holds(30)
    assert sequence.rewind(30) == 0
    np.testing.assert_array_equal(sequence.read(tokens(3, 1)), expected)


def test_a_conversation_reads_every_token_once(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = opened("qwen35moe")
    rows, sequence, n = counted(engine, monkeypatch), engine.sequence(), 0
    for turn in range(8):
        engine.step([(sequence, tokens(20, turn), 1)])
        for i in range(5):
            engine.step([(sequence, tokens(1, i), 1)])
        n += 25
    assert sum(rows) == n == sequence.n_past


@pytest.mark.parametrize("name", RECURRENT[:3])
def test_a_fork_has_a_state_of_its_own(name: str) -> None:
    engine = opened(name)
    a = engine.sequence()
    a.read(tokens(40))
    b = a.fork()
    of_a, of_b = engine.step([(a, [5, 6], 2), (b, [7], 1)])
    c = engine.sequence()
    assert nmse(engine.step([(c, [*tokens(40), 5, 6], 2)])[0], of_a) <= 1e-9
    c.rewind(0)
    assert nmse(engine.step([(c, [*tokens(40), 7], 1)])[0], of_b) <= 1e-9
    assert b.rewind(40) == 0
    assert nmse(engine.step([(b, [7], 1)])[0], of_b) <= 1e-9


def test_slots_begin_anew() -> None:
    """A state is not cleared: a token at position 0 begins with zeros."""
    engine = opened("mamba2", n_parallel=1)
    first = engine.sequence()
    expected = first.read(tokens(20))
    first.close()
    np.testing.assert_array_equal(engine.sequence().read(tokens(20)), expected)


def test_copies_inside_of_a_device_bring_nothing_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = opened("qwen35moe", devices=("sim:rtx4090",))
    schedules, compiled = list[Schedule](), engine.runtime.compile

    def compile(plan: Schedule, *args: Any) -> Executable:
        schedules.append(plan)
        return compiled(plan, *args)

    monkeypatch.setattr(engine.runtime, "compile", compile)
    a = engine.sequence()
    a.read(tokens(40))
    schedules.clear()
    engine.step([(a.fork(), [5], 1), (a, [6], 1)])
    copies = [s for s in schedules if any(n.op is Op.COPY_ROWS for n in s.graph.nodes)]
    assert len(copies) == 2  # of states, of blocks
    assert {c.from_device for s in copies for c in s.copies} == {"CPU"}
    assert not any(c.source.kind == "cache" for s in copies for c in s.copies)
