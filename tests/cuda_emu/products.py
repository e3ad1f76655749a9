"""Cases of matmul.cu, floats.cu, moe.cu, gemm.cu and gemm_q8.cu."""

from collections.abc import Iterator
from dataclasses import asdict

import numpy as np

from cuda_emu.activations import ACTIVATIONS
from cuda_emu.values import Array, Case, Out, Result, Run, Target, narrow, normal, quantised, tensor, widen
from graphsched.backends.cuda.families import copy, elementwise, gemm, matmul, moe
from graphsched.backends.cuda.families import rows as row_kernels
from graphsched.backends.cuda.launch.call import Call
from graphsched.backends.cuda.launch.layout import LAYOUTS
from graphsched.graph import ops

ROUTES = (
    (64, 6, False, moe.Routing()),
    (128, 8, False, moe.Routing(least=2.0)),
    (5, 5, False, moe.Routing("softmax", by=2.5)),
    (37, 4, False, moe.Routing("softmax_weight")),
    (128, 1, False, moe.Routing("sigmoid_weight")),
    (40, 32, True, moe.Routing("sigmoid", least=0.5)),
    (256, 8, True, moe.Routing("sigmoid", 8, 4, 6e-5, 2.5)),
    (480, 6, True, moe.Routing("sigmoid", 32, 5)),
    (512, 10, False, moe.Routing("softmax", least=6e-5)),
)


def matvec_case(kind: str, tokens: int, rows: int, k: int, sms: int) -> Run:
    def run(target: Target, rng: np.random.Generator) -> Result:
        w, values = tensor(kind, rows, k, rng)
        q, ds, x = quantised(normal(rng, tokens, k))
        y = Out(tokens, rows)
        target.run(matmul.matvec(kind, w, q, ds, y, tokens, rows, k, sms))
        return y.array, x @ values.T.astype(np.float64), 1e-6

    return run


FUSED = (70, 33, 5)  # rows


def fused_case(kind: str, k: int, sms: int) -> Run:
    """Three matrices in one launch, and gate and up in one: the bits of a launch each."""

    def run(target: Target, rng: np.random.Generator) -> Result:
        q, ds, _ = quantised(normal(rng, 1, k))
        ws = [tensor(kind, n, k, rng)[0] for n in (*FUSED, FUSED[0])]
        ys, alone = ([Out(n) for n in (*FUSED, FUSED[0])] for _ in range(2))
        for w, y in zip(ws, alone, strict=True):
            target.run(matmul.matvec(kind, w, q, ds, y, 1, len(y.array), k, sms))
        target.run(matmul.matvec_fused(kind, list(zip(ws, ys, FUSED, strict=False)), q, ds, k, sms))
        up, gate, last = ws[0], ws[3], FUSED[0]
        target.run(moe.up_gate(kind, up, gate, None, q, ds, ys[3], (1, 1, 1), last, k, "relu2", sms))
        return both(ys, alone)

    return run


