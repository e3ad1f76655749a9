"""Lowering on the CPU: an item is a step, one kernel call per thread."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphsched.backends.cpu.language.jit import Kernel
from graphsched.backends.cpu.language.signature import Bound
from graphsched.backends.cpu.program import layout
from graphsched.backends.cpu.program.copies import copy_items, copy_rows_f32
from graphsched.backends.cpu.program.layout import rows_of as rows_of
from graphsched.backends.cpu.program.overlap import Over
from graphsched.backends.cpu.program.pack import Step
from graphsched.graph.tensor import Tensor, TensorType
from graphsched.run import lowering
from graphsched.run.device import Raw, Setup
from graphsched.run.operand import Item, Memory, Operand


@dataclass
class Low(lowering.Low):
    """Lowers nodes to steps of the CPU's kernels, on the host or on a simulated device.

    deterministic: no kernel whose bits for a token depend on how many others there are.
    """

    deterministic: bool = False

    def step(
        self,
        kernel: Kernel,
        *,
        rows: tuple[int, int] = (layout.ONE, 1),
        over: Over = None,
        each: Sequence[Mapping[str, Bound]] = (),
        **args: Bound,
    ) -> None:
        """Adds a step: a call of `kernel` with arguments as its signature names them, and `each` of its repeated ones.

        `rows`: what the kernel's `rows(step, run)` is, a word of the run block times a factor (`rows_of`).
        `over`, instead of it: the units are the rows of this type, dealt out by `share`, and unit r touches no row but
        r of an operand with as many rows, so that steps over the same rows need no barrier in between. Of several types
        each shares out its own: then `rows` is given, too.
        Raises KernelError for arguments that do not fit the signature.
        """
        word, times = rows_of(over) if isinstance(over, TensorType) else rows
        self.items.append(
            Step(kernel, kernel.bind(args, each), word, times, self._node, self.device, over=over)
        )

    def dense(self, operand: Operand) -> Operand:
        """The operand, or a dense copy of it."""
        if operand.is_contiguous:
            return operand
        dtype, n = operand.type.dtype, operand.type.shape[-1]
        copy = self.scratch("contiguous", operand.type)
        args: dict[str, Any] = {"x": operand, "y": copy, **row_strides(x=operand)}
        if operand.has_whole_rows and dtype.block == 1 and dtype.nbytes == 4:
            self.step(copy_rows_f32(), **args, n=n, y_row=4 * n, over=operand.type)
        else:
            items = (1, dtype.row_bytes(n)) if operand.has_whole_rows else (n, dtype.nbytes)
            args |= {"n": items[0], "size": items[1], "x_item": operand.strides[-1]}
            self.step(copy_items(), **args, over=operand.type)
        return copy


def new_low(
    leaf: Callable[[Tensor], Operand],
    items: list[Item],
    adopt: Callable[[Raw], Memory],
    setup: Setup,
    device: str,
) -> Low:
    """What lowers nodes of a device whose kernels are the CPU's to `items`."""
    return Low("cpu", leaf, items, adopt, setup.n_threads, device, deterministic=setup.deterministic)


def row_strides(**operands: Operand) -> dict[str, Any]:
    """`heads`, and NAME_token and NAME_head, bytes from token to token and from head to head, for each operand.

    Row r of an operand [T, heads, n] or [T, n] is at `row_at(NAME, r, heads, NAME_token, NAME_head)` in a kernel.
    `heads` is the first one's.
    """
    strides = dict[str, Any]()
    for name, operand in operands.items():
        tokens, *heads = operand.strides[:-1] or (0,)
        strides.setdefault("heads", operand.type.shape[1] if heads else 1)
        strides |= {f"{name}_token": tokens, f"{name}_head": heads[0] if heads else 0}
    return strides
