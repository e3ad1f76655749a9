"""Runs the kernels' cases and chains of launches on a GPU, through backends/cuda/driver."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gpu_calls
import numpy as np
from cuda_emu.values import FILES, Array, Out

from graphsched.backends.cuda import driver
from graphsched.backends.cuda.families import elementwise, matmul, moe, quantize
from graphsched.backends.cuda.launch import compiler
from graphsched.backends.cuda.launch.call import Call
from graphsched.backends.cuda.launch.layout import LAYOUTS


class GpuTarget:
    """Kernels by file and types, compiled on first use; `pdl`: launched with programmatic dependent launch."""

    def __init__(self, ordinal: int = 0) -> None:
        self.gpu = driver.open_gpu(ordinal)
        self.stream = driver.new_stream(self.gpu)
        self.can_overlap = int(self.gpu.arch.removeprefix("sm_")) >= 90  # programmatic dependent launch
        self.defines: tuple[str, ...] = ()
        self.loaded: dict[object, dict[str, driver.Kernel]] = {}

    def compile_all(self) -> int:
        """Fill the cubin cache, one thread a file and type; the number of kernels."""
        jobs: list[tuple[str, tuple[str, ...]]] = [
            (stem, (t,)) for stem, types in FILES.items() for t in types
        ]
        jobs += [
            (stem, ()) for stem, types in FILES.items() if not types or stem in ("copy", "moe", "attention", "recurrent")
        ]
        with ThreadPoolExecutor() as pool:
            modules = pool.map(lambda j: compiler.build(compiler.assemble(*j), self.gpu.arch), jobs)
            return sum(len(m.signatures) for m in modules)

    def kernel(self, call: Call) -> driver.Kernel:
        key = (call.stem, call.types, self.defines)
        if key not in self.loaded:
            module = compiler.build(compiler.assemble(call.stem, call.types), self.gpu.arch, self.defines)
            self.loaded[key] = driver.load_kernels(self.gpu, module.cubin, module.signatures)
        kernel = self.loaded[key][call.kernel]
        driver.allow_shared(kernel, call.shared)
        return kernel

    def launch(self, call: Call, stream: Any, pdl: bool) -> None:
        gpu_calls.launch(
            stream, self.kernel(call), call.grid, call.block, call.args, call.shared, pdl and self.can_overlap
        )

    def run(self, *calls: Call) -> None:
        """The launches one after the other, all with PDL; outputs come back at the end."""
        buffers: dict[int, Any] = {}
        outs = {id(a): a for c in calls for a in c.args if isinstance(a, Out)}
        for c in calls:
            args = [self._given(a, buffers) for a in c.args]
            ready = Call(c.stem, c.types, c.kernel, c.grid, c.block, tuple(args), c.shared)
            self.launch(ready, self.stream, pdl=True)
        for key, out in outs.items():
            gpu_calls.download(buffers[key], out.array, self.stream)
        for b in buffers.values():
            b.close(self.stream)

    def _given(self, a: object, buffers: dict[int, Any]) -> object:
        if not isinstance(a, np.ndarray | Out):
            return a
        if id(a) not in buffers:
            array: Array = a.array if isinstance(a, Out) else a
            buffers[id(a)] = gpu_calls.allocate(self.gpu, array.nbytes, self.stream)
            gpu_calls.upload(buffers[id(a)], array, self.stream)
        return buffers[id(a)]


def decode_like(target: GpuTarget, layers: int, k: int, pdl: bool, graph: bool) -> Array:
    """A chain in which each launch needs the one before: the result's bits must not depend on how it is launched."""
    rng, s = np.random.default_rng(5), target.stream
    buffers = {n: gpu_calls.allocate(target.gpu, 4 * k, s) for n in ("x", "q", "ds", "h", "o")}
    w = gpu_calls.allocate(target.gpu, 3 * LAYOUTS["q8_0"].nbytes_of(k, k), s)
    n = LAYOUTS["q8_0"].nbytes_of(k, k)
    codes, scales = rng.integers(-127, 128, k * k).astype(np.int8), np.full(k * k // 32, 2e-4, np.float16)
    for i in range(3):
        gpu_calls.upload(w, codes[rng.permutation(k)[0] :], s, i * n)  # bytes only: both planes are int8
        gpu_calls.upload(w, scales, s, i * n + k * k)
    gpu_calls.upload(buffers["x"], rng.standard_normal(k).astype(np.float32), s)
    gpu_calls.upload(buffers["o"], np.ones(k, np.float32), s)
    x, q, ds, h, ones = (buffers[b] for b in ("x", "q", "ds", "h", "o"))
    up, gate, down = (int(w.handle) + i * n for i in range(3))
    layer = (
        quantize.rms_norm_q8(x, ones, None, q, ds, 1, k, k, 1e-5),
        moe.up_gate("q8_0", up, gate, None, q, ds, h, (1, 1, 1), k, k),
        quantize.quantize(h, q, ds, 1, k, k),
        matmul.matvec("q8_0", down, q, ds, h, 1, k, k),
        elementwise.binary("add", x, h, x, 1, k, (k, k, k)),
    )
    for c in layer:
        target.kernel(c)

    def work(stream: Any) -> None:
        for c in layer * layers:
            target.launch(c, stream, pdl)

    if graph:
        made = driver.captured(s, work)
        driver.replay(made, s)
        s.sync()
        driver.discard(made)
    else:
        work(s)
    y = np.empty(k, np.float32)
    gpu_calls.download(x, y, s)
    return y
