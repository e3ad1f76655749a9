"""The CUDA backend on cuda-python."""
