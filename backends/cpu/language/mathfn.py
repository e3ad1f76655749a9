"""exp, tanh, softplus and the gated units on f32 lanes."""

from typing import Any

from graphsched.backends.cpu.language.jit import helper
from graphsched.backends.cpu.language.simd import (
    absolute,
    add,
    div,
    fma,
    maximum,
    minimum,
    mul,
    nearest,
    scale_exp2,
    splat,
    sqrt,
    sub,
    where_less,
)

SILU, GELU, RELU, SIGMOID, SOFTPLUS, SQRT_SOFTPLUS = range(6)
KINDS = {"silu": SILU, "gelu": GELU, "relu": RELU, "sigmoid": SIGMOID, "softplus": SOFTPLUS}
KINDS["sqrt_softplus"] = SQRT_SOFTPLUS
SWIGLU_OAI = len(KINDS)  # the clamped SwiGLU of gpt-oss, of two operands only


@helper
def exp(x: Any) -> Any:
    """e^x to about 1 ulp; below -87 it is 0, above 88 it stays finite.

    2^k · e^r with k = round(x / ln 2) and |r| <= ln 2 / 2; e^r by a polynomial of degree 6 (Cephes' coefficients).
    """
    inside = minimum(maximum(x, splat(-87.0, 16)), splat(88.0, 16))
    k = nearest(mul(inside, splat(1.4426950408889634, 16)))
    r = fma(k, splat(-0.693359375, 16), inside)  # ln 2 in two parts, so that r keeps its low bits
    r = fma(k, splat(2.12194440e-4, 16), r)
    p = fma(splat(1.9875691500e-4, 16), r, splat(1.3981999507e-3, 16))
    p = fma(p, r, splat(8.3334519073e-3, 16))
    p = fma(p, r, splat(4.1665795894e-2, 16))
    p = fma(p, r, splat(1.6666665459e-1, 16))
    p = fma(p, r, splat(5.0000001201e-1, 16))
    power = scale_exp2(add(fma(mul(r, r), p, r), splat(1.0, 16)), k)
    return where_less(x, splat(-87.0, 16), splat(0.0, 16), power)


@helper
def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x) on 16 lanes."""
    one = splat(1.0, 16)
    return div(one, add(one, exp(sub(splat(0.0, 16), x))))


@helper
def tanh(x: Any) -> Any:
    """1 - 2 / (e^2x + 1); near 0 the subtraction loses relative, not absolute, accuracy."""
    one = splat(1.0, 16)
    return sub(one, div(splat(2.0, 16), add(exp(add(x, x)), one)))


@helper
def softplus(x: Any) -> Any:
    """ln(1 + e^x) as max(x, 0) + ln(1 + y) with y = e^-|x|, to a few ulp however small it is.

    The logarithm is 2 artanh z with z = y / (2 + y), at most 1/3: an odd series, up to z^15.
    """
    y = exp(sub(splat(0.0, 16), absolute(x)))
    z = div(y, add(splat(2.0, 16), y))
    squared = mul(z, z)
    p = fma(splat(1.0 / 15.0, 16), squared, splat(1.0 / 13.0, 16))
    p = fma(p, squared, splat(1.0 / 11.0, 16))
    p = fma(p, squared, splat(1.0 / 9.0, 16))
    p = fma(p, squared, splat(1.0 / 7.0, 16))
    p = fma(p, squared, splat(1.0 / 5.0, 16))
    p = fma(p, squared, splat(1.0 / 3.0, 16))
    p = fma(p, squared, splat(1.0, 16))
    return fma(add(z, z), p, maximum(x, splat(0.0, 16)))


@helper
def gated(kind: int, x: Any) -> Any:
    """The unary function `kind` of x."""
    if kind == SILU:
        return mul(x, sigmoid(x))
    if kind == GELU:
        inner = mul(
            mul(splat(0.7978845608028654, 16), x), fma(mul(splat(0.044715, 16), x), x, splat(1.0, 16))
        )
        return mul(mul(splat(0.5, 16), x), add(splat(1.0, 16), tanh(inner)))
    if kind == RELU:
        return maximum(x, splat(0.0, 16))
    if kind == SOFTPLUS:
        return softplus(x)
    if kind == SQRT_SOFTPLUS:
        return sqrt(softplus(x))
    return sigmoid(x)


@helper
def gated_product(kind: int, a: Any, b: Any, alpha: float, limit: float) -> Any:
    """kind(a) · b, or the clamped SwiGLU of gpt-oss."""
    if kind != SWIGLU_OAI:
        return mul(gated(kind, a), b)
    g, bound = minimum(a, splat(limit, 16)), splat(limit, 16)
    u = minimum(maximum(b, splat(-limit, 16)), bound)
    return mul(mul(g, sigmoid(mul(splat(alpha, 16), g))), add(u, splat(1.0, 16)))
