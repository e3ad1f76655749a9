"""Launches of quantize.cu: activations as products take them."""

from graphsched.backends.cuda.launch.call import Address, Call, threads, up
from graphsched.errors import ShapeError


def quantize(x: Address, q: Address, ds: Address, tokens: int, k: int, stride: int) -> Call:
    """x[tokens, k] float → q int8[tokens, k], ds float2[tokens, k/32] = (scale, scale * sum)."""
    if k % 32 or stride % 4:
        raise ShapeError(f"quantize: k = {k} must be a multiple of 32, the row stride {stride} of 4")
    return Call("quantize", (), "quantize_q8", (tokens, up(k, 1024)), 256, (x, q, ds, k, stride))


def rms_norm_q8(
    x: Address,
    w: Address,
    y: Address,
    q: Address,
    ds: Address,
    tokens: int,
    k: int,
    stride: int,
    eps: float,
    residual: tuple[Address, Address] = (None, None),
) -> Call:
    """rms_norm and quantize in one; y may be None, x have any stride."""
    if k % 32:
        raise ShapeError(f"rms_norm_q8: k = {k} must be a multiple of 32")
    args = (x, *residual, w, y, q, ds, k, stride, eps)
    return Call("quantize", (), "rms_norm_q8", (tokens,), threads(k // 4), args)


def rounded(kind: str, x: Address, y: Address, tokens: int, k: int, stride: int) -> Call:
    """x[tokens, k] float → y[tokens, k] f16 or bf16."""
    if k % 8 or stride % 4:
        raise ShapeError(f"rounded: k = {k} must be a multiple of 8, the row stride {stride} of 4")
    return Call("quantize", (), f"round_{kind}", (up(tokens * k // 8, 256),), 256, (x, y, tokens, k, stride))
