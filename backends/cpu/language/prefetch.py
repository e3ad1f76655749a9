"""Weights that will be needed, asked for while others are multiplied."""

from graphsched.backends.cpu.language.jit import helper
from graphsched.backends.cpu.language.simd import prefetch_near

AHEAD = 8192  # bytes: what hardware fetches by itself ends with a page, and that is 4096


@helper
def lines_each(nbytes: int, passes: int) -> int:
    """Cache lines to ask for in each of so many passes, so that all of so many bytes are asked for."""
    return (nbytes // 64 + passes) // passes


@helper
def ask_ahead(at: int, nbytes: int) -> None:
    """Asks for as many bytes as are read at `at`, some rows on; between products, not all at once."""
    for line in range(0, nbytes, 64):
        prefetch_near(at + AHEAD + line)
