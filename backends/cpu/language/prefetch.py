"""Weights that will be needed, asked for while others are multiplied."""

from graphsched.backends.cpu.language.jit import helper
from graphsched.backends.cpu.language.simd import prefetch_near

AHEAD = 8192  # bytes: what hardware fetches by itself ends with a page, and that is 4096


@helper
def ask_ahead(at: int, nbytes: int) -> None:
    """Asks for as many bytes as are read at `at`, some rows on; between products, not all at once."""
    for line in range(0, nbytes, 64):
        prefetch_near(at + AHEAD + line)
