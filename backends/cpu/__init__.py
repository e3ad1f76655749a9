"""The Numba CPU backend: kernels on a pool of threads, for the host and for simulated devices."""

from graphsched.backends.cpu.runtime import CpuRuntime

open_runtime = CpuRuntime
