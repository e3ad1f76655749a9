"""What products need to know of a quantised type, and the functions that kernels call on its blocks.

A type has one declaration (`Form`): its codes are unsigned bytes, and a group of 16 or 32 weights has a scale:
value = scale · (code - offset), or value = scale · code - minimum.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from graphsched.backends.cpu.language.dot_bytes import dot_u7_i8, dot_u8_i8
from graphsched.backends.cpu.language.jit import by_literal
from graphsched.backends.cpu.language.simd_int import concat, half_lanes
from graphsched.types.dtypes import DType


def itself(kind: int, nibbles: Any) -> Any:
    """Nibbles are the codes."""
    return nibbles


@dataclass(frozen=True)
class Ternary:
    """A type of codes 0, 1 and 2: its products are sums of integers, with activations of one scale per row.

    order: mat-vec takes 256 weights apart as they lie; for each byte of activations the weight that it meets then, or
    -1 for none (the byte is 0). run: panels hold four codes a byte, of weights so far apart.
    """

    order: tuple[int, ...]
    run: int

    @property
    def has_trits(self) -> bool:
        """Whether bytes are five digits of base 3, and not four codes."""
        return len(self.order) > 256


@dataclass(frozen=True)
class Form:
    """A type in blocks of 32 (one scale each) or of 256 (8 or 16 scales), or a ternary type."""

    type: DType
    codes32: Callable[..., Any]
    codes64: Callable[..., Any]
    scales: Callable[..., Any]
    minima: Callable[..., Any]
    group: int = 32  # weights of one scale: 16 or 32; of ternary types the block, or the row (0)
    offset: int = 0  # code of the value 0, where a type has no minima
    # Where all codes are nibbles: (first byte, n), runs of n bytes whose low halves are n weights, high ones the next.
    nibbles: tuple[int, int] | None = None
    from_nibbles: Callable[..., Any] = itself
    ternary: Ternary | None = None

    @property
    def has_minima(self) -> bool:
        """Whether something is added to a block's scaled codes."""
        return self.offset == 0

    @property
    def shift_unit(self) -> int:
        """What `minima` are multiples of."""
        return self.offset or 1

    @property
    def most(self) -> int:
        """No code is above it."""
        if self.ternary:
            return 2
        if self.nibbles and self.from_nibbles is itself:
            return 15
        return 2 * self.offset or 31

    def groups(self, k: int) -> int:
        """Scales of a row of k weights."""
        return k // self.group if self.group else 1


FORMS: dict[int, Form] = {}  # by type id


def declare(form: Form) -> None:
    """Makes a form known by its type's GGML id, and returns it."""
    FORMS[form.type.id] = form


def codes32(kind: int, block: int, j: int) -> Any:
    """The j-th 32 codes of a block as unsigned bytes, in order. For kernels."""


def codes64(kind: int, block: int, j: int) -> Any:
    """The j-th 64 codes of a block of 256; those of two neighbouring blocks of 32 (j = 0). For kernels."""


def scales(kind: int, block: int) -> Any:
    """The scales of a block of 256, or of 16 neighbouring blocks of 32, as f32 lanes. For kernels."""


def minima(kind: int, block: int, scales: Any) -> Any:
    """What goes with them in units of `shift_unit`: the minima, or with an offset the scales. For kernels."""


def from_nibbles(kind: int, nibbles: Any) -> Any:
    """Codes of bytes 0 to 15. For kernels."""


@by_literal(from_nibbles)
def _(kind: int) -> Callable[..., Any]:
    return FORMS[kind].from_nibbles


@by_literal(codes32)
def _(kind: int) -> Callable[..., Any]:
    return FORMS[kind].codes32


@by_literal(codes64)
def _(kind: int) -> Callable[..., Any]:
    return FORMS[kind].codes64


@by_literal(scales)
def _(kind: int) -> Callable[..., Any]:
    return FORMS[kind].scales


@by_literal(minima)
def _(kind: int) -> Callable[..., Any]:
    return FORMS[kind].minima


def no_minima(kind: int, block: int, scales: Any) -> Any:
    """Zeros, as lanes like the scales."""
    return scales


def halved(t: int) -> Callable[..., Any]:
    """`codes32` of a type that decodes 64 at once."""

    def impl(kind: int, block: int, j: int) -> Any:
        codes = codes64(t, block, j // 2)
        return half_lanes(codes, 1) if j % 2 else half_lanes(codes, 0)

    return impl


def pairs(t: int) -> Callable[..., Any]:
    """`codes64` of a type of which nothing better is known than its `codes32`."""

    def impl(kind: int, block: int, j: int) -> Any:
        return concat(codes32(t, block, 2 * j), codes32(t, block, 2 * j + 1))

    return impl


def dot_codes(kind: int, acc: Any, u: Any, s: Any) -> Any:
    """acc[i] += Σ_j u[4i + j] · s[4i + j] with the codes of a type. For kernels."""


@by_literal(dot_codes)
def _(t: int) -> Callable[..., Any]:
    def u7(kind: int, acc: Any, u: Any, s: Any) -> Any:
        return dot_u7_i8(acc, u, s)

    def u8(kind: int, acc: Any, u: Any, s: Any) -> Any:
        return dot_u8_i8(acc, u, s)

    return (
        u7 if FORMS[t].offset < 64 else u8
    )  # codes are below twice the offset; below 32 where there are minima
