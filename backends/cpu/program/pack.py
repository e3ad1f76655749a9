"""Steps with symbolic operands, and the packer that makes an int64 array of step records of them."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from graphsched.backends.cpu.language.jit import Kernel
from graphsched.backends.cpu.language.signature import Argument
from graphsched.backends.cpu.program import layout
from graphsched.backends.cpu.program.address_space import Space, aligned
from graphsched.backends.cpu.program.overlap import Over, Touch, collide, touch
from graphsched.backends.cpu.program.signals import await_flag, raise_flag
from graphsched.run.operand import Addresses, Item, Operand, Out, PythonStep, Work
from graphsched.run.streams import Signal, Wait
from graphsched.types.devices import HOST

TINY, GROUP = 1 << 17, 8  # bytes read per item, on average; steps that then share a stamp


@dataclass(frozen=True)
class Step:
    """One kernel call per thread; the unit of barrier and trace."""

    kernel: Kernel
    args: tuple[Argument, ...]  # as the kernel's signature binds them
    rows_word: int = layout.ONE
    rows_times: int = 1
    node: int = -1
    device: str = HOST
    work: Work = "compute"  # a copy is the only step that may name memory of two devices
    alone: bool = False  # nothing before it or after it may run at the same time
    over: Over = None  # its units are this type's rows, and touch the same rows of what has as many
    barrier: bool = True

    def reads(self) -> list[Operand]:
        """Operands that the kernel reads."""
        return [a for a in self.args if isinstance(a, Operand)]

    def writes(self) -> list[Operand]:
        """Operands that the kernel writes."""
        return [a.operand for a in self.args if isinstance(a, Out)]


@dataclass(frozen=True)
class Segment:
    """A run of packed steps, or one Python step."""

    first: int = 0
    count: int = 0
    python: PythonStep | None = None


@dataclass(frozen=True)
class PackedProgram:
    """Step records ready to run, cut at Python steps."""

    words: NDArray[np.int64]
    starts: tuple[int, ...]  # the word at which each step's record begins
    claims: NDArray[np.int64]  # [threads][steps]: see `kernel_args.deal`
    segments: tuple[Segment, ...]
    items: tuple[Step | PythonStep, ...] = field(repr=False)  # operands keep weights and constants alive
    addresses: Addresses = field(repr=False)

    def address(self, segment: Segment) -> int:
        """Where the records of a segment of steps begin."""
        return self.words.ctypes.data + 8 * (self.starts[segment.first] if segment.count else 0)


def pack(
    items: Sequence[Item], addresses: Addresses, spaces: Mapping[str, Space], n_threads: int = 1
) -> PackedProgram:
    """Resolves addresses, and places a barrier only where two steps touch the same bytes."""
    placed = place_barriers([_as_step(item, addresses) for item in items], addresses)
    steps = [item for item in placed if isinstance(item, Step)]
    sizes = [layout.step_words(len(step.args)) for step in steps]
    starts = list(accumulate(sizes, initial=0))
    words = aligned(8 * starts[-1]).view(np.int64)
    stamps, claims = stamped(placed), _claims(n_threads, len(steps))
    numbers = (i for i, item in enumerate(placed) if isinstance(item, Step))
    for i, (step, number) in enumerate(zip(steps, numbers, strict=True)):
        row = words[starts[i] : starts[i + 1]]
        row[layout.STEP_KERNEL] = step.kernel.address
        row[layout.STEP_FLAGS] = (layout.BARRIER_AFTER if step.barrier else 0) | stamps[number]
        row[layout.STEP_ROWS_WORD], row[layout.STEP_ROWS_TIMES] = step.rows_word, step.rows_times
        row[layout.STEP_BYTES], row[layout.STEP_NUMBER] = 8 * sizes[i], number
        row[layout.STEP_CLAIMS], row[layout.STEP_CLAIM_STRIDE] = claims.ctypes.data + 8 * i, claims.strides[0]
        for at, value in enumerate(step.args, layout.STEP_ARGS):
            row[at] = _word(value, step, addresses, spaces)
    return PackedProgram(words, tuple(starts[:-1]), claims, tuple(segments(placed)), tuple(placed), addresses)


def _claims(n_threads: int, n_steps: int) -> NDArray[np.int64]:
    """A counter per step for each thread, in cache lines of the thread's own."""
    per_thread = -(-n_steps // 8) * 8
    return aligned(8 * n_threads * per_thread).view(np.int64).reshape(n_threads, per_thread)


def stamped(items: Sequence[Step | PythonStep]) -> list[int]:
    """STAMP for the items that read the counter while nobody profiles: all, or every eighth where steps are tiny.

    A read takes 10 to 20 ns, on virtual machines more: of steps of a fraction of a microsecond that is too much.
    """
    sizes = [o.buffer.nbytes for item in items for o in item.reads()]
    every = GROUP if sum(sizes) < TINY * len(items) else 1
    ends = [
        i % every == every - 1 or isinstance(after, PythonStep | None)
        for i, after in enumerate([*items[1:], None])
    ]
    return [layout.STAMP if is_end else 0 for is_end in ends]


def _as_step(item: Item, addresses: Addresses) -> Step | PythonStep:
    """Waits and signals become steps on the flag's word."""
    if isinstance(item, Signal):
        kernel = await_flag() if isinstance(item, Wait) else raise_flag()
        args = kernel.bind({"flag": addresses.flag(item.flag.number)})
        return Step(kernel, args, device=item.device, work="up", alone=True)
    assert isinstance(item, Step | PythonStep), f"{item} is not work for a CPU"
    return item


def segments(items: Sequence[Step | PythonStep]) -> Iterable[Segment]:
    """Cuts at Python steps."""
    first = count = 0
    for item in items:
        if isinstance(item, Step):
            count += 1
            continue
        if count:
            yield Segment(first, count)
        yield Segment(python=item)
        first, count = first + count, 0
    if count:
        yield Segment(first, count)


def _word(value: Argument, step: Step, addresses: Addresses, spaces: Mapping[str, Space]) -> int:
    if isinstance(value, Out):
        value = value.operand
    if isinstance(value, Operand):
        buffer = value.buffer
        is_local = buffer.device == step.device
        assert is_local or step.work != "compute", (
            f"{step.kernel.name} on {step.device} reads {buffer.name} of {buffer.device}"
        )
        return spaces[buffer.device].translate(addresses.address(value))
    if isinstance(value, float):
        return struct.unpack("<q", struct.pack("<d", value))[0]
    return int(value)


def place_barriers(items: Sequence[Step | PythonStep], addresses: Addresses) -> list[Step | PythonStep]:
    """A step needs all threads to have finished the steps since the last barrier that it conflicts with."""
    out: list[Step | PythonStep] = []
    read: list[Touch] = []
    written: list[Touch] = []
    for item in items:
        over = item.over if isinstance(item, Step) else None
        reads, writes = ([touch(o, over, addresses) for o in side] for side in (item.reads(), item.writes()))
        conflict = collide(reads, written) or collide(writes, written) or collide(writes, read)
        alone = isinstance(item, PythonStep) or item.alone
        if conflict or alone:
            _end_with_barrier(out)
            read, written = [], []
        out.append(replace(item, barrier=alone) if isinstance(item, Step) else item)
        read += reads
        written += writes
    _end_with_barrier(out)
    return out


def _end_with_barrier(out: list[Step | PythonStep]) -> None:
    if out and isinstance(out[-1], Step):
        out[-1] = replace(out[-1], barrier=True)
