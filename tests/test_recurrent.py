"""Recurrent state: who changes it, what a sequence in it depends on, how it is checked and counted."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from running import nmse

from graphsched.arch.inputs import Inputs
from graphsched.arch.weights import Weights
from graphsched.check.invariants import ValidationError
from graphsched.check.validate import Validated, validated
from graphsched.graph.graph import Graph, from_outputs
from graphsched.graph.ops import add, gated_delta_net, l2_norm, ssm_conv, ssm_scan
from graphsched.graph.tensor import Extent, Tensor, f32, i32, input_tensor, is_state
from graphsched.predict.plan import memory_kind
from graphsched.run.device import Setup
from graphsched.run.executable import Executable
from graphsched.run.runnable import PlanFactory
from graphsched.run.runtime import Runtime, open_runtime
from graphsched.schedule.assign import Target, assign
from graphsched.schedule.policy import OffloadPolicy
from graphsched.schedule.scheduler import whole
from graphsched.session.summary import kv_bytes_per_token, state_bytes_per_sequence
from graphsched.types import dtypes
from graphsched.types.devices import HOST

Array = NDArray[Any]
SLOTS, TOKENS, CHANNELS, WIDTH = 3, 60, 40, 32
# Runs of several sequences: of each its seed, its slot, and how many tokens.
PIECES = (
    [(1, 0, 5)],
    [(2, 2, 7), (1, 0, 1)],
    [(1, 0, 1), (3, 1, 6), (2, 2, 1)],
    [(3, 1, 6), (2, 2, 4), (1, 0, 2)],
)


def state(name: str, *shape: int) -> Tensor:
    return Tensor(f32(SLOTS, *shape), "cache", f"blk.0.{name}")


def mixer(n: int = TOKENS) -> Graph:
    """A convolution, a delta rule over its result, and a scan over that, summed."""
    rows = Extent(n, "n_tokens")
    where, x = input_tensor("where", i32(rows, 3)), input_tensor("x", f32(rows, CHANNELS))
    w, head = input_tensor("w", f32(CHANNELS, 4)), input_tensor("decay", f32(rows, 2))
    y = ssm_conv(state("cache_r", 3, CHANNELS), x, w, where)
    wide = input_tensor("wide", f32(rows, 2, WIDTH))
    keys = l2_norm(wide, eps=1e-6)
    read = gated_delta_net(state("cache_s", 2, WIDTH, WIDTH), wide, keys, wide, head, head, where)
    a = input_tensor("a", f32(2, 1))
    seen = ssm_scan(state("cache_t", 2, WIDTH, WIDTH), read, head, a, keys, keys, where)
    return from_outputs(y, add(read, seen))


class Mixer:
    """The mixer on a backend; numbers of a token depend on its sequence's seed and its position."""

    def __init__(self, backend: str, threads: int = 1) -> None:
        self.runtime: Runtime = open_runtime(
            backend, Setup({}, n_threads=threads, capacities={"n_tokens": TOKENS})
        )
        self.graph = self.runtime.in_kernel_types(mixer())
        self.compiled: Executable = self.runtime.compile(whole(self.graph))
        self.inputs = {
            leaf.name: self.runtime.input(leaf) for leaf in self.graph.leaves if leaf.kind == "input"
        }
        self.inputs["w"][:] = noise("w", 0, CHANNELS, 4)
        self.inputs["a"][:] = -1.0

    def feed(self, rows: Sequence[tuple[int, int, int]]) -> None:
        """Rows of (seed of the sequence, slot, position)."""
        for i, (seed, slot, position) in enumerate(rows):
            self.inputs["where"][i] = slot, position, 0
            for name in ("x", "wide", "decay"):
                drawn = noise(f"{name}{position}", seed, *self.inputs[name].shape[1:])
                self.inputs[name][i] = -abs(drawn) if name == "decay" else drawn

    def run(self, rows: Sequence[tuple[int, int, int]]) -> list[Array]:
        self.feed(rows)
        self.compiled.run({"n_tokens": len(rows)})
        return [np.concatenate([o[i].reshape(-1) for o in self.compiled.outputs]) for i in range(len(rows))]


def noise(name: str, seed: int, *shape: int) -> Array:
    return np.random.default_rng([seed, *name.encode()]).standard_normal(shape).astype(np.float32)


def alone(backend: str, seed: int, n: int, threads: int = 1) -> list[Array]:
    """The results of a sequence's tokens, one after the other."""
    made = Mixer(backend, threads)
    return [made.run([(seed, 0, p)])[0] for p in range(n)]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_sequence_is_the_same_alone_and_among_others(threads: int) -> None:
    """Prompts in pieces beside single tokens of others, in any slots, one of them used before."""
    expected = {seed: alone("cpu", seed, 12) for seed in (1, 2, 3)}
    together = Mixer("cpu", threads)
    got: dict[int, list[Array]] = {1: [], 2: [], 3: []}
    together.run([(9, 2, p) for p in range(5)])  # another conversation was in this slot
    for pieces in (
        [(1, 0, 5)],
        [(2, 2, 7), (1, 0, 1)],
        [(1, 0, 1), (3, 1, 6), (2, 2, 1)],
        [(3, 1, 6), (2, 2, 4), (1, 0, 2)],
    ):
        rows = [(seed, slot, len(got[seed]) + i) for seed, slot, n in pieces for i in range(n)]
        for (seed, _, _), result in zip(rows, together.run(rows), strict=True):
            got[seed].append(result)
    for seed, results in got.items():
        for result, right in zip(results, expected[seed], strict=False):
            np.testing.assert_array_equal(result, right)


