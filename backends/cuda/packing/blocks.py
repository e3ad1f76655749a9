"""A block of a file → its bytes in each plane, type by type. quants.cuh says what the bits mean.

Codes come from the decoders of the CPU's kernels. Codebook types are packed as indices into the few values that a
weight can have.
"""

from collections.abc import Callable
from typing import Any

from graphsched.backends.cpu.formats import rows as quants  # noqa: F401  # declares the types
from graphsched.backends.cpu.formats.blocks32 import both_nibbles, four_nibbles
from graphsched.backends.cpu.formats.codebook import half_bits, odd_steps
from graphsched.backends.cpu.formats.forms import codes64
from graphsched.backends.cpu.formats.kquants import iq4_steps, q3_steps
from graphsched.backends.cpu.language.jit import by_literal
from graphsched.backends.cpu.language.simd import get, load, or_bits, put, store
from graphsched.backends.cpu.language.simd_int import bit_field, nibbles, spread_bits, spread_lanes
from graphsched.backends.cpu.language.vector import I8, I32
from graphsched.backends.cuda.packing.bits import bits, crumbs, merge_halves, merge_neighbours, pairs
from graphsched.types import dtypes

Packer = Callable[..., None]


def pack_block(kind: int, block: int, q: int, h: int, s: int, b: int) -> None:
    """A file's block → its bytes of the planes q, h, s and b. For kernels."""


def small_codes(kind: int, codes: Any) -> Any:
    """64 codes of a codebook type, which are values plus an offset → indices of those values. For kernels."""


@by_literal(pack_block)
def _(kind: int) -> Packer:
    return _PACKERS[kind](kind)


@by_literal(small_codes)
def _(kind: int) -> Callable[..., Any]:
    return _SMALL[kind]


# ---- blocks of 32


def _nibble_bytes(at: int) -> Packer:
    """Nibbles lie as the kernels want them, behind as many bytes of scales."""

    def impl(kind: int, block: int, q: int, h: int, s: int, b: int) -> None:
        store(q, load(block + at, I8, 16), I8)
        store(s, load(block, I8, at), I8)

    return impl


def _five_bits(at: int) -> Packer:
    def impl(kind: int, block: int, q: int, h: int, s: int, b: int) -> None:
        store(q, load(block + at + 4, I8, 16), I8)
        store(h, bits(spread_bits(get(block + at, I32))), I8)
        store(s, load(block, I8, at), I8)

    return impl


def _q8_0(kind: int, block: int, q: int, h: int, s: int, b: int) -> None:
    store(q, load(block + 2, I8, 16), I8)
    store(h, load(block + 18, I8, 16), I8)
    store(s, load(block, I8, 2), I8)


def _in_order(at: int) -> Packer:
    def impl(kind: int, block: int, q: int, h: int, s: int, b: int) -> None:
        store(q, merge_neighbours(both_nibbles(block + at)), I8)
        store(s, load(block, I8, at), I8)

    return impl


# ---- blocks of 256


def _q4_k(t: int) -> Packer:
    def impl(kind: int, block: int, q: int, h: int, s: int, b: int) -> None:
        for j in range(4):
            store(q + 32 * j, merge_halves(codes64(t, block, j)), I8)
        store(b, load(block, I8, 4), I8)
        pairs(block + 4, b + 4)

    return impl


def _q5_k(t: int) -> Packer:
    def impl(kind: int, block: int, q: int, h: int, s: int, b: int) -> None:
        for j in range(4):
            codes = codes64(t, block, j)
            store(q + 32 * j, merge_halves(bit_field(codes, 0, 15)), I8)
            store(h + 8 * j, bits(bit_field(codes, 4, 1)), I8)
        store(b, load(block, I8, 4), I8)
        pairs(block + 4, b + 4)

    return impl


def _q6_k(t: int) -> Packer:
    def impl(kind: int, block: int, q: int, h: int, s: int, b: int) -> None:
        for j in range(4):
            codes = codes64(t, block, j)
            store(q + 32 * j, merge_halves(bit_field(codes, 0, 15)), I8)
            store(h + 16 * j, crumbs(bit_field(codes, 4, 3)), I8)
        store(s, load(block + 192, I8, 16), I8)
        store(b, load(block + 208, I8, 2), I8)

    return impl


def _q3_k(t: int) -> Packer:
    def impl(kind: int, block: int, q: int, h: int, s: int, b: int) -> None:
        for j in range(4):
            codes = codes64(t, block, j)
            store(q + 16 * j, crumbs(bit_field(codes, 0, 3)), I8)
            store(h + 8 * j, bits(bit_field(codes, 2, 1)), I8)
        store(s, q3_steps(block), I8)
        store(b, load(block + 108, I8, 2), I8)

    return impl


