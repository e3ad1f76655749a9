"""Activations rounded to 8 bits with one scale per 32, or per row: scale = max |x| / 127, ties to even."""

from typing import Any

import numpy as np

from graphsched.backends.cpu.language.jit import helper
from graphsched.backends.cpu.language.simd import (
    absolute,
    load,
    max_lanes,
    maximum,
    mul,
    nearest,
    splat,
    to_i8,
)
from graphsched.backends.cpu.language.simd_int import concat
from graphsched.backends.cpu.language.vector import F32


@helper
def q8_scale(largest: Any) -> tuple[float, Any]:
    """(scale, its inverse in 16 lanes) for lanes whose maximum is the largest |x|."""
    scale = max_lanes(largest) / np.float32(127.0)
    return scale, splat(np.float32(1.0) / scale if scale > 0.0 else np.float32(0.0), 16)


@helper
def _codes(src: int, inverse: Any) -> Any:
    return to_i8(nearest(mul(load(src, F32, 16), inverse)))


@helper
def q8_block(src: int) -> tuple[float, Any, Any]:
    """32 float32 as (scale, 16 codes, 16 codes)."""
    scale, inverse = q8_scale(maximum(absolute(load(src, F32, 16)), absolute(load(src + 64, F32, 16))))
    return scale, _codes(src, inverse), _codes(src + 64, inverse)


@helper
def q8_row(src: int, k: int) -> tuple[float, Any]:
    """(scale, inverse) of a row of k float32, k a multiple of 64: what `q8_codes64` makes its codes with."""
    a, b, c, d = splat(0.0, 16), splat(0.0, 16), splat(0.0, 16), splat(0.0, 16)
    for i in range(0, k, 64):
        at = src + 4 * i
        a, b = maximum(a, absolute(load(at, F32, 16))), maximum(b, absolute(load(at + 64, F32, 16)))
        c, d = maximum(c, absolute(load(at + 128, F32, 16))), maximum(d, absolute(load(at + 192, F32, 16)))
    return q8_scale(maximum(maximum(a, b), maximum(c, d)))


@helper
def q8_codes64(src: int, inverse: Any) -> Any:
    """64 codes of a row."""
    low = concat(_codes(src, inverse), _codes(src + 64, inverse))
    return concat(low, concat(_codes(src + 128, inverse), _codes(src + 192, inverse)))
