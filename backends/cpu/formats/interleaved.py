"""Row-interleaved types: the same block of 4 or 8 rows lies together, so that a vector has a lane per row.

Layouts are those of ik_llama.cpp (`layouts.py`). A vector of 64 bytes holds 4 codes of each row and that for 16 / rows
groups of 4 weights; `words` says which groups, as numbers of 4 weights in the block.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from graphsched.backends.cpu.formats.blocks32 import IQ4_OFFSET, iq4_values
from graphsched.backends.cpu.formats.forms import FORMS, Form
from graphsched.backends.cpu.language.jit import by_literal
from graphsched.backends.cpu.language.simd import load, xor_bits
from graphsched.backends.cpu.language.simd import splat_i8 as bytes_of
from graphsched.backends.cpu.language.simd_int import nibbles
from graphsched.backends.cpu.language.vector import (
    I8,
)
from graphsched.types import dtypes
from graphsched.types.dtypes import DType

Words = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class RowForm:
    """A type whose blocks of 32 weights of `type.interleave` rows lie together, half scales first.

    codes: (kind, block, i) -> the i-th 64 unsigned codes. words[i]: for each of the 16 / rows parts of that vector the
    4 weights of a block that it holds.
    """

    type: DType
    plain: DType
    offset: int
    words: Words
    codes: Callable[..., Any]

    @property
    def rows(self) -> int:
        """Rows of a group."""
        return self.type.interleave

    @property
    def block_bytes(self) -> int:
        """Bytes of one block of all rows of a group."""
        return self.rows * self.type.nbytes


ROW_FORMS: dict[int, RowForm] = {}


def no_rows(*_: Any) -> Any:
    """The form of a type that is not interleaved: it has none."""
    raise NotImplementedError("rows of an interleaved type cannot be read one by one")


def declare(name: str, plain: DType, offset: int, words: Words, codes: Callable[..., Any]) -> None:
    """Makes an interleaved type's form known by its GGML id."""
    type = dtypes.by_name(name)
    ROW_FORMS[type.id] = RowForm(type, plain, offset, words, codes)
    FORMS[type.id] = Form(
        type, no_rows, no_rows, no_rows, no_rows, offset=offset
    )  # what tiles of panels need


def row_codes(kind: int, block: int, i: int) -> Any:
    """The i-th 64 codes of a block of all rows. For kernels."""


@by_literal(row_codes)
def _(kind: int) -> Callable[..., Any]:
    return ROW_FORMS[kind].codes


def _q4_codes(kind: int, block: int, i: int) -> Any:
    return nibbles(load(block + 16 + 64 * (i % 2), I8, 64), i // 2)


def _q8_codes(kind: int, block: int, i: int) -> Any:
    return xor_bits(load(block + 16 + 64 * i, I8, 64), bytes_of(128, 64))


def _iq4_codes(kind: int, block: int, i: int) -> Any:
    return iq4_values(nibbles(load(block + 8, I8, 64), i))


PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7))
declare("Q4_0_R8", dtypes.Q4_0, 8, PAIRS, _q4_codes)
declare("Q8_0_R8", dtypes.Q8_0, 128, PAIRS, _q8_codes)
declare("IQ4_NL_R4", dtypes.IQ4_NL, IQ4_OFFSET, ((0, 4, 1, 5), (2, 6, 3, 7)), _iq4_codes)
ROW_TYPES = tuple(form.type for form in ROW_FORMS.values())
