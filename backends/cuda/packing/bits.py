"""How codes become bits: 32 or 64 codes as bytes → their bytes in a plane. A unit is 32 weights."""

from typing import Any

from graphsched.backends.cpu.formats.kquants import six_bits
from graphsched.backends.cpu.formats.lookup import deposit, extract
from graphsched.backends.cpu.language.jit import helper
from graphsched.backends.cpu.language.simd import put, put_word
from graphsched.backends.cpu.language.simd_int import merge_bits
from graphsched.backends.cpu.language.vector import I32


@helper
def merge_halves(codes: Any) -> Any:
    """Weights 0..15 of a unit in low nibbles, 16..31 in high ones."""
    return merge_bits(codes, 16, 4)


@helper
def merge_neighbours(codes: Any) -> Any:
    """Nibble i holds weight i."""
    return merge_bits(codes, 1, 4)


@helper
def crumbs(codes: Any) -> Any:
    """Bits 8b + 2j of word g hold weight 16g + 4j + b."""
    return merge_bits(merge_bits(codes, 4, 2), 4, 4)


@helper
def bits(codes: Any) -> Any:
    """Bit 8b + w of a unit's word holds weight 4w + b."""
    return merge_bits(merge_bits(merge_bits(codes, 4, 1), 4, 2), 4, 4)


@helper
def pairs(packed: int, to: int) -> None:
    """8 scales and minima of 6 bits → 12 bytes, pair j at bit 12j."""
    scales, minima = six_bits(packed)
    s, m = extract(scales, 0x3F3F3F3F3F3F3F3F), extract(minima, 0x3F3F3F3F3F3F3F3F)
    first = deposit(s, 0x03F03F03F03F) | deposit(m, 0xFC0FC0FC0FC0)
    last = deposit(s >> 24, 0x03F03F03F03F) | deposit(m >> 24, 0xFC0FC0FC0FC0)
    put_word(to, first | last << 48)
    put(to + 8, last >> 16, I32)
