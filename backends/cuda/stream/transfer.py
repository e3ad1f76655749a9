"""Copies between the host and a GPU, or two GPUs, as items."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from graphsched.backends.cuda import driver
from graphsched.backends.cuda.families.copy import fetch_experts, fetch_rows
from graphsched.backends.cuda.launch.lowering import FIXED, At, Launch
from graphsched.graph.tensor import Extent, length_word
from graphsched.run.operand import Operand, Out, Work

Send = Callable[[int, int, int, Any], None]  # to, source, bytes, stream


@dataclass(frozen=True, eq=False)
class Transfer:
    """A dense tensor's actual rows, by the copy engine."""

    source: Operand
    result: Operand
    send: Send
    row_bytes: int
    rows: int  # an extent where their number differs from run to run
    device: str
    work: Work
    node: int = -1

    def reads(self) -> list[Operand]:
        """What it reads."""
        return [self.source]

    def writes(self) -> list[Operand]:
        """What it writes."""
        return [self.result]


def transfer(source: Operand, result: Operand, device: str, on_host: str) -> Transfer | Launch:
    """An item of a device that copies activations; lengths that a graph does not fix are read by a kernel."""
    assert source.is_contiguous, f"{source.buffer.name} is copied as dense"
    work: Work = "down" if result.buffer.device == on_host else "up"
    shape = source.type.shape
    rows = shape[0] if shape and length_word(shape[0]) else 1
    row_bytes = source.type.nbytes // max(int(rows), 1)
    if isinstance(rows, Extent) and rows.word not in FIXED and work == "up":
        extent, most = rows, int(rows)

        def make(at: At) -> list[Any]:
            return [fetch_rows(at(source), at(result), row_bytes, at.word(extent), most)]

        return Launch(make, (source, Out(result)), -1, device, work)
    send: Send = driver.copy_down if work == "down" else driver.copy_up
    if source.buffer.device != on_host and work == "up":
        send = driver.copy_across
    return Transfer(source, result, send, row_bytes, rows, device, work)


def experts(source: Operand, result: Operand, ids: Operand, nbytes: int, device: str) -> Launch:
    """An item that fetches the experts that this run's ids name; `nbytes` of each, as the device holds them."""
    n_expert = int(source.type.shape[0])

    def make(at: At) -> list[Any]:
        n = at.n(ids.type.shape[0]) * int(ids.type.shape[1])
        return [fetch_experts(at(source), at(result), at(ids), n, n_expert, nbytes)]

    return Launch(make, (source, ids, Out(result)), -1, device, "up")
