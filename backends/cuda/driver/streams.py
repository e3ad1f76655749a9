"""Streams, events, and words of host memory that streams wait for."""

from typing import Any

from graphsched.backends.cuda.driver.gpu import Gpu
from graphsched.backends.cuda.driver.status import check
from graphsched.backends.cuda.signature import KernelError


def new_stream(gpu: Gpu) -> Any:
    """A stream that does not wait for the legacy default stream."""
    from cuda.core import StreamOptions

    return gpu.core.create_stream(options=StreamOptions(nonblocking=True))


def record(stream: Any, timed: bool = False) -> Any:
    """An event at the stream's present end."""
    from cuda.core import EventOptions

    event = stream.device.create_event(options=EventOptions(timing_enabled=timed))
    stream.record(event)
    return event


def finished(stream: Any) -> bool:
    """Whether all work of the stream is done; KernelError if some of it failed."""
    from cuda.bindings import driver

    (error,) = driver.cuStreamQuery(stream.handle)
    if error == driver.CUresult.CUDA_ERROR_NOT_READY:
        return False
    check((error,))
    return True


def failed(stream: Any) -> bool:
    """Whether work of the stream has failed."""
    try:
        finished(stream)
    except KernelError:
        return True
    return False


def await_word(address: int, stream: Any) -> None:
    """What follows in the stream starts when the word in host memory is 1."""
    from cuda.bindings import driver

    check(driver.cuStreamWaitValue32(stream.handle, address, 1, 0))


def raise_word(address: int, stream: Any) -> None:
    """Sets the word in host memory to 1 when all before it in the stream is done and visible."""
    from cuda.bindings import driver

    check(driver.cuStreamWriteValue32(stream.handle, address, 1, 0))
