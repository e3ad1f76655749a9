"""How fast a file's weights get into the card's memory: read ahead, packed, sent."""

import time
from collections.abc import Iterator
from pathlib import Path

from gpu_bench import Row

from graphsched.backends.cuda.device import open_gpu
from graphsched.backends.cuda.launch.weights import TYPES
from graphsched.backends.cuda.packing.pieces import Packing, packing
from graphsched.backends.cuda.stream.memory import DeviceMemory
from graphsched.gguf.loader import ModelFile
from graphsched.graph.tensor import TensorType
from graphsched.session.model import open_default_or

GPU = "CUDA0"


def loading(path: Path | None, what: str) -> Iterator[Row]:
    """As a session does it, without what else a session does; at first from the disk, unless it was read before."""
    file = open_default_or(path).file
    weights = {
        t.name: packing(TensorType(t.dtype, t.shape)) for t in file.tensors.values() if t.dtype in TYPES
    }
    size = sum(file.raw(name).size for name in weights)
    for how in weights.values():
        how.compile()
    for when in ("first", "again"):
        seconds = loaded(file, weights)
        row = f"{what}: loading, file → GPU, {when}"
        yield Row(row, f"{size / 1e9:.2f} GB", seconds * 1e6, size / seconds / 1e9, "GB/s", 0.0)


def loaded(file: ModelFile, weights: dict[str, Packing]) -> float:
    """Seconds until all weights are on the card, with memory for them and for uploads."""
    memory = DeviceMemory(GPU, open_gpu(0))
    begin = time.perf_counter()
    try:
        for name, how in weights.items():
            memory.adopt(file.raw(name), how, name, "")
        memory.settle()
        return time.perf_counter() - begin
    finally:
        memory.close()
