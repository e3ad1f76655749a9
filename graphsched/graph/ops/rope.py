"""Rotary position embedding."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphsched.graph.opdef import Array, Case, Op, as_f32, case, op, require
from graphsched.graph.ops.several import several
from graphsched.graph.tensor import Tensor, TensorType, f32, i32


@dataclass(frozen=True)
class Rope:
    """Which dimensions of a head are rotated in pairs, and how fast.

    `norm` rotates pairs (2i, 2i+1), `neox` (i, i + n_rot/2), of the first n_rot dimensions.
    `magnitude` multiplies cos and sin. YaRN (Peng et al. 2023) with `yarn`: context extended by `factor` over
    `original_context`, in which pairs that rotate beta_fast times or more keep their speed, and those that rotate
    beta_slow times or less are interpolated; otherwise `factor` divides all angles. Positions count as the first of
    each `every`; `back` rotates the other way.
    """

    n_rot: int
    base: float = 10000.0
    mode: str = "norm"
    factor: float = 1.0
    yarn: bool = False
    original_context: int = 0
    magnitude: float = 1.0
    still: tuple[int, ...] = ()  # pairs that are not rotated
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    every: int = 1
    back: bool = False

    def theta(self) -> NDArray[np.float64]:
        """Radians per position of each pair, [n_rot / 2]; 0 for those that are not rotated."""
        theta = self._theta_of_all()
        theta[list(self.still)] = 0.0
        return -theta if self.back else theta

    def _theta_of_all(self) -> NDArray[np.float64]:
        i = np.arange(self.n_rot // 2)
        plain = self.base ** (-2.0 * i / self.n_rot)
        if not self.yarn:
            return plain / self.factor
        # Pairs that rotate often keep their speed, slow ones are interpolated, those between get some of both.
        low = max(0, math.floor(self._pair(self.beta_fast)))
        high = min(self.n_rot - 1, math.ceil(self._pair(self.beta_slow)))
        ramp = 1.0 - np.clip((i - low) / max(0.001, high - low), 0.0, 1.0)
        return plain * ((1.0 - ramp) / self.factor + ramp)

    def _pair(self, beta: float) -> float:
        """The index (fractional) of the pair that rotates `beta` times over the original context."""
        return self.n_rot * math.log(self.original_context / (beta * 2 * math.pi)) / (2 * math.log(self.base))


@op(Op.ROPE, rowwise=True, named_by_weight=False, keeps_label=True)
def rope(x: Tensor, pos: Tensor, factors: Tensor | None = None, *, rope: Rope) -> TensorType:
    """Rotates pairs of the first n_rot dimensions of each head by pos · theta (theta divided by factors)"""
    require(len(x.shape) == 3, "rope: {} must be [tokens, heads, dim]", x)
    require(
        rope.n_rot <= x.shape[2] and rope.n_rot % 2 == 0, "rope: {} dimensions do not fit {}", rope.n_rot, x
    )
    require(pos.shape == x.shape[:1], "rope: positions {} do not fit {}", pos, x)
    if factors is not None:
        require(
            factors.shape == (rope.n_rot // 2,), "rope: {} does not fit {} dimensions", factors, rope.n_rot
        )
    return x.type


@rope.reference
def _(x: Array, pos: Array, factors: Array | None = None, *, rope: Rope) -> Array:
    theta = rope.theta() if factors is None else rope.theta() / factors
    angle = (pos // rope.every * rope.every)[:, None, None] * theta
    cos, sin = np.cos(angle) * rope.magnitude, np.sin(angle) * rope.magnitude
    half = rope.n_rot // 2
    first, second = (slice(0, rope.n_rot, 2), slice(1, rope.n_rot, 2))
    if rope.mode == "neox":
        first, second = slice(0, half), slice(half, rope.n_rot)
    out = x.astype(np.float64)
    a, b = x[..., first].astype(np.float64), x[..., second].astype(np.float64)
    out[..., first], out[..., second] = a * cos - b * sin, a * sin + b * cos
    return as_f32(out)


@rope.flops
def _(x: TensorType, pos: TensorType, factors: TensorType | None = None, *, rope: Rope) -> int:
    return 3 * x.numel


@rope.cases
def _() -> Iterator[Case]:
    for mode in ("norm", "neox"):
        yield case(f32(5, 3, 32), i32(5), ints={1: (0, 500)}, rope=Rope(32, mode=mode))
        yield case(f32(5, 3, 32), i32(5), ints={1: (0, 500)}, rope=Rope(16, mode=mode, magnitude=1.2))
        yield case(f32(1, 4, 8), i32(1), f32(4), ints={1: (0, 500)}, rope=Rope(8, mode=mode))
    yarn = Rope(64, mode="neox", factor=32.0, yarn=True, original_context=4096, magnitude=1.3)
    yield case(f32(5, 3, 64), i32(5), ints={1: (0, 500)}, rope=yarn)
    yield case(f32(5, 3, 32), i32(5), ints={1: (0, 500)}, rope=Rope(32, every=4))
    yield case(f32(5, 3, 32), i32(5), ints={1: (0, 500)}, rope=Rope(16, mode="neox", every=3, back=True))


@op(Op.TEMPERATURE_SCALE, rowwise=True, keeps_label=True)
def temperature_scale(x: Tensor, pos: Tensor, *, length: int, slope: float, offset: int = 0) -> TensorType:
    """x[t] · (1 + slope · ln(floor((pos[t] + offset) / length) + 1)): queries sharpen with distance"""
    require(length > 0 and pos.shape == x.shape[:1], "temperature_scale: positions {} do not fit {}", pos, x)
    return x.type


@temperature_scale.reference
def _(x: Array, pos: Array, *, length: int, slope: float, offset: int = 0) -> Array:
    factor = 1.0 + slope * np.log((pos + offset) // length + 1.0)
    return x * as_f32(factor).reshape(-1, *(1,) * (x.ndim - 1))


@temperature_scale.flops
def _(x: TensorType, pos: TensorType, *, length: int, slope: float, offset: int = 0) -> int:
    return x.numel


@temperature_scale.cases
def _() -> Iterator[Case]:
    yield case(f32(7, 3, 32), i32(7), ints={1: (0, 100)}, length=8, slope=0.1)
    yield case(f32(7, 33), i32(7), ints={1: (0, 100000)}, length=8192, slope=0.1)
    yield case(f32(9, 3, 32), i32(9), ints={1: (0, 40)}, length=4, slope=0.3, offset=1)


_rope = rope  # inside fused_rope the name is the attribute's


@several(Op.FUSED_ROPE)
def fused_rope(
    q: Tensor, k: Tensor, pos: Tensor, factors: Tensor | None = None, *, rope: Rope
) -> tuple[Tensor, ...]:
    """rope of queries and of keys at the same positions"""
    require(q.shape[2] == k.shape[2], "fused_rope: heads of {} and {} differ", q, k)
    more = () if factors is None else (factors,)
    return _rope(q, pos, *more, rope=rope), _rope(k, pos, *more, rope=rope)


@fused_rope.cases
def _() -> Iterator[Case]:
    for mode in ("norm", "neox"):
        for n in (1, 5):
            q, k, pos = f32(n, 6, 32), f32(n, 2, 32), i32(n)
            yield case(q, k, pos, ints={2: (0, 500)}, rope=Rope(32, mode=mode))
            yield case(q, k, pos, ints={2: (0, 500)}, rope=Rope(16, mode=mode, magnitude=1.2))
            yield case(q, k, pos, f32(8), ints={2: (0, 500)}, rope=Rope(16, mode=mode))
