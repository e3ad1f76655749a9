"""The one place that compiles: kernels by (template, ints), helpers, and their disk cache.

Numba notices edits in the compiled function's own file only, and intrinsics live elsewhere. The locator below
stamps every kernel, in whatever package it is, with a digest of all sources of the CPU backend, of its own file and
package, and of the library versions.
"""

import contextlib
import ctypes
import functools
import hashlib
import inspect
import shutil
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any

import llvmlite
import numba
from numba.core import caching, types
from numba.extending import overload

from graphsched import env
from graphsched.backends.cpu.language import target
from graphsched.backends.cpu.language.inlining import InlinedCompiler, inlined
from graphsched.backends.cpu.language.signature import (
    Argument,
    Bound,
    KernelError,
    Signature,
    StepType,
    parse,
)

BACKEND = Path(__file__).resolve().parents[1]
CALL = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)  # step, run, ith, nth
KEPT_SECONDS = 30 * 24 * 3600
_LOOSE = {
    "error_model": "numpy",
    "boundscheck": False,
    "_nrt": False,
}  # no checks that could raise: kernels never do
OPTIONS = {"nopython": True, **_LOOSE}
_INLINED = {"forceinline": True, "no_cfunc_wrapper": True, "no_cpython_wrapper": True, **_LOOSE}


def sources(file: Path) -> Iterator[Path]:
    """What a kernel in `file` is made of: the CPU backend, that file, and if it is in a package, those beside it."""
    yield from sorted(BACKEND.rglob("*.py"))
    if BACKEND not in file.parents:
        yield from sorted(file.parent.glob("*.py")) if (file.parent / "__init__.py").exists() else (file,)


@functools.cache
def source_digest(file: Path) -> str:
    """Digest of the sources of kernels in a file, and of the compiler's versions."""
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    for source in sources(file):
        place = source.relative_to(BACKEND) if BACKEND in source.parents else Path(source.name)
        digest.update(str(place).encode() + source.read_bytes())
    return digest.hexdigest()


@functools.cache
def cache_folder(file: Path) -> Path:
    """Where compiled functions of a file for this CPU are kept.

    Numba numbers the variants of a function. Processes that compile two of them at the same time would give them the
    same number, and later load one for the other: so every variant has a name, and every version a folder, of its own.
    """
    all_versions = env.cache_dir() / "kernels"
    current = all_versions / f"{source_digest(file)[:12]}-{target.name()}"
    if all_versions.is_dir() and not current.exists():
        forget_old(all_versions)
    return current


def forget_old(folder: Path) -> None:
    """Removes what was last written to long ago."""
    for old in folder.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(old) if old.is_dir() else old.unlink()


# What is compiled here: the file that it stands in, and a name for its variant.
_OURS: "weakref.WeakKeyDictionary[FunctionType, tuple[Path, str]]" = weakref.WeakKeyDictionary()


def _own(fn: FunctionType, at: FunctionType) -> None:
    """Makes a function one that is cached here, as what stands where `at` does."""
    file = Path(at.__code__.co_filename).resolve()
    params = (f"{cell.cell_contents}" for cell in fn.__closure__ or ())
    _OURS[fn] = file, "-".join((file.parent.name, file.stem, f"{at.__code__.co_firstlineno}", *params))


class DigestLocator(caching._CacheLocator):
    """Caches kernels and entries in `cache_folder`, stamped with `source_digest`; other functions are Numba's."""

    def __init__(self, py_func: Any, py_file: str) -> None:
        file, self._name = _OURS[py_func]
        self._file = BACKEND / "__init__.py" if BACKEND in file.parents else file

    def get_cache_path(self) -> str:
        """The folder of this version of the sources."""
        return str(cache_folder(self._file))

    def get_source_stamp(self) -> str:
        """What a cached function must have been compiled from."""
        return source_digest(self._file)

    def get_disambiguator(self) -> str:
        """The name of this variant of a function."""
        return self._name

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> "DigestLocator | None":
        """A locator for what is compiled here and can be kept; None leaves it to Numba's own."""
        if py_func not in _OURS:
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
    return inlined(fn, **_INLINED)


