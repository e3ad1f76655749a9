"""Weights as the CUDA kernels read them: repacked from GGUF blocks into planes for coalesced 16-byte loads.

A tensor is up to five planes one after the other, each starting at a multiple of 256 bytes and row-major:
low bits (q), high bits (h), scales (s) per 32 weights, superblock headers (b) per 256, one float per row (f).
quants.cuh says how each type's bits lie in them; packing/ brings them there, and the tests have a numpy reference.
"""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from graphsched.backends.cuda.launch import codebook

U8 = NDArray[Any]  # of uint8; numpy's stubs widen what is shifted by a literal
ALIGN = 256


@dataclass(frozen=True)
class Layout:
    """A weight type: the file's block; bytes of each plane (q, h, s: per 32 weights, b: 256, f: a row)."""

    block: int
    nbytes: int
    q: int
    h: int
    s: int
    b: int
    f: int
    header: int = 0  # bytes in front of each row in the file

    def sizes(self, rows: int, k: int) -> tuple[int, ...]:
        """Bytes of each plane."""
        n = rows * k
        return n // 32 * self.q, n // 32 * self.h, n // 32 * self.s, n // 256 * self.b, rows * self.f

    def nbytes_of(self, rows: int, k: int) -> int:
        """Bytes of a repacked tensor: the stride between experts."""
        return sum(-(-n // ALIGN) * ALIGN for n in self.sizes(rows, k))

    def file_bytes(self, rows: int, k: int) -> int:
        """Bytes of the same tensor in the file."""
        return rows * (self.header + k // self.block * self.nbytes)


CODED = {
    "iq1_s": 50,
    "iq1_m": 56,
    "iq2_xxs": 66,
    "iq2_xs": 74,
    "iq2_s": 82,
    "iq3_xxs": 98,
    "iq3_s": 110,
}  # bytes
LAYOUTS: dict[str, Layout] = {
    "q4_0": Layout(32, 18, 16, 0, 2, 0, 0),
    "q4_1": Layout(32, 20, 16, 0, 4, 0, 0),
    "q5_0": Layout(32, 22, 16, 4, 2, 0, 0),
    "q5_1": Layout(32, 24, 16, 4, 4, 0, 0),
    "q8_0": Layout(32, 34, 16, 16, 2, 0, 0),
    "q2_k": Layout(256, 84, 8, 0, 2, 4, 0),
    "q3_k": Layout(256, 110, 8, 4, 2, 2, 0),
    "q4_k": Layout(256, 144, 16, 0, 0, 16, 0),
    "q5_k": Layout(256, 176, 16, 4, 0, 16, 0),
    "q6_k": Layout(256, 210, 16, 8, 2, 2, 0),
    "iq4_nl": Layout(32, 18, 16, 0, 2, 0, 0),
    "iq4_xs": Layout(256, 136, 16, 0, 1, 2, 0),
    "mxfp4": Layout(32, 17, 16, 0, 1, 0, 0),
    "iq2_bn": Layout(64, 16, 8, 0, 0, 0, 4, header=4),
    "iq1_bn": Layout(64, 13, 8, 0, 0, 0, 4, header=2),  # the kernels' type is iq2_bn
    **{n: Layout(256, size, 16, 0, 2, 2, 0) for n, size in CODED.items()},
    "tq1_0": Layout(256, 54, 8, 0, 0, 2, 0),
    "tq2_0": Layout(256, 66, 8, 0, 0, 2, 0),
}
KERNEL_TYPE = {name: codebook.KERNEL_TYPE.get(name, name) for name in LAYOUTS} | {"iq1_bn": "iq2_bn"}
