"""Types in blocks of 64 and 128: NVFP4, and one bit per weight."""

from typing import Any

from graphsched.backends.cpu.formats.blocks32 import FP4_OFFSET, fp4_values
from graphsched.backends.cpu.formats.forms import Form, declare, no_minima, pairs
from graphsched.backends.cpu.formats.lookup import e4m3
from graphsched.backends.cpu.language.simd import get, load, splat
from graphsched.backends.cpu.language.simd_int import interleave, nibbles, shift_left, spread_bits
from graphsched.backends.cpu.language.vector import F16, I8, I32
from graphsched.types import dtypes

NVFP4, Q1_0 = dtypes.by_name("NVFP4"), dtypes.by_name("Q1_0")


def _nvfp4_scales(kind: int, block: int) -> Any:
    return e4m3(load(block, I8, 4))


def _nvfp4_codes(kind: int, block: int, j: int) -> Any:
    packed = load(block + 4 + 16 * j, I8, 16)  # 8 bytes are 16 weights, the low halves first
    return fp4_values(interleave(nibbles(packed, 0), nibbles(packed, 1), 8))


def _nvfp4_codes64(kind: int, block: int, j: int) -> Any:
    packed = load(block + 4, I8, 32)
    return fp4_values(interleave(nibbles(packed, 0), nibbles(packed, 1), 8))


def _q1_scales(kind: int, block: int) -> Any:
    return splat(get(block, F16), 4)


def _q1_codes(kind: int, block: int, j: int) -> Any:
    return shift_left(spread_bits(get(block + 2 + 4 * j, I32)), 1)


declare(Form(NVFP4, _nvfp4_codes, _nvfp4_codes64, _nvfp4_scales, no_minima, group=16, offset=FP4_OFFSET))
declare(Form(Q1_0, _q1_codes, pairs(Q1_0.id), _q1_scales, no_minima, offset=1))
