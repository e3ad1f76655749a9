"""Flags between streams, as steps: a word that one stream raises and another waits for."""

from collections.abc import Callable

from graphsched.backends.cpu.language.atomics import load_word, pause, sched_yield, store_word
from graphsched.backends.cpu.language.jit import kernel
from graphsched.backends.cpu.program.kernel_args import arguments
from graphsched.backends.cpu.program.layout import ABORT

SPINS_BEFORE_YIELD = 2000  # as long as a GPU's part of a layer may take; the other stream may need this core


@kernel("| flag")
def raise_flag() -> Callable[..., None]:
    """Sets the word at `flag`."""

    def raised(step: int, run: int, ith: int, nth: int) -> None:
        (flag,) = arguments(step)
        if ith == 0:
            store_word(flag, 1)

    return raised


@kernel("| flag")
def await_flag() -> Callable[..., None]:
    """The barrier behind the step holds the other threads."""

    def awaited(step: int, run: int, ith: int, nth: int) -> None:
        (flag,) = arguments(step)
        spins = 0
        while ith == 0 and load_word(flag) == 0 and load_word(run + 8 * ABORT) == 0:
            pause()
            spins += 1
            if spins > SPINS_BEFORE_YIELD:
                sched_yield(())

    return awaited
