"""cuBLASLt, called through ctypes; the [cublas] extra installs it. Numbers are those of CUDA 13's cublasLt.h."""

import ctypes
from collections.abc import Callable
from ctypes import byref, c_float, c_int, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from functools import cache
from typing import Any, Final

from graphsched.backends.cuda.driver.signature import KernelError

CUBLAS_ROOM: Final = 32 << 20  # bytes for partial sums, as the library advises for Hopper
TYPES: Final = {"f32": 0, "f16": 2, "bf16": 14}  # cudaDataType
COMPUTE_F32, TRANSPOSED = 68, 1
TRANSA: Final = 3  # attribute of a product
MOST_ROOM, ALIGNMENTS = 1, (5, 6, 7, 8)  # attributes of a preference; of A, B, C and D


class Choice(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t: an algorithm and what it needs."""

    _fields_ = (
        ("algorithm", c_uint64 * 8),
        ("room", c_size_t),
        ("state", c_int),
        ("waves", c_float),
        ("reserved", c_int * 4),
    )


@cache
def library() -> ctypes.CDLL | None:
    """The library of the installed package or of the system, or None."""
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        return described(ctypes.CDLL(load_nvidia_dynamic_lib("cublasLt").abs_path))
    except Exception:  # pathfinder's errors are several, and all mean that there is none
        return None


def described(lib: ctypes.CDLL) -> ctypes.CDLL:
    """The library with the results of those calls that give more than a status."""
    lib.cublasLtGetVersion.restype = c_size_t
    lib.cublasLtGetStatusString.restype = ctypes.c_char_p
    return lib


def cublas_version() -> str:
    """cuBLASLt's version, "13.1.0", or nothing where it is not installed."""
    lib = library()
    if lib is None:
        return ""
    v = lib.cublasLtGetVersion()
    return f"{v // 10000}.{v // 100 % 100}.{v % 100}"


class Cublas:
    """A handle on the current device; `room`: the address of CUBLAS_ROOM bytes, for one stream at a time."""

    def __init__(self, room: int) -> None:
        lib = library()
        assert lib is not None, "asked before cublas_version()"
        self._library, self._room = lib, c_void_p(room)
        self._handle, self._product = c_void_p(), c_void_p()
        self._call("cublasLtCreate", byref(self._handle))
        self._call("cublasLtMatmulDescCreate", byref(self._product), COMPUTE_F32, TYPES["f32"])
        self._set("cublasLtMatmulDescSetAttribute", self._product, TRANSA, c_int32(TRANSPOSED))
        self._one, self._zero = c_float(1), c_float(0)
        self._layouts: dict[tuple[str, int, int, int], c_void_p] = {}
        self._choices: dict[tuple[object, ...], Choice] = {}

    def prepared(
        self, kind: str, x: int, w: int, y: int, shape: tuple[int, int, int], y_stride: int
    ) -> Callable[[Any], None]:
        """Puts y[m, n] = x[m, k] · w[n, k]ᵀ on a stream; shape (m, n, k), x and w f16 or bf16, y float32.

        The library's matrices have columns where ours have rows: there it is yᵀ = wᵀᵀ · xᵀ.
        """
        m, n, k = shape
        layouts = (
            self._layout(kind, k, n, k),
            self._layout(kind, k, m, k),
            self._layout("f32", n, m, y_stride),
        )
        choice = self._chosen(kind, shape, y_stride, layouts, _alignments(w, x, y))
        (a, b, c), pointers = layouts, (c_void_p(w), c_void_p(x), c_void_p(y))
        one, zero, algorithm = byref(self._one), byref(self._zero), byref(choice, Choice.algorithm.offset)
        room = self._room, c_size_t(choice.room)
        at_w, at_x, at_y = pointers
        args = (one, at_w, a, at_x, b, zero, at_y, c, at_y, c, algorithm, *room)

        def put(stream: Any) -> None:
            self._call("cublasLtMatmul", self._handle, self._product, *args, c_void_p(int(stream.handle)))

        return put

    def _layout(self, kind: str, rows: int, columns: int, stride: int) -> c_void_p:
        key = kind, rows, columns, stride
        if key not in self._layouts:
            layout = c_void_p()
            sizes = TYPES[kind], c_uint64(rows), c_uint64(columns), c_int64(stride)
            self._call("cublasLtMatrixLayoutCreate", byref(layout), *sizes)
            self._layouts[key] = layout
        return self._layouts[key]

    def _chosen(
        self,
        kind: str,
        shape: tuple[int, int, int],
        y_stride: int,
        layouts: tuple[c_void_p, c_void_p, c_void_p],
        alignments: tuple[int, int, int],
    ) -> Choice:
        """The algorithm that the library takes to be fastest, asked for once."""
        key = kind, shape, y_stride, alignments
        if key not in self._choices:
            self._choices[key] = self._choose(layouts, alignments, f"{kind} {shape}")
        return self._choices[key]

    def _choose(
        self, layouts: tuple[c_void_p, c_void_p, c_void_p], alignments: tuple[int, int, int], what: str
    ) -> Choice:
        a, b, c = layouts
        preference, choice, n = c_void_p(), Choice(), c_int()
        self._call("cublasLtMatmulPreferenceCreate", byref(preference))
        try:
            name = "cublasLtMatmulPreferenceSetAttribute"
            self._set(name, preference, MOST_ROOM, c_size_t(CUBLAS_ROOM))
            for attribute, alignment in zip(ALIGNMENTS, (*alignments, alignments[2]), strict=True):
                self._set(name, preference, attribute, c_uint32(alignment))
            request = self._product, a, b, c, c, preference, 1
            self._call("cublasLtMatmulAlgoGetHeuristic", self._handle, *request, byref(choice), byref(n))
        finally:
            self._library.cublasLtMatmulPreferenceDestroy(preference)
        if not n.value or choice.state:
            raise KernelError(
                f"cuBLASLt has no way to make the product {what}; GRAPHSCHED_CUDA_CUBLAS=0 avoids it"
            )
        return choice

    def _set(self, name: str, of: c_void_p, attribute: int, value: Any) -> None:
        self._call(name, of, attribute, byref(value), c_size_t(ctypes.sizeof(value)))

    def _call(self, name: str, *args: Any) -> None:
        status = getattr(self._library, name)(*args)
        if status:
            text = self._library.cublasLtGetStatusString(status).decode()
            raise KernelError(f"{name}: {text}")

    def close(self) -> None:
        """Gives back what the library holds."""
        for layout in self._layouts.values():
            self._library.cublasLtMatrixLayoutDestroy(layout)
        self._library.cublasLtMatmulDescDestroy(self._product)
        self._library.cublasLtDestroy(self._handle)
        self._layouts.clear()
        self._choices.clear()


def _alignments(*addresses: int) -> tuple[int, int, int]:
    """The powers of 2, up to 256, that addresses are multiples of."""
    a, b, c = (min(256, address & -address) for address in addresses)
    return a, b, c
