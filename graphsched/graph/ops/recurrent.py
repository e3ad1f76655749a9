"""Ops with recurrent state: short convolution, gated delta rule, selective scan.

`state` [slots, ...] has a row per slot. where [tokens, 2 or more] begins with (slot, position) of each token: a token
reads and changes the row of its slot, one after the other, and begins with zeros where its position is 0. Tokens of one
sequence stand next to each other, at consecutive positions.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from graphsched.graph.opdef import WEIGHT, Array, Case, Draw, Op, as_f32, case, op, require
from graphsched.graph.tensor import Tensor, TensorType, f32, i32


def runs(where: Array) -> Iterator[tuple[int, slice, bool]]:
    """(slot, rows, whether it begins with zeros) of each stretch of tokens of one sequence."""
    slots, fresh = where[:, 0], where[:, 1] == 0
    first = np.flatnonzero(np.concatenate([[True], (slots[1:] != slots[:-1]) | fresh[1:]])[: len(slots)])
    for start, stop in zip(first, [*first[1:], len(slots)], strict=True):
        yield int(slots[start]), slice(int(start), int(stop)), bool(fresh[start])


def _state_of(state: Array, slot: int, is_fresh: bool) -> Array:
    """The state that a stretch of tokens begins with, in float64."""
    return np.zeros(state.shape[1:]) if is_fresh else state[slot].astype(np.float64)


def _require_where(name: str, where: Tensor, n_tokens: int) -> None:
    fits = len(where.shape) == 2 and where.shape[0] == n_tokens and where.shape[1] >= 2
    require(fits, "{}: {} does not say (slot, position) of {} tokens", name, where, n_tokens)


def _passes(state: TensorType, n_tokens: int) -> int:
    """Bytes of reading and writing the rows of state of as many sequences as there are tokens, or slots if fewer."""
    return 2 * state.nbytes // int(state.shape[0]) * min(int(n_tokens), int(state.shape[0]))


def sequences(types: Mapping[str, TensorType], rng: np.random.Generator) -> Array:
    """(slot, position, ...) of the tokens of up to three sequences; the second one begins with these tokens."""
    (n, width), slots = types["where"].shape, int(types["state"].shape[0])
    lengths = [n - n // 3 - n // 5, n // 3, n // 5][:slots]
    lengths[0] = n - sum(lengths[1:])
    where = np.zeros((n, width), np.int32)
    where[:, 0] = np.repeat(rng.permutation(slots)[: len(lengths)], lengths)
    where[:, 1] = np.concatenate([p + np.arange(m) for p, m in zip((11, 0, 5), lengths, strict=False)])
    return where


def _negative(name: str) -> Draw:
    """Below 0: from hardly any decay to one that leaves nothing."""

    def draw(types: Mapping[str, TensorType], rng: np.random.Generator) -> Array:
        return as_f32(-np.exp(2.0 * rng.standard_normal(types[name].shape) - 1.0))

    return draw


@op(Op.SSM_CONV, updates="state", named_by_weight=False, label="conv_output")
def ssm_conv(state: Tensor, x: Tensor, w: Tensor, where: Tensor) -> TensorType:
    """y[t, c] = Σ_i w[c, i] · x[t - K + 1 + i, c]; state [slots, K - 1, C] has the rows before the first token"""
    require(len(x.shape) == len(w.shape) == 2, "ssm_conv: {}, {} need two dimensions", x, w)
    require(w.shape[0] == x.shape[1] and w.shape[1] > 1, "ssm_conv: {} does not fit {}", w, x)
    fits = state.shape[1:] == (w.shape[1] - 1, w.shape[0])
    require(fits, "ssm_conv: state {} does not fit {}", state, w)
    _require_where("ssm_conv", where, x.shape[0])
    return x.type


@ssm_conv.reference
def _(state: Array, x: Array, w: Array, where: Array) -> Array:
    y, k = np.empty(x.shape, np.float32), w.shape[1]
    for slot, rows, is_fresh in runs(where):
        n = rows.stop - rows.start
        padded = np.concatenate([_state_of(state, slot, is_fresh), x[rows]])
        y[rows] = sum(padded[i : i + n] * w[:, i] for i in range(k))
        state[slot] = padded[n:]
    return y


@ssm_conv.flops
def _(state: TensorType, x: TensorType, w: TensorType, where: TensorType) -> int:
    return 2 * x.numel * w.shape[1]


@ssm_conv.nbytes
def _(state: TensorType, x: TensorType, w: TensorType, where: TensorType) -> int:
    return 2 * x.nbytes + w.nbytes + where.nbytes + _passes(state, x.shape[0])


ssm_conv.draw(w=WEIGHT, where=sequences)


@ssm_conv.cases
def _() -> Iterator[Case]:
    for n, channels, k in ((1, 48, 4), (2, 33, 4), (9, 96, 4), (23, 40, 3), (5, 16, 2), (40, 2080, 4)):
        yield case(f32(4, k - 1, channels), f32(n, channels), f32(channels, k), i32(n, 3))
    yield case(f32(1, 3, 64), f32(7, 64), f32(64, 4), i32(7, 2))


@op(Op.GATED_DELTA_NET, updates="state", label="attn_output")
def gated_delta_net(
    state: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    where: Tensor,
    *,
    tiled: bool = False,
) -> TensorType:
    """S = e^g · S; S += β (v - S·k) kᵀ; y = S·q / sqrt(dk) per head, with g per head or per element of k

    Value head h reads query and key head h // (Hv / Hk), or h % Hk if `tiled`. state: S [slots, Hv, dv, dk].
    """
    require(len(q.shape) == len(v.shape) == 3, "gated_delta_net: {}, {} need three dimensions", q, v)
    require(k.shape == q.shape and v.shape[0] == q.shape[0], "gated_delta_net: {}, {} do not fit {}", k, v, q)
    (n, n_value, dv), (n_key, dk) = v.shape, q.shape[1:]
    require(n_value % n_key == 0, "gated_delta_net: {} value heads do not share {} keys", n_value, n_key)
    require(state.shape[1:] == (n_value, dv, dk), "gated_delta_net: state {} does not fit {}", state, v)
    fits = g.shape in ((n, n_value), (n, n_value, dk)) and beta.shape == (n, n_value)
    require(fits, "gated_delta_net: {}, {} do not fit {}", g, beta, v)
    _require_where("gated_delta_net", where, n)
    return v.type


@gated_delta_net.reference
def _(
    state: Array,
    q: Array,
    k: Array,
    v: Array,
    g: Array,
    beta: Array,
    where: Array,
    *,
    tiled: bool = False,
) -> Array:
    heads, y = np.arange(v.shape[1]), np.empty(v.shape, np.float32)
    of = heads % q.shape[1] if tiled else heads // (len(heads) // q.shape[1])
    q, k, v = (x.astype(np.float64) for x in (q[:, of] / np.sqrt(np.float64(q.shape[2])), k[:, of], v))
    decay = np.exp(g.astype(np.float64)).reshape(*g.shape[:2], 1, -1)
    for slot, rows, is_fresh in runs(where):
        s = _state_of(state, slot, is_fresh)
        for t in range(rows.start, rows.stop):
            s *= decay[t]
            change = beta[t, :, None] * (v[t] - np.einsum("hvk,hk->hv", s, k[t]))
            s += change[:, :, None] * k[t][:, None, :]
            y[t] = np.einsum("hvk,hk->hv", s, q[t])
        state[slot] = s
    return y


@gated_delta_net.flops
def _(
    state: TensorType, q: TensorType, k: TensorType, v: TensorType, *_: TensorType, tiled: bool = False
) -> int:
    return 7 * v.numel * q.shape[2]


@gated_delta_net.nbytes
def _(state: TensorType, q: TensorType, *others: TensorType, tiled: bool = False) -> int:
    v = others[1]
    return q.nbytes + sum(t.nbytes for t in others) + v.nbytes + _passes(state, q.shape[0])


def _unit(types: Mapping[str, TensorType], rng: np.random.Generator) -> Array:
    """Keys of length 1, as models have them: a longer one lets the state grow without bound."""
    k = rng.standard_normal(types["k"].shape)
    return as_f32(k / np.linalg.norm(k, axis=-1, keepdims=True))


def _shares(types: Mapping[str, TensorType], rng: np.random.Generator) -> Array:
    return as_f32(rng.random(types["beta"].shape))


gated_delta_net.draw(k=_unit, g=_negative("g"), beta=_shares, where=sequences)


@gated_delta_net.cases
def _() -> Iterator[Case]:
    for n, n_key, n_value, dk, dv in (
        (1, 2, 4, 32, 32),
        (1, 1, 1, 24, 40),
        (5, 2, 6, 33, 17),
        (40, 2, 4, 64, 64),
        (150, 1, 2, 128, 128),
        (70, 2, 2, 20, 36),
    ):
        state, qk, v, head = f32(4, n_value, dv, dk), f32(n, n_key, dk), f32(n, n_value, dv), f32(n, n_value)
        for g in (head, f32(n, n_value, dk)):
            yield case(state, qk, qk, v, g, head, i32(n, 3), tiled=False)
        if n_key > 1:
            yield case(state, qk, qk, v, head, head, i32(n, 3), tiled=True)
    qk, head = f32(9, 2, 32), f32(9, 2)
    yield case(f32(1, 2, 32, 32), qk, qk, qk, head, head, i32(9, 2))


@op(Op.SSM_SCAN, updates="state", named_by_weight=False, label="ssm_scan")
def ssm_scan(
    state: Tensor, x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, where: Tensor
) -> TensorType:
    """δ = softplus(dt); S = e^(δ·a) · S + δ · x bᵀ; y = S·c per head, with a per head or per element of b

    Head h reads group h // (H / G) of b and c. state: S [slots, H, P, N].
    """
    require(len(x.shape) == len(b.shape) == 3, "ssm_scan: {}, {} need three dimensions", x, b)
    (n, heads, width), (groups, n_state) = x.shape, b.shape[1:]
    require(c.shape == b.shape and b.shape[0] == n, "ssm_scan: {}, {} do not fit {}", b, c, x)
    require(heads % groups == 0, "ssm_scan: {} heads do not share {} groups", heads, groups)
    require(state.shape[1:] == (heads, width, n_state), "ssm_scan: state {} does not fit {}", state, x)
    fits = dt.shape == (n, heads) and a.shape in ((heads, 1), (heads, n_state))
    require(fits, "ssm_scan: {}, {} do not fit {}", dt, a, x)
    _require_where("ssm_scan", where, n)
    return x.type


@ssm_scan.reference
def _(state: Array, x: Array, dt: Array, a: Array, b: Array, c: Array, where: Array) -> Array:
    group, y = x.shape[1] // b.shape[1], np.empty(x.shape, np.float32)
    b, c = (np.repeat(m, group, axis=1).astype(np.float64)[:, :, None] for m in (b, c))
    step = dt.astype(np.float64)
    step = np.where(step > 20.0, step, np.log1p(np.exp(np.minimum(step, 20.0))))[:, :, None]
    decay = np.exp(step * a)[:, :, None]
    for slot, rows, is_fresh in runs(where):
        s = _state_of(state, slot, is_fresh)
        for t in range(rows.start, rows.stop):
            s = s * decay[t] + (step[t] * x[t])[:, :, None] * b[t]
            y[t] = (s * c[t]).sum(axis=-1)
        state[slot] = s
    return y


@ssm_scan.flops
def _(state: TensorType, x: TensorType, *_: TensorType) -> int:
    return 6 * x.numel * state.shape[3]


@ssm_scan.nbytes
def _(state: TensorType, x: TensorType, *others: TensorType) -> int:
    return 2 * x.nbytes + sum(t.nbytes for t in others) + _passes(state, x.shape[0])


ssm_scan.draw(a=_negative("a"), where=sequences)


@ssm_scan.cases
def _() -> Iterator[Case]:
    for n, heads, width, groups, n_state in (
        (1, 4, 16, 2, 32),
        (1, 3, 1, 1, 16),
        (5, 6, 9, 3, 33),
        (40, 4, 64, 2, 128),
        (150, 2, 32, 1, 64),
    ):
        state, x, dt = f32(4, heads, width, n_state), f32(n, heads, width), f32(n, heads)
        bc = f32(n, groups, n_state)
        for a in (f32(heads, 1), f32(heads, n_state)):
            yield case(state, x, dt, a, bc, bc, i32(n, 3))