def by_literal(stub: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Decorates `choose(kind) -> implementation` for a stub whose first argument is a literal int.

    The implementation that fits the literal is inlined: how kernels pick a tensor type at compile time.
    """

    def attach(choose: Callable[[int], Callable[..., Any]]) -> Any:
        def typed(kind: Any, *rest: Any) -> Any:
            return choose(kind.literal_value) if isinstance(kind, types.IntegerLiteral) else None

        typed.__signature__ = inspect.signature(stub)  # type: ignore[attr-defined]  # numba compares parameters
        return overload(
            stub,
            prefer_literal=True,
            strict=False,
            jit_options={**_INLINED, "pipeline_class": InlinedCompiler},
        )(typed)

    return attach


def entry(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A nopython function that Python calls without the GIL."""
    assert isinstance(fn, FunctionType)
    _own(fn, fn)
    return numba.njit(nogil=True, cache=True, **_LOOSE)(fn)


Build = Callable[..., Callable[..., None]]


class Kernel:
    """A compiled step function `void(step, run, ith, nth)`, made on first use.

    signature: what its step record holds; None where the caller lays out the words itself. at: the function whose file
    and line are the kernel's, for those who look for it and for the cache.
    """

    def __init__(
        self,
        name: str,
        build: Build,
        params: tuple[int, ...],
        signature: Signature | None,
        at: Callable[..., Any],
    ) -> None:
        self.name = name + "".join(f"_{p}" for p in params)
        self.signature = signature
        self._build, self._params, self._at = build, params, at

    @functools.cached_property
    def compiled(self) -> Any:
        """Numba's C callback; compiles, or loads from disk, at first use."""
        fn = self._build(*self._params)
        assert isinstance(fn, FunctionType)
        self._check(fn)
        if fn not in _OURS:
            _own(fn, fn)
        step = types.int64 if self.signature is None else StepType(self.signature)
        parameters = (step, types.int64, types.int64, types.int64)
        return numba.cfunc(types.void(*parameters), cache=True, **OPTIONS)(fn)

    def _check(self, fn: FunctionType) -> None:
        """What is declared must be what is unpacked, and the disk cache must be able to tell closures apart."""
        for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
            if not isinstance(cell.cell_contents, int | str):
                raise KernelError(
                    f"kernel {self.name} closes over {name}, which is no int: it would never be cached"
                )
        declared = tuple(p.name for p in self.signature.parameters) if self.signature else ()
        unpacked = fn.__code__.co_varnames[
            4 : 4 + len(declared)
        ]  # locals come in the order of their first use
        if unpacked != declared and set(declared) & set(fn.__code__.co_varnames):
            raise KernelError(
                f"kernel {self.name} declares {', '.join(declared)}: it begins with these names = arguments(step), in "
                "this order, or has none of them as a local"
            )

    def bind(
        self, args: Mapping[str, Bound], each: Sequence[Mapping[str, Bound]] = ()
    ) -> tuple[Argument, ...]:
        """The arguments of a step, see `Signature.bind`."""
        if self.signature is None:
            raise KernelError(f"kernel {self.name} has no signature: it is not called by steps")
        return self.signature.bind(args, each)

    @property
    def address(self) -> int:
        """Where its machine code is, for the record of a step."""
        return self.compiled.address

    @functools.cached_property
    def call(self) -> Callable[[int, int, int, int], None]:
        """Runs a step on the calling thread, without the GIL."""
        return CALL(self.address)

    @property
    def source(self) -> str:
        """Where it is written: file:line."""
        assert isinstance(self._at, FunctionType)
        return f"{Path(self._at.__code__.co_filename).name}:{self._at.__code__.co_firstlineno}"

    @property
    def was_cached(self) -> bool:
        """Whether its machine code came from the disk."""
        return bool(self.compiled.cache_hits)

    def __repr__(self) -> str:
        return f"Kernel({self.name})"


def kernel(declaration: str | None, each: str = "") -> Callable[[Build], Callable[..., Kernel]]:
    """Declares a kernel family: `build(*ints)` returns the function `(step, run, ith, nth)` to compile.

    `declaration` names its arguments, `each` those that are repeated behind them (signature.py). The function begins
    with `names = arguments(step)`, or where these are many with `a = arguments(step)`, and has them as `a.name`.
    With None its step is the address of words that the caller lays out itself.
    The function may close over ints only: closures over functions never hit the disk cache.
    """

    def declare(build: Build) -> Callable[..., Kernel]:
        name = build.__name__
        signature = None if declaration is None else parse(name, declaration, each)

        @functools.cache
        def family(*params: int) -> Kernel:
            return Kernel(name, build, params, signature, build)

        return family

    return declare


def specialised(
    name: str, declaration: str, template: Callable[..., None], **functions: Callable[..., Any]
) -> Kernel:
    """A kernel whose function is `template` with other functions in place of globals that it calls.

    A closure over these would never hit the disk cache. It is cached as what stands where the first of them does.
    """

    first = next(iter(functions.values()))

    def build() -> Callable[..., None]:
        assert isinstance(template, FunctionType)
        assert isinstance(first, FunctionType)
        scope = template.__globals__ | {n: helper(f) for n, f in functions.items()}
        function = FunctionType(template.__code__, scope, name)
        _own(function, first)
        return function

    return Kernel(name, build, (), parse(name, declaration), first)
