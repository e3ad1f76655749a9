"""What kernels are written in: vectors of the target, math, atomics, compilation."""
