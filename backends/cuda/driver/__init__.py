"""All that imports `cuda`: can a GPU be used, and thin typed calls over cuda.core when one can.

`probe()` comes first: without a driver some cuda.core calls leave a lock held and the next hangs for ever.
"""

from graphsched.backends.cuda.driver.cublas import CUBLAS_ROOM, Cublas, cublas_version
from graphsched.backends.cuda.driver.gpu import (
    Gpu,
    copy_engines,
    device_count,
    driver_version,
    free_memory,
    has_stream_memory_operations,
    open_gpu,
    pci_bus,
    use,
)
from graphsched.backends.cuda.driver.graphs import captured, discard, replay
from graphsched.backends.cuda.driver.kernels import Kernel, allow_shared, load_kernels, prepared
from graphsched.backends.cuda.driver.memory import (
    copy_across,
    copy_down,
    copy_up,
    fill,
    free,
    free_unused,
    host_alloc,
    malloc,
)
from graphsched.backends.cuda.driver.nvrtc import compile_cubin, nvrtc_version
from graphsched.backends.cuda.driver.reason import nvrtc_reason, probe
from graphsched.backends.cuda.driver.status import fault
from graphsched.backends.cuda.driver.streams import (
    await_word,
    elapsed,
    failed,
    finished,
    new_event,
    new_stream,
    raise_word,
    reached,
    record,
    stamp,
)

__all__ = [
    "CUBLAS_ROOM",
    "Cublas",
    "Gpu",
    "Kernel",
    "allow_shared",
    "await_word",
    "captured",
    "compile_cubin",
    "copy_across",
    "copy_down",
    "copy_engines",
    "copy_up",
    "cublas_version",
    "device_count",
    "discard",
    "driver_version",
    "elapsed",
    "failed",
    "fault",
    "fill",
    "finished",
    "free",
    "free_memory",
    "free_unused",
    "has_stream_memory_operations",
    "host_alloc",
    "load_kernels",
    "malloc",
    "new_event",
    "new_stream",
    "nvrtc_reason",
    "nvrtc_version",
    "open_gpu",
    "pci_bus",
    "prepared",
    "probe",
    "raise_word",
    "reached",
    "record",
    "replay",
    "stamp",
    "use",
]
