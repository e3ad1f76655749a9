"""The CPU backend: Numba kernels in one packed program."""

from graphsched.backends.cpu.device import open_host

__all__ = ["open_host"]
