"""The Numba CPU backend."""

from graphsched.backends.cpu.runtime import CpuBackend

BACKEND = CpuBackend()
