"""The one place that compiles: kernels by (template, ints), helpers, and their disk cache.

Numba notices edits in the compiled function's own file only, and intrinsics live elsewhere. The locator below
stamps every cached kernel with a digest of all sources of the CPU backend and of its own folder, and of the library
versions.
"""

import contextlib
import functools
import hashlib
import inspect
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core import caching, types
from numba.extending import overload

from graphsched import env
from graphsched.backends.cpu.language import target

BACKEND = Path(__file__).resolve().parents[1]
SIGNATURE = types.void(types.int64, types.int64, types.int64, types.int64)  # step, run, ith, nth
KEPT_SECONDS = 30 * 24 * 3600
_LOOSE = {"error_model": "numpy", "boundscheck": False}  # no checks that could raise: kernels never do
OPTIONS = {"nopython": True, **_LOOSE}


@functools.cache
def source_digest(folder: Path = BACKEND) -> str:
    """Digest of the sources of kernels in a folder of the backends, and of the compiler's versions."""
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    for place in dict.fromkeys((BACKEND, folder)):
        for file in sorted(place.rglob("*.py")):
            digest.update(str(file.relative_to(place)).encode() + file.read_bytes())
    return digest.hexdigest()


@functools.cache
def cache_folder(folder: Path = BACKEND) -> Path:
    """Where compiled functions of a folder's sources for this CPU are kept.

    Numba numbers the variants of a function. Processes that compile two of them at the same time would give them the
    same number, and later load one for the other: so every variant has a name, and every version a folder, of its own.
    """
    all_versions = env.cache_dir() / "kernels"
    own = all_versions / f"{source_digest(folder)[:12]}-{target.name()}"
    if all_versions.is_dir() and not own.exists():
        forget_old(all_versions)
    return own


def forget_old(folder: Path) -> None:
    """Removes what was last written to long ago."""
    for old in folder.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(old) if old.is_dir() else old.unlink()


class DigestLocator(caching._CacheLocator):
    """Caches functions of the backends in `cache_folder`, stamped with `source_digest`."""

    def __init__(self, py_func: Any, py_file: str) -> None:
        file = Path(py_file).resolve()
        self._folder = BACKEND if BACKEND in file.parents else file.parent
        params = (f"{cell.cell_contents}" for cell in py_func.__closure__ or ())
        self._name = "-".join((file.parent.name, file.stem, f"{py_func.__code__.co_firstlineno}", *params))

    def get_cache_path(self) -> str:
        return str(cache_folder(self._folder))

    def get_source_stamp(self) -> str:
        return source_digest(self._folder)

    def get_disambiguator(self) -> str:
        return self._name

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> "DigestLocator | None":
        if BACKEND.parent not in Path(py_file).resolve().parents:
            return None
        self = cls(py_func, py_file)
        try:
            self.ensure_cache_path()
        except OSError:
            return None
        return self


caching.CompileResultCacheImpl._locator_classes.insert(0, DigestLocator)


def helper(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A nopython function that kernels call; always inlined."""
    return numba.njit(forceinline=True, **_LOOSE)(fn)


def by_literal(stub: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Decorates `choose(kind) -> implementation` for a stub whose first argument is a literal int.

    The implementation that fits the literal is inlined: how kernels pick a tensor type at compile time.
    """

    def attach(choose: Callable[[int], Callable[..., Any]]) -> Any:
        def typed(kind: Any, *rest: Any) -> Any:
            return choose(kind.literal_value) if isinstance(kind, types.IntegerLiteral) else None

        typed.__signature__ = inspect.signature(stub)  # type: ignore[attr-defined]  # numba compares parameters
        options = {"forceinline": True, **_LOOSE}
        return overload(stub, prefer_literal=True, strict=False, jit_options=options)(typed)

    return attach


def entry(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A nopython function that Python calls without the GIL."""
    return numba.njit(nogil=True, cache=True, **_LOOSE)(fn)


class Kernel:
    """A compiled step function `void(step, run, ith, nth)`, made on first use."""

    def __init__(self, name: str, build: Callable[..., Callable[..., None]], params: tuple[int, ...]) -> None:
        self.name = name + "".join(f"_{p}" for p in params)
        self._build, self._params = build, params

    @functools.cached_property
    def compiled(self) -> Any:
        return numba.cfunc(SIGNATURE, cache=True, **OPTIONS)(self._build(*self._params))

    @property
    def address(self) -> int:
        return self.compiled.address

    @functools.cached_property
    def call(self) -> Callable[[int, int, int, int], None]:
        """Runs a step on the calling thread, without the GIL."""
        return self.compiled.ctypes

    @property
    def source(self) -> str:
        """Where the function that builds it is."""
        code = self._build.__code__
        return f"{Path(code.co_filename).name}:{code.co_firstlineno}"

    @property
    def was_cached(self) -> bool:
        return bool(self.compiled.cache_hits)

    def __repr__(self) -> str:
        return f"Kernel({self.name})"


def kernel(build: Callable[..., Callable[..., None]]) -> Callable[..., Kernel]:
    """Declares a kernel family: `build(*ints)` returns the function to compile.

    The function may close over those ints only: closures over functions never hit the disk cache.
    """

    @functools.cache
    def family(*params: int) -> Kernel:
        return Kernel(build.__name__, build, params)

    return family
