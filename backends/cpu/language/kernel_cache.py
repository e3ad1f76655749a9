"""Compiled functions on disk: a file for each, in a folder for each version of the sources and CPU.

Numba notices edits in the compiled function's own file only, and intrinsics live elsewhere: the folder is named by a
digest of all sources of the CPU backend, of the function's own file and package, and of the library versions.
"""

import functools
import hashlib
import pickle
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any, Final

import llvmlite
import numba
from numba.core import serialize
from numba.core.compiler import CompileResult
from numba.core.registry import cpu_target

from graphsched import disk_cache
from graphsched.backends.cpu.language import target

BACKEND: Final = Path(__file__).resolve().parents[1]
KEPT_SECONDS: Final = 30 * 24 * 3600


def sources(file: Path) -> Iterator[Path]:
    """What a kernel in `file` is made of: the CPU backend, that file, and if it is in a package, those beside it."""
    yield from sorted(BACKEND.rglob("*.py"))
    if BACKEND not in file.parents:
        yield from sorted(file.parent.glob("*.py")) if (file.parent / "__init__.py").exists() else (file,)


@functools.cache
def source_digest(file: Path) -> str:
    """Digest of the sources of kernels in a file, and of the versions that compile and load them."""
    digest = hashlib.sha256(f"{sys.version} {numba.__version__} {llvmlite.__version__}".encode())
    for source in sources(file):
        place = source.relative_to(BACKEND) if BACKEND in source.parents else Path(source.name)
        digest.update(str(place).encode() + source.read_bytes())
    return digest.hexdigest()


@functools.cache
def version_folder(file: Path) -> Path:
    """Where compiled functions of a file for this CPU are kept. Versions that nobody used for long go away."""
    all_versions = disk_cache.folder() / "kernels"
    current = all_versions / f"{source_digest(file)[:12]}-{target.name()}"
    if not current.exists():
        disk_cache.forget(all_versions, KEPT_SECONDS, time.time())
    return current


class KernelCache:
    """What Numba asks for a compiled function, and gives one to; nothing is touched before it does.

    name: one that no other function of its file has. at: the function in whose file it counts as written.
    """

    def __init__(self, name: str, fn: FunctionType, at: Any) -> None:
        file = Path(at.__code__.co_filename).resolve()
        self._name = "-".join((file.parent.name, file.stem, name))
        self._file = BACKEND / "__init__.py" if BACKEND in file.parents else file
        self._key = (at.__code__.co_firstlineno, fn.__code__.co_firstlineno, fn.__code__.co_code)

    def keeps(self, signature: Any) -> bool:
        """Whether a compiled function is on disk."""
        return self._path(signature, cpu_target.target_context.codegen()).exists()

    def load_overload(self, signature: Any, context: Any) -> Any:
        """The compiled function, None if it is not kept."""
        context.refresh()
        data = disk_cache.read(self._path(signature, context.codegen()))
        return None if data is None else CompileResult._rebuild(context, *pickle.loads(data))

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keeps a compiled function; one that holds an address of this process cannot be."""
        if not result.library.has_dynamic_globals:
            disk_cache.write(self._path(signature, result.codegen), serialize.dumps(result._reduce()))

    def _path(self, signature: Any, codegen: Any) -> Path:
        key = hashlib.sha256(repr((self._key, signature, codegen.magic_tuple())).encode())
        return version_folder(self._file) / f"{self._name}.{key.hexdigest()[:16]}.kernel"
