"""The one place that compiles: kernels by (template, ints), helpers, and functions that Python calls."""

import ctypes
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any

import numba
from numba.core import types
from numba.core.ccallback import CFunc
from numba.extending import overload

from graphsched.backends.cpu.language.inlining import InlinedCompiler, inlined
from graphsched.backends.cpu.language.kernel_cache import KernelCache
from graphsched.backends.cpu.language.signature import (
    Argument,
    Bound,
    KernelError,
    Signature,
    StepType,
    parse,
)

CALL = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)  # step, run, ith, nth
_LOOSE = {
    "error_model": "numpy",
    "boundscheck": False,
    "_nrt": False,
}  # no checks that could raise: kernels never do
OPTIONS = {"nopython": True, **_LOOSE}
_INLINED = {"forceinline": True, "no_cfunc_wrapper": True, "no_cpython_wrapper": True, **_LOOSE}


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
    dispatcher = numba.njit(nogil=True, **_LOOSE)(fn)
    dispatcher._cache = KernelCache(fn.__name__, fn, fn)
    return dispatcher


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
        compiled = self._callback
        compiled.compile()
        return compiled

    @functools.cached_property
    def _callback(self) -> Any:
        """The same before it is compiled."""
        fn = self._build(*self._params)
        assert isinstance(fn, FunctionType)
        self._check(fn)
        step = types.int64 if self.signature is None else StepType(self.signature)
        callback: Any = CFunc(fn, ((step, types.int64, types.int64, types.int64), types.void), {}, OPTIONS)
        callback._cache = KernelCache(self.name, fn, self._at)
        return callback

    @property
    def is_there(self) -> bool:
        """Whether nothing has to be compiled for it: it was, here or by another process."""
        return "compiled" in vars(self) or self._callback._cache.keeps(self._callback._sig)

    @property
    def recipe(self) -> tuple[str, str, tuple[int, ...]] | None:
        """(module, family, parameters) by which another process finds it; None for one of no module of ours."""
        module, name = self._build.__module__, self._build.__name__
        is_ours = module.startswith("graphsched.") and self._build.__qualname__ == name
        return (module, name, self._params) if is_ours else None

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

    It is cached as what stands where the first of them does.
    """
    first = next(iter(functions.values()))

    def build() -> Callable[..., None]:
        assert isinstance(template, FunctionType)
        scope = template.__globals__ | {n: helper(f) for n, f in functions.items()}
        return FunctionType(template.__code__, scope, name)

    return Kernel(name, build, (), parse(name, declaration), first)
