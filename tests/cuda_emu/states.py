"""Cases of recurrent.cu."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cuda_emu.values import Array, Case, Out, Result, Run, Target, normal
from graphsched.backends.cuda.families import norm, recurrent
from graphsched.graph.ops import gated_delta_net, l2_norm, layer_norm, ssm_conv, ssm_scan

SLOTS = 9
# (position of the first token, how many) of sequences: one that begins, short ones beside a long one, one token
MIXTURES = {
    "one": ((7, 1),),
    "begins": ((0, 40),),
    "several": ((5, 1), (0, 2), (9, 30), (0, 1), (3, 2)),
    "tokens": tuple((p, 1) for p in (4, 0, 9, 1, 2, 8, 3)),
}


def where_of(spans: Sequence[tuple[int, int]]) -> Array:
    """Of sequences in slots that are not in order; the third column is not looked at."""
    rows = [
        (7 - i if i < 7 else 8, p, -1) for i, (first, n) in enumerate(spans) for p in range(first, first + n)
    ]
    return np.array(rows, np.int32)


def padded(x: Array, columns: int) -> Array:
    """x as a part of wider rows, NaN behind it."""
    wide = np.full((len(x), columns), np.nan, np.float32)
    wide[:, : x.shape[1]] = x
    return wide


def both(
    definition: Any, state: Array, operands: Sequence[Array], where: Array, launch: Any, **attrs: Any
) -> Result:
    """Result and state of a launch of all tokens beside the reference's; a sequence has the bits that it has alone.

    launch(state, operands, where, y) computes y from what it is given.
    """

    def computed(rows: slice) -> tuple[Array, Array]:
        kept, y = Out(*state.shape), Out(*result_of(rows))
        kept.array[:] = state
        launch(kept, operands, rows, y)
        return y.array, kept.array

    def result_of(rows: slice) -> tuple[int, ...]:
        first = operands[2] if definition is gated_delta_net else operands[0]
        return (rows.stop - rows.start, *first.shape[1:])

    y, after = computed(slice(0, len(where)))
    slots = where[:, 0]
    for slot in dict.fromkeys(slots.tolist()):
        own = np.flatnonzero(slots == slot)
        alone, its_state = computed(slice(int(own[0]), int(own[-1]) + 1))
        assert np.array_equal(alone, y[own])
        assert np.array_equal(its_state[slot], after[slot])
    want_state = state.copy()
    want = definition.run_reference(want_state, *operands, where, **attrs)
    flat = [np.concatenate([a.reshape(-1), s.reshape(-1)]) for a, s in ((y, after), (want, want_state))]
    return flat[0], flat[1], 2e-6


def conv_case(channels: int, taps: int, spans: Sequence[tuple[int, int]]) -> Run:
    def run(target: Target, rng: np.random.Generator) -> Result:
        where = where_of(spans)
        state, x = normal(rng, SLOTS, taps - 1, channels), normal(rng, len(where), channels)
        w = normal(rng, channels, taps)
        wide, row = padded(x, channels + 5), padded(w, taps + 3)

        def launch(kept: Out, _: Any, rows: slice, y: Out) -> None:
            of = recurrent.Where(where[rows].copy(), rows.stop - rows.start)
            given = kept, wide[rows].copy(), row, y, of, (channels, taps), (channels + 5, taps + 3)
            target.run(recurrent.ssm_conv(*given))

        return both(ssm_conv, state, (x, w), where, launch)

    return run


def delta_case(
    heads: int, keys: int, dk: int, dv: int, by_channel: bool, tiled: bool, spans: Sequence[tuple[int, int]]
) -> Run:
    def run(target: Target, rng: np.random.Generator) -> Result:
        where = where_of(spans)
        n = len(where)
        q, k, v = (normal(rng, n, h, d) for h, d in ((keys, dk), (keys, dk), (heads, dv)))
        k /= np.linalg.norm(k, axis=-1, keepdims=True)
        g = -np.exp(normal(rng, n, heads, *[dk] * by_channel) - 1)
        operands = q, k, v, g, rng.random((n, heads), np.float32)
        state = normal(rng, SLOTS, heads, dv, dk)
        apart = [(int(np.prod(x.shape[1:])), int(np.prod(x.shape[2:]))) for x in operands]

        def launch(kept: Out, given: Sequence[Array], rows: slice, y: Out) -> None:
            of = recurrent.Where(where[rows].copy(), rows.stop - rows.start)
            own = [x[rows].copy() for x in given]
            shape = heads, keys, dk, dv
            target.run(recurrent.gated_delta_net(own, kept, y, of, shape, apart, by_channel, tiled))

        return both(gated_delta_net, state, operands, where, launch, tiled=tiled)

    return run


def scan_case(
    heads: int, width: int, groups: int, n: int, by_channel: bool, spans: Sequence[tuple[int, int]]
) -> Run:
    def run(target: Target, rng: np.random.Generator) -> Result:
        where = where_of(spans)
        tokens, columns = len(where), n if by_channel else 1
        x, b, c = (normal(rng, tokens, *s) for s in ((heads, width), (groups, n), (groups, n)))
        dt, a = normal(rng, tokens, heads) * 9, -np.exp(normal(rng, heads, columns) - 1)
        operands, state = (x, dt, a, b, c), normal(rng, SLOTS, heads, width, n)
        apart = (heads * width, width, heads, 1, columns + 3, groups * n, n, groups * n, n)

        def launch(kept: Out, given: Sequence[Array], rows: slice, y: Out) -> None:
            of = recurrent.Where(where[rows].copy(), rows.stop - rows.start)
            own = [padded(a, columns + 3) if o is a else o[rows].copy() for o in given]
            target.run(recurrent.ssm_scan(own, kept, y, of, (heads, width, groups, n), apart, by_channel))

        return both(ssm_scan, state, operands, where, launch)

    return run


def norm_case(tokens: int, heads: int, k: int) -> Run:
    def run(target: Target, rng: np.random.Generator) -> Result:
        x, y = normal(rng, tokens, heads + 1, k + 2), Out(tokens, heads, k)
        apart = (heads + 1) * (k + 2), k + 2
        target.run(norm.l2_norm(x, y, (tokens, heads, k), apart, 0.1))
        assert l2_norm.run_reference is not None
        return y.array, l2_norm.run_reference(x[:, :heads, :k], eps=0.1), 1e-6

    return run


def layer_norm_case(tokens: int, heads: int, k: int, weighted: bool) -> Run:
    def run(target: Target, rng: np.random.Generator) -> Result:
        x, w, y = normal(rng, tokens, heads + 1, k + 2) + 3, normal(rng, k), Out(tokens, heads, k)
        apart = (heads + 1) * (k + 2), k + 2
        target.run(norm.layer_norm(x, w if weighted else None, y, (tokens, heads, k), apart, 0.1))
        assert layer_norm.run_reference is not None
        want = layer_norm.run_reference(x[:, :heads, :k], eps=0.1)
        return y.array, want * w if weighted else want, 1e-6

    return run


def recurrents() -> Iterator[Case]:
    for name, spans in MIXTURES.items():
        yield Case(f"ssm_conv-{name}", conv_case(70, 4, spans))
        yield Case(f"delta-128-{name}", delta_case(4, 2, 128, 24, False, False, spans))
        yield Case(f"delta-channels-128-{name}", delta_case(2, 2, 128, 17, True, False, spans))
        yield Case(f"ssm_scan-128-{name}", scan_case(4, 9, 2, 128, False, spans))
        yield Case(f"ssm_scan-channels-16-{name}", scan_case(40, 1, 1, 16, True, spans))
    several = MIXTURES["several"]
    for taps in (2, 3, 8):
        yield Case(f"ssm_conv-{taps}-taps", conv_case(300, taps, several))
    for dk in (24, 33, 64, 256, 512):
        yield Case(f"delta-{dk}", delta_case(4, 2, dk, 20, False, True, several))
        yield Case(f"delta-channels-{dk}", delta_case(2, 1, dk, 20, True, False, several))
    for n in (16, 30, 64, 256):
        yield Case(f"ssm_scan-{n}", scan_case(3, 6, 1, n, False, several))
        yield Case(f"ssm_scan-channels-{n}", scan_case(2, 6, 2, n, True, several))
    for k in (33, 128):
        yield Case(f"l2_norm-{k}", norm_case(3, 2, k))
    for k, weighted in ((7, True), (128, False), (5000, True)):
        yield Case(f"layer_norm-{k}", layer_norm_case(3, 2, k, weighted))
