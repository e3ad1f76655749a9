"""Streams, events, and words of host memory that streams wait for."""

from typing import Any

from graphsched.backends.cuda.driver.gpu import Gpu
from graphsched.backends.cuda.driver.signature import KernelError
from graphsched.backends.cuda.driver.status import check


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

    return _is_done(driver.cuStreamQuery(stream.handle))


def _is_done(result: tuple[Any, ...]) -> bool:
    from cuda.bindings import driver

    if result[0] == driver.CUresult.CUDA_ERROR_NOT_READY:
        return False
    check(result)
    return True


def failed(stream: Any) -> bool:
    """Whether work of the stream has failed."""
    try:
        finished(stream)
    except KernelError:
        return True
    return False


def new_event(gpu: Gpu, timed: bool = False) -> Any:
    """An event that is not recorded yet; `timed` ones tell when they were reached."""
    from cuda.core import EventOptions

    return gpu.core.create_event(options=EventOptions(timing_enabled=timed))


def stamp(event: Any, stream: Any) -> None:
    """Records an event at the stream's present end; in a capture every replay of the graph records it."""
    from cuda.bindings import driver

    capturing = driver.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_ACTIVE
    is_captured = check(driver.cuStreamIsCapturing(stream.handle)) == capturing
    flags = driver.CUevent_record_flags
    flag = flags.CU_EVENT_RECORD_EXTERNAL if is_captured else flags.CU_EVENT_RECORD_DEFAULT
    check(driver.cuEventRecordWithFlags(event.handle, stream.handle, int(flag)))


def elapsed(begin: Any, end: Any) -> float:
    """Seconds between two timed events, below 0 where `end` came first."""
    from cuda.bindings import driver

    return float(check(driver.cuEventElapsedTime(begin.handle, end.handle))) * 1e-3


def reached(event: Any) -> bool:
    """Whether all work before the event is done; KernelError if some of it failed."""
    from cuda.bindings import driver

    return _is_done(driver.cuEventQuery(event.handle))


def await_word(address: int, stream: Any) -> None:
    """What follows in the stream starts when the word in host memory is 1."""
    from cuda.bindings import driver

    check(driver.cuStreamWaitValue32(stream.handle, address, 1, 0))


def raise_word(address: int, stream: Any) -> None:
    """Sets the word in host memory to 1 when all before it in the stream is done and visible."""
    from cuda.bindings import driver

    check(driver.cuStreamWriteValue32(stream.handle, address, 1, 0))
