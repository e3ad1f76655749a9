"""Copies between the host and simulated devices, as steps."""

from collections.abc import Callable, Mapping

from graphsched.backends.cpu.language.jit import Kernel, helper, kernel
from graphsched.backends.cpu.language.signature import Bound
from graphsched.backends.cpu.language.simd import get, load, put, store
from graphsched.backends.cpu.language.vector import I8, I32
from graphsched.backends.cpu.program import layout
from graphsched.backends.cpu.program.kernel_args import arguments, rows, share
from graphsched.backends.cpu.program.lowering import rows_of
from graphsched.backends.cpu.program.pack import Step
from graphsched.run.operand import Operand, Work


@helper
def copy_share(src: int, dst: int, nbytes: int, ith: int, nth: int) -> None:
    """This thread's cache lines of a block."""
    first, last = share((nbytes + 63) // 64, ith, nth)
    for line in range(first, last):
        at = 64 * line
        if at + 64 <= nbytes:
            store(dst + at, load(src + at, I8, 64), I8)
        else:
            for i in range(at, nbytes):
                put(dst + i, get(src + i, I8), I8)


@kernel("source -> result | row_bytes")
def copy_bytes() -> Callable[..., None]:
    """result = source, rows of row_bytes."""

    def copy(step: int, run: int, ith: int, nth: int) -> None:
        source, result, row_bytes = arguments(step)
        copy_share(source, result, rows(step, run) * row_bytes, ith, nth)

    return copy


@kernel("source ids -> result | used n_expert nbytes")
def copy_experts() -> Callable[..., None]:
    """Only the experts that this run's ids name; the rest of the destination stays as it is."""

    def copy(step: int, run: int, ith: int, nth: int) -> None:
        source, ids, result, used, n_expert, nbytes = arguments(step)
        n = rows(step, run) * used
        for e in range(n_expert):
            for i in range(n):
                if get(ids + 4 * i, I32) == e:
                    copy_share(source + e * nbytes, result + e * nbytes, nbytes, ith, nth)
                    break

    return copy


def copy_step(source: Operand, result: Operand, device: str, ids: Operand | None = None) -> Step:
    """A step of a device that copies a dense tensor's actual rows; of experts those that ids [tokens, used] name."""
    work: Work = "up" if result.buffer.device == device else "down"
    args: dict[str, Bound] = {"source": source, "result": result}
    if ids is not None:
        n_expert = source.type.shape[0]
        args |= {"ids": ids, "used": ids.type.shape[1]}
        args |= {"n_expert": n_expert, "nbytes": source.type.nbytes // n_expert}
        return _step(copy_experts(), args, rows_of(ids.type), device, work)
    assert source.is_contiguous, f"{source.buffer.name} is copied as dense"
    type = source.type
    if type.dtype.block > 1 or type.dtype.tail:  # rows of blocks are copied whole
        return _step(copy_bytes(), args | {"row_bytes": type.nbytes}, (layout.ONE, 1), device, work)
    per_row = type.nbytes // max(int(type.shape[0]), 1) if type.shape else type.nbytes
    rows = rows_of(type, inner=len(type.shape) - 1)
    return _step(copy_bytes(), args | {"row_bytes": per_row}, rows, device, work)


def _step(kernel: Kernel, args: Mapping[str, Bound], rows: tuple[int, int], device: str, work: Work) -> Step:
    return Step(kernel, kernel.bind(args), rows[0], rows[1], device=device, work=work)