def fused_floats_case(kind: str, k: int, sms: int) -> Run:
    def run(target: Target, rng: np.random.Generator) -> Result:
        x = normal(rng, 1, -(-k // 4) * 4)
        ws = [padded(normal(rng, n, k), kind) for n in (*FUSED, FUSED[0])]
        ys, alone = ([Out(n) for n in (*FUSED, FUSED[0])] for _ in range(2))
        for w, y in zip(ws, alone, strict=True):
            n = len(y.array)
            target.run(matmul.matvec_floats(kind, w, x, y, 1, n, k, x.shape[1], sms))
        target.run(matmul.matvec_fused_floats(kind, list(zip(ws, ys, FUSED, strict=False)), x, k, sms))
        target.run(matmul.up_gate_floats(kind, ws[0], ws[3], x, ys[3], FUSED[0], k, "relu2", sms))
        return both(ys, alone)

    return run


def both(ys: list[Out], alone: list[Out]) -> Result:
    """Of three products, and of up (the first) times the square of what of gate is above 0."""
    up, gate = alone[0].array, np.maximum(alone[3].array, 0)
    want = [*(y.array for y in alone[:3]), gate * gate * up]
    return np.concatenate([y.array for y in ys]), np.concatenate(want), 0.0


def padded(w: Array, kind: str) -> Array:
    """Float weights with rows of whole 16-byte pieces."""
    per = matmul.FLOATS[kind]
    return np.pad(narrow(w, kind), ((0, 0), (0, -w.shape[1] % per)))


def floats_case(kind: str, tokens: int, rows: int, k: int) -> Run:
    def run(target: Target, rng: np.random.Generator) -> Result:
        w, stride = normal(rng, rows, k), -(-k // 4) * 4
        x, y = normal(rng, tokens, stride), Out(tokens, rows)
        target.run(matmul.matvec_floats(kind, padded(w, kind), x, y, tokens, rows, k, stride))
        return y.array, x[:, :k].astype(np.float64) @ widen(narrow(w, kind), kind).T, 1e-6

    return run


def route_case(n_expert: int, used: int, biased: bool, how: moe.Routing) -> Run:
    def run(target: Target, rng: np.random.Generator) -> Result:
        logits, bias = normal(rng, 3, n_expert), normal(rng, n_expert) if biased else None
        logits[1, :4] = 9.0  # equal ranks: the lower id first
        ids, weights = Out(3, used, dtype=np.int32), Out(3, used)
        target.run(moe.route(logits, bias, ids, weights, 3, n_expert, used, how))
        ids_apart, weights_apart = routed_apart(target, logits, bias, used, how)
        assert np.array_equal(ids.array, ids_apart)
        assert np.array_equal(weights.array, weights_apart)
        given = [logits] if bias is None else [logits, bias]
        assert ops.topk_moe.run_reference is not None
        want = ops.topk_moe.run_reference(*given, k=used, **asdict(how))
        assert np.array_equal(ids.array, want[:, :used].astype(np.int32))
        return weights.array, want[:, used:], 1e-6

    return run


def routed_apart(
    target: Target, logits: Array, bias: Array | None, used: int, how: moe.Routing
) -> list[Array]:
    """The same, a launch for each step."""
    (n, width), of_all = logits.shape, not how.gating.endswith("weight")
    flat = ((width, 0), (width, 0))

    def gated(x: Array, k: int) -> Array:
        y = Out(n, k)
        if how.gating.startswith("softmax"):
            target.run(row_kernels.soft_max(x, y, n, k))
        else:
            target.run(elementwise.unary("sigmoid", x, y, (n, 1, k), ((k, 0), (k, 0))))
        return y.array

    probs = gated(logits, width) if of_all else logits
    rank = Out(n, width)
    rank.array[:] = probs
    if bias is not None:
        target.run(elementwise.broadcast("add", probs, bias, rank, (n, 1, width), (flat[0], (0, 0), flat[0])))
    groups = (how.n_group, how.n_group_used) if how.n_group > 1 else (0, 0)
    ids, found = Out(n, used, dtype=np.int32), Out(n, used)
    target.run(row_kernels.top_k(rank.array, ids, n, width, used, *groups))
    target.run(copy.choose(probs, ids.array, found, (n, used, 1), width, (width, 1)))
    weights = found.array if of_all else gated(found.array, used)
    if how.least is not None:
        total, bound, share, own = Out(n, 1), Out(n, 1), Out(n, used), (used, 0)
        target.run(row_kernels.sum_rows(weights, total, n, used))
        limits = (how.least, float("inf"))
        target.run(elementwise.unary("clamp", total.array, bound, (n, 1, 1), ((1, 0), (1, 0)), limits))
        target.run(
            elementwise.broadcast("divide", weights, bound.array, share, (n, 1, used), (own, (1, 0), own), 0)
        )
        weights = share.array
    scaled = Out(n, used)
    target.run(elementwise.scale(weights, scaled, n, used, (used, used), how.by))
    return [ids.array, scaled.array]


def experts(kind: str, n: int, rows: int, k: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """n experts one after the other, and their values."""
    both = [tensor(kind, rows, k, rng) for _ in range(n)]
    return np.concatenate([p for p, _ in both]), np.stack([v for _, v in both])


def expert_case(kind: str, per_slot: bool) -> Run:
    def run(target: Target, rng: np.random.Generator) -> Result:
        tokens, used, n_expert, rows, k = 2, 3, 4, 7, 768
        w, values = experts(kind, n_expert, rows, k, rng)
        ids = np.array([[2, 0, 9], [1, -1, 2]], np.int32)  # 9 and -1: zero rows
        q, ds, x = quantised(normal(rng, tokens * used if per_slot else tokens, k))
        y = Out(tokens, used, rows)
        target.run(moe.matvec_id(kind, w, ids, q, ds, y, (tokens, used, n_expert), rows, k, per_slot))
        xs = x.reshape(tokens, used, k) if per_slot else x[:, None].repeat(used, 1)
        keep = ((ids >= 0) & (ids < n_expert))[..., None]
        return y.array, np.einsum("terk,tek->ter", values[ids.clip(0, 3)].astype(np.float64), xs) * keep, 1e-6

    return run


def grouped_case(kind: str, tokens: int, per_slot: bool) -> Run:
    def run(target: Target, rng: np.random.Generator) -> Result:
        used, n_expert, rows, k = 3, 5, 70, 256
        w, values = experts(kind, n_expert, rows, k, rng)
        ids = rng.integers(-1, n_expert + 1, (tokens, used)).astype(
            np.int32
        )  # both ends out of range: zero rows
        q, ds, x = quantised(normal(rng, tokens * used if per_slot else tokens, k))
        order, starts = Out(tokens * used, dtype=np.int32), Out(n_expert + 2, dtype=np.int32)
        y, shape = Out(tokens, used, rows), (tokens, used, n_expert)
        target.run(
            moe.group(ids, order, starts, tokens * used, n_expert),
            gemm.gemm_q8_id(kind, w, order, starts, q, ds, y, shape, rows, k, per_slot),
        )
        keep = (ids >= 0) & (ids < n_expert)
        assert (order.array == np.argsort(np.where(keep, ids, n_expert).ravel(), kind="stable")).all()
        xs = x.reshape(tokens, used, k) if per_slot else x[:, None].repeat(used, 1)
        want = np.einsum("terk,tek->ter", values[ids.clip(0, n_expert - 1)].astype(np.float64), xs)
        return y.array, want * keep[..., None], 1e-6

    return run


def up_gate_case(kind: str, activation: str, dense: bool) -> Run:
    def run(target: Target, rng: np.random.Generator) -> Result:
        tokens, used, n_expert, rows, k = 2, 1 if dense else 2, 1 if dense else 3, 5, 512
        up, up_values = experts(kind, n_expert, rows, k, rng)
        gate, gate_values = experts(kind, n_expert, rows, k, rng)
        ids = np.array([[0, 2], [1, 0]], np.int32)
        q, ds, x = quantised(normal(rng, tokens, k) * 0.05)
        y, shape = Out(tokens, used, rows), (tokens, used, n_expert)
        target.run(moe.up_gate(kind, up, gate, None if dense else ids, q, ds, y, shape, rows, k, activation))
        which = np.zeros((tokens, 1), np.int32) if dense else ids
        u = np.einsum("terk,tk->ter", up_values[which].astype(np.float64), x)
        g = np.einsum("terk,tk->ter", gate_values[which].astype(np.float64), x)
        return y.array, ACTIVATIONS[activation](g) * u, 2e-6

    return run


def gemm_case(kind: str, tile: tuple[int, int], m: int, n: int, k: int) -> Run:
    def run(target: Target, rng: np.random.Generator) -> Result:
        x, w, y = narrow(normal(rng, m, k), kind), narrow(normal(rng, n, k), kind), Out(m, n)
        grid = (-(-m // tile[0]), -(-n // tile[1]))
        name = f"gemm_{kind}_{tile[0]}_{tile[1]}"
        target.run(Call("gemm", (), name, grid, 256, (x, w, y, m, n, k), gemm.gemm_shared(tile)))
        return (
            y.array,
            widen(x, kind).astype(np.float64) @ widen(w, kind).T.astype(np.float64),
            1e-5,
        )  # tensor cores cut off bits when they add

    return run


def gemm_q8_case(kind: str, m: int, n: int, k: int) -> Run:
    def run(target: Target, rng: np.random.Generator) -> Result:
        w, values = tensor(kind, n, k, rng)
        q, ds, x = quantised(normal(rng, m, k))
        y = Out(m, n)
        target.run(gemm.gemm_q8(kind, w, q, ds, y, m, n, k))
        return y.array, x @ values.T.astype(np.float64), 1e-6

    return run


def products() -> Iterator[Case]:
    for kind in LAYOUTS:
        for tokens, rows, k, sms in (
            (1, 5, 512, 132),
            (1, 9, 4352, 132),
            (2, 7, 768, 1),
            (3, 6, 4352, 132),
            (8, 5, 256, 1),
        ):
            yield Case(f"matvec-{kind}-{tokens}x{rows}x{k}", matvec_case(kind, tokens, rows, k, sms))
        for per_slot in (False, True):
            yield Case(f"matvec_id-{kind}{'-per_slot' * per_slot}", expert_case(kind, per_slot))
        yield Case(f"up_gate-{kind}", up_gate_case(kind, "silu", False))
    for activation in ACTIVATIONS:
        yield Case(f"up_gate-dense-{activation}", up_gate_case("q8_0", activation, True))
    for kind in matmul.FLOATS:
        for tokens, rows, k in ((1, 3, 4), (1, 9, 5123), (2, 5, 1030), (3, 5, 256), (7, 4, 515)):
            yield Case(f"matvec-{kind}-{tokens}x{rows}x{k}", floats_case(kind, tokens, rows, k))
    for kind in ("q4_0", "q8_0", "q2_k", "q6_k", "iq4_nl", "tq2_0"):
        yield Case(f"matvec-fused-{kind}", fused_case(kind, 4352, 132))
    for kind in matmul.FLOATS:
        yield Case(f"matvec-fused-{kind}", fused_floats_case(kind, 1032, 132))
        yield Case(f"matvec-fused-{kind}-odd", fused_floats_case(kind, 515, 1))
    for n_expert, used, biased, how in ROUTES:
        yield Case(f"route-{how.gating}-{used}of{n_expert}", route_case(n_expert, used, biased, how))


def gemms() -> Iterator[Case]:
    for kind in ("f16", "bf16"):
        for tile in gemm.GEMM_TILES:
            for m, n, k in ((1, 5, 8), (70, 131, 200), (130, 257, 328)):
                yield Case(f"gemm-{kind}-{tile[0]}x{tile[1]}-{m}x{n}x{k}", gemm_case(kind, tile, m, n, k))
    for kind in sorted(LAYOUTS):
        for m, n, k in ((9, 5, 256), (130, 135, 768)):
            yield Case(f"gemm_q8-{kind}-{m}x{n}x{k}", gemm_q8_case(kind, m, n, k))
    for kind, tokens, per_slot in (
        ("q4_0", 9, False), ("q8_0", 150, True), ("iq2_bn", 60, False), ("q2_k", 30, True), ("q6_k", 20, False),
    ):  # fmt: skip
        yield Case(f"gemm_q8_id-{kind}-{tokens}", grouped_case(kind, tokens, per_slot))
    for m, n, k in ((3, 4, 32), (33, 40, 160)):
        yield Case(f"gemm_q8-q4_0-{m}x{n}x{k}", gemm_q8_case("q4_0", m, n, k))
