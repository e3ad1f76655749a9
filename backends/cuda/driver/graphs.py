"""CUDA graphs: what was queued once, run again."""

from collections.abc import Callable
from typing import Any

from graphsched.backends.cuda.driver.status import check


def captured(stream: Any, work: Callable[[Any], None]) -> Any:
    """What `work(stream)` queues, as a graph that `replay` runs and `discard` frees; nothing runs now."""
    from cuda.bindings import driver

    mode = (
        driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
    )  # memory may be freed by chance meanwhile
    check(driver.cuStreamBeginCapture(stream.handle, mode))
    try:
        work(stream)
    finally:
        ended = driver.cuStreamEndCapture(stream.handle)
    graph = check(ended)
    try:
        return check(driver.cuGraphInstantiate(graph, 0))
    finally:
        driver.cuGraphDestroy(graph)


def replay(graph: Any, stream: Any) -> None:
    """Launches a captured graph in a stream."""
    from cuda.bindings import driver

    check(driver.cuGraphLaunch(graph, stream.handle))


def discard(graph: Any) -> None:
    """Frees a captured graph, which must not be running."""
    from cuda.bindings import driver

    driver.cuGraphExecDestroy(graph)
