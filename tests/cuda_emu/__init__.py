"""Kernels of backends/cuda on the CPU: every CUDA thread is a fiber."""