def _q2_k(t: int) -> Packer:
    def impl(kind: int, block: int, q: int, h: int, s: int, b: int) -> None:
        for j in range(4):
            store(q + 16 * j, crumbs(codes64(t, block, j)), I8)
        store(s, load(block, I8, 16), I8)
        store(b, load(block + 80, I8, 4), I8)

    return impl


def _iq4_xs(t: int) -> Packer:
    def impl(kind: int, block: int, q: int, h: int, s: int, b: int) -> None:
        for j in range(4):
            at = block + 8 + 32 * j
            store(q + 32 * j, merge_neighbours(four_nibbles(at, at + 16)), I8)
        store(s, iq4_steps(block), I8)
        store(b, load(block, I8, 2), I8)

    return impl


# ---- codebook types: nibbles of indices, an odd number for each 16 weights, a half


def _iq1(kind: int, codes: Any) -> Any:
    """0, 2, 8, 10, 16, 18 → 0 to 5"""
    return or_bits(bit_field(codes, 2, 7), bit_field(codes, 1, 1))


def _iq2(kind: int, codes: Any) -> Any:
    """0, 18, 35, 51, 68, 86 → 0 to 5"""
    return nibbles(codes, 1)


def _iq3_xxs(kind: int, codes: Any) -> Any:
    """0, 10, 18, … 114, 124 → 0 to 15"""
    return bit_field(codes, 3, 15)


def _iq3_s(kind: int, codes: Any) -> Any:
    """0, 2, … 30 → 0 to 15"""
    return bit_field(codes, 1, 15)


def _coded(groups: int) -> Callable[[int], Packer]:
    each = 16 // groups

    def of(t: int) -> Packer:
        def impl(kind: int, block: int, q: int, h: int, s: int, b: int) -> None:
            for j in range(4):
                store(q + 32 * j, merge_neighbours(small_codes(t, codes64(t, block, j))), I8)
            store(s, spread_lanes(odd_steps(t, block), 0, each, 16), I8)
            half = half_bits(t, block)
            put(b, half, I8)
            put(b + 1, half >> 8, I8)

        return impl

    return of


# ---- ternary types


def _bitnet(t: int) -> Packer:
    def impl(kind: int, block: int, q: int, h: int, s: int, b: int) -> None:
        store(q, crumbs(codes64(t, block, 0)), I8)

    return impl


def _ternary(at: int) -> Callable[[int], Packer]:
    def of(t: int) -> Packer:
        def impl(kind: int, block: int, q: int, h: int, s: int, b: int) -> None:
            for j in range(4):
                store(q + 16 * j, crumbs(codes64(t, block, j)), I8)
            store(b, load(block + at, I8, 2), I8)

        return impl

    return of


def _by_id(table: dict[str, Any]) -> dict[int, Any]:
    return {dtypes.by_name(name).id: value for name, value in table.items()}


_PACKERS: dict[int, Callable[[int], Packer]] = _by_id(
    {
        "Q4_0": lambda t: _nibble_bytes(2),
        "Q4_1": lambda t: _nibble_bytes(4),
        "Q5_0": lambda t: _five_bits(2),
        "Q5_1": lambda t: _five_bits(4),
        "Q8_0": lambda t: _q8_0,
        "IQ4_NL": lambda t: _in_order(2),
        "MXFP4": lambda t: _in_order(1),
        "Q2_K": _q2_k,
        "Q3_K": _q3_k,
        "Q4_K": _q4_k,
        "Q5_K": _q5_k,
        "Q6_K": _q6_k,
        "IQ4_XS": _iq4_xs,
        "IQ2_BN": _bitnet,
        "IQ1_BN": _bitnet,
        "TQ1_0": _ternary(52),
        "TQ2_0": _ternary(64),
        **dict.fromkeys(("IQ1_S", "IQ2_XXS", "IQ3_XXS", "IQ3_S"), _coded(8)),
        **dict.fromkeys(("IQ1_M", "IQ2_XS", "IQ2_S"), _coded(16)),
    }
)
_SMALL: dict[int, Callable[..., Any]] = _by_id(
    {
        **dict.fromkeys(("IQ1_S", "IQ1_M"), _iq1),
        **dict.fromkeys(("IQ2_XXS", "IQ2_XS", "IQ2_S"), _iq2),
        "IQ3_XXS": _iq3_xxs,
        "IQ3_S": _iq3_s,
    }
)