def test_chunks_depend_on_their_own_sequence_only() -> None:
    """Of runs that begin anywhere, and end in the middle of a chunk."""
    expected = []
    for seed, cuts in ((1, (0, 19, 40)), (2, (0, 33, 36))):
        made = Mixer("cpu")
        expected.append([made.run([(seed, 0, p) for p in range(*cut)]) for cut in pairwise(cuts)])
    together = Mixer("cpu", threads=2)
    for turn, (first, second) in enumerate(((19, 33), (21, 3))):
        starts = (0, 0) if turn == 0 else (19, 33)
        rows = [(1, 2, starts[0] + i) for i in range(first)] + [(2, 0, starts[1] + i) for i in range(second)]
        for got, right in zip(together.run(rows), expected[0][turn] + expected[1][turn], strict=True):
            np.testing.assert_array_equal(got, right)


def test_chunks_are_what_their_tokens_are_one_by_one() -> None:
    together = Mixer("cpu").run([(6, 1, p) for p in range(50)])
    for got, right in zip(together, alone("cpu", 6, 50), strict=True):
        assert nmse(got, right) < 1e-11


def test_kernels_agree_with_references_over_many_runs() -> None:
    for got, right in zip(alone("cpu", 4, 20), alone("reference", 4, 20), strict=True):
        assert nmse(got, right) < 1e-11


def checked(made: Mixer) -> Validated:
    factory = PlanFactory(whole, made.runtime.compile, made.runtime.input, {}, {}, lambda: False)
    return validated(made.compiled, made.compiled, made.graph, factory)


@pytest.fixture(params=["cpu", "reference"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_validation_follows_the_state(backend: str) -> None:
    made = Mixer(backend)
    plan, plain = checked(made), alone(backend, 5, 3)
    for p in range(3):
        made.feed([(5, 0, p)])
        plan.run({"n_tokens": 1})
        np.testing.assert_array_equal(np.concatenate([o.reshape(-1) for o in plan.outputs]), plain[p])


def test_validation_finds_state_that_was_changed(backend: str) -> None:
    made = Mixer(backend)
    plan = checked(made)
    made.feed([(5, 0, 0)])
    plan.run({"n_tokens": 1})
    for leaf in filter(is_state, made.graph.leaves):
        made.runtime.input(leaf)[:] += 1.0
    made.feed([(5, 0, 1)])
    with pytest.raises(ValidationError, match="is another where no memory is used twice"):
        plan.run({"n_tokens": 1})


def test_validation_finds_an_op_that_reads_state_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    made, right = Mixer("cpu"), ssm_conv.run_reference
    assert right is not None
    plan = checked(made)
    made.feed([(5, 0, 1)])
    plan.run({"n_tokens": 1})
    monkeypatch.setattr(ssm_conv, "run_reference", lambda s, *rest: right(np.roll(s, 1, 1), *rest))
    made.feed([(5, 0, 2)])
    with pytest.raises(ValidationError, match=r"node blk\.0\.conv_output \(SSM_CONV\) differs"):
        plan.run({"n_tokens": 1})


def always(home: str, leaf: Tensor) -> str:
    return home


def test_ops_run_where_their_state_lives() -> None:
    graph = mixer()
    for home in ("dev", HOST):
        target = Target(("dev", HOST), partial(always, home), lambda on, node: True, OffloadPolicy(), {})
        assignment = assign(graph, target)
        ops = [n for n in graph.nodes if n.traits.updates]
        assert [assignment.device[n] for n in ops] == [home] * 3
        assert {assignment.cause[n] for n in ops} == {"1.dst"}


def test_state_is_a_row_per_slot() -> None:
    inputs = Inputs(TOKENS, 1, 64, (dtypes.F16, dtypes.F16), n_slots=5)
    blk = Weights({}, "x.gguf", n_layer=3).blk[2]
    made = inputs.state(blk, "cache_s", 4, 32, 32)
    assert (made.name, made.kind, made.type) == ("blk.2.cache_s", "cache", f32(5, 4, 32, 32))
    assert is_state(made)
    assert memory_kind(made) == "state"
    keys = input_tensor("k", f32(TOKENS, 2, 32))
    stored, _ = inputs.cache(blk, keys, keys)
    assert memory_kind(stored.sources[0]) == "kv"


def test_state_counts_by_sequence_and_not_by_token() -> None:
    graph = mixer()
    assert kv_bytes_per_token(graph) == 0
    assert state_bytes_per_sequence(graph) == 4 * (3 * CHANNELS + 2 * 2 * WIDTH * WIDTH)
