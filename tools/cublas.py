"""BF16 products by cuBLAS, called through ctypes; the [cublas] extra installs it."""

import ctypes
from typing import Any

BF16, F32, COMPUTE_F32, NO, YES, DEFAULT_ALGORITHM = 14, 0, 68, 0, 1, -1
WORKSPACE = 32 << 20  # given once, so that products can be captured in a graph


def load() -> ctypes.CDLL | None:
    """The library of the installed package or of the system, or None."""
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        return ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path)
    except Exception:  # pathfinder's errors are several, and all mean that there is none
        return None


class Cublas:
    """A handle on the current context."""

    def __init__(self, library: ctypes.CDLL, workspace: Any) -> None:
        self.library, self.handle = library, ctypes.c_void_p()
        self._check("cublasCreate_v2", ctypes.byref(self.handle))
        at = ctypes.c_void_p(int(workspace.handle))
        self.workspace = (at, ctypes.c_size_t(WORKSPACE))
        self.one, self.zero = ctypes.c_float(1), ctypes.c_float(0)

    def product(self, stream: Any, w: int, x: int, y: int, tokens: int, rows: int, k: int) -> None:
        """y[tokens, rows] = x[tokens, k] · w[rows, k]ᵀ, all bf16, sums in float32."""
        self._check("cublasSetStream_v2", self.handle, ctypes.c_void_p(int(stream.handle)))
        self._check("cublasSetWorkspace_v2", self.handle, *self.workspace)  # a new stream forgets it
        a, b, c = ctypes.c_void_p(w), ctypes.c_void_p(x), ctypes.c_void_p(y)
        sizes, one, zero = (rows, tokens, k), ctypes.byref(self.one), ctypes.byref(self.zero)
        matrices = (one, a, BF16, k, b, BF16, k, zero, c, BF16, rows)
        self._check("cublasGemmEx", self.handle, YES, NO, *sizes, *matrices, COMPUTE_F32, DEFAULT_ALGORITHM)

    def _check(self, name: str, *args: Any) -> None:
        status = getattr(self.library, name)(*args)
        if status:
            raise RuntimeError(f"{name} returned {status}")
