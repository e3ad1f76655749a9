"""Copies between the host and simulated devices, as steps."""

from collections.abc import Callable

from graphsched.backends.cpu.language.jit import Kernel, helper, kernel
from graphsched.backends.cpu.language.simd import get, load, put, store
from graphsched.backends.cpu.language.vector import I8, I32
from graphsched.backends.cpu.program.kernel_args import arg, rows, share
from graphsched.backends.cpu.program.lowering import rows_of
from graphsched.backends.cpu.program.pack import Argument, Step
from graphsched.run.operand import Operand, Out, Work


@helper
def copy_part(src: int, dst: int, nbytes: int, ith: int, nth: int) -> None:
    """This thread's cache lines of a block."""
    first, last = share((nbytes + 63) // 64, ith, nth)
    for line in range(first, last):
        at = 64 * line
        if at + 64 <= nbytes:
            store(dst + at, load(src + at, I8, 64), I8)
        else:
            for i in range(at, nbytes):
                put(dst + i, get(src + i, I8), I8)


@kernel
def copy_bytes() -> Callable[..., None]:
    def copy(step: int, run: int, ith: int, nth: int) -> None:
        copy_part(arg(step, 0), arg(step, 1), rows(step, run) * arg(step, 2), ith, nth)

    return copy


@kernel
def copy_experts() -> Callable[..., None]:
    """Only the experts that this run's ids name; the rest of the destination stays as it is."""

    def copy(step: int, run: int, ith: int, nth: int) -> None:
        src, dst, ids, used = arg(step, 0), arg(step, 1), arg(step, 2), arg(step, 3)
        n_expert, nbytes = arg(step, 4), arg(step, 5)
        n = rows(step, run) * used
        for e in range(n_expert):
            for i in range(n):
                if get(ids + 4 * i, I32) == e:
                    copy_part(src + e * nbytes, dst + e * nbytes, nbytes, ith, nth)
                    break

    return copy


def copy_step(source: Operand, result: Operand, device: str, ids: Operand | None = None) -> Step:
    """A step of a device that copies a dense tensor's actual rows; of experts those that ids [tokens, used] name."""
    work: Work = "up" if result.buffer.device == device else "down"
    if ids is not None:
        n_expert = source.type.shape[0]
        args = (source, Out(result), ids, ids.type.shape[1], n_expert, source.type.nbytes // n_expert)
        return _step(copy_experts(), args, rows_of(ids.type), device, work)
    assert source.is_contiguous, f"{source.buffer.name} is copied as dense"
    type = source.type
    if type.dtype.block > 1 or type.dtype.tail:  # rows of blocks are copied whole
        return _step(copy_bytes(), (source, Out(result), type.nbytes), (1, 1), device, work)
    per_row = type.nbytes // max(int(type.shape[0]), 1) if type.shape else type.nbytes
    rows_word, times = rows_of(type, inner=len(type.shape) - 1)
    return _step(copy_bytes(), (source, Out(result), per_row), (rows_word, times), device, work)


def _step(kernel: Kernel, args: tuple[Argument, ...], rows: tuple[int, int], device: str, work: Work) -> Step:
    return Step(kernel, args, rows[0], rows[1], device=device, work=work)
