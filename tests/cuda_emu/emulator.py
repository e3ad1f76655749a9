"""Builds kernel files with g++ and calls them on numpy arrays, arguments packed as for a GPU."""

import ctypes
import fcntl
import hashlib
import mmap
import os
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import numpy as np

from cuda_emu.values import FILES, Array, Out
from graphsched.backends.cuda.driver.signature import KernelError, parse
from graphsched.backends.cuda.launch.call import Call
from graphsched.backends.cuda.launch.compiler import assemble, cache_dir

HEADER = Path(__file__).with_name("gs_emu.h")
MARK = b"\xa5"  # what lies before an array: neither zero nor NaN
FLAGS = (
    "-std=c++20",
    "-O1",
    "-shared",
    "-fPIC",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
    "-ffp-contract=off",
)
# traps on undefined behaviour: misaligned vectors, overflow, shifts, indices past an array's end
CHECKED = ("-fsanitize=undefined", "-fsanitize-undefined-trap-on-error", "-fno-sanitize=vptr")
# Under these the process ends with the sanitizer's report; it has to start with the sanitizer's library (sanitized.py).
SANITIZERS = {
    "address": ("-fsanitize=address,undefined", "-fno-sanitize=vptr", "-fno-sanitize-recover=all", "-g1"),
    "thread": ("-fsanitize=thread", "-g1"),
}
RUN = (
    'extern "C" int gs_run_{0}(void** a, const u32* d, u32 s, u32 seed, char* text) '
    "{{ return gs_emu::launch(gs_emu::Entry<{0}>::call, a, d, s, seed, text); }}\n"
    'extern "C" const u32* gs_sizes_{0}() {{ return gs_emu::Entry<{0}>::sizes(); }}\n'
)


def compiler() -> str | None:
    """g++, or None where there is none."""
    return shutil.which("g++")


class Emulator:
    """The kernels of one file (for these weight types) on the CPU."""

    def __init__(
        self, stem: str, types: tuple[str, ...] = (), source: str | None = None, more: tuple[str, ...] = ()
    ) -> None:
        text = assemble(stem, types) if source is None else source
        self.signatures = parse(text)
        self.path = self.built(text, more)
        self._library = ctypes.CDLL(str(self.path))

    def built(self, text: str, more: tuple[str, ...]) -> Path:
        return build(text, FLAGS + more)

    def launch(
        self,
        name: str,
        grid: Sequence[int],
        block: int,
        args: Sequence[object],
        shared: int = 0,
        seed: int = 0,
    ) -> None:
        """Run one kernel to its end; a fault, deadlock or misuse raises KernelError."""
        packed = self.signatures[name].pack([_address(a) for a in args])
        pointers = (ctypes.c_void_p * len(packed))(*(ctypes.addressof(p) for p in packed))
        dims = (ctypes.c_uint32 * 4)(*grid, *(1 for _ in range(3 - len(grid))), block)
        text = ctypes.create_string_buffer(512)
        if getattr(self._library, f"gs_run_{name}")(pointers, dims, shared, seed, text):
            raise KernelError(f"{name}: {text.value.decode()}")


def _address(a: object) -> object:
    return a.ctypes.data if isinstance(a, np.ndarray) else a


def guarded(a: Array) -> Array:
    """A copy of `a` with an unreadable page right behind it and a page of marks before it; 16-byte aligned."""
    page = mmap.PAGESIZE
    room = -(-max(a.nbytes, 1) // 16) * 16
    size = page + -(-room // page) * page
    m = mmap.mmap(-1, size + page)
    base = ctypes.addressof(ctypes.c_char.from_buffer(m))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(base + size), ctypes.c_size_t(page), 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    m[: size - room] = MARK * (size - room)
    out = np.frombuffer(m, a.dtype, a.size, size - room).reshape(a.shape)
    out[...] = a
    return out


def bordered(a: Array) -> Array:
    """A copy of `a` in memory of exactly its size, which the address sanitizer puts borders around."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)
    address = libc.malloc(ctypes.c_size_t(max(a.nbytes, 1)))
    raw = (ctypes.c_char * max(a.nbytes, 1)).from_address(address)
    weakref.finalize(raw, libc.free, address)
    out = np.frombuffer(memoryview(raw), a.dtype, a.size).reshape(a.shape)
    out[...] = a
    return out


def untouched_before(a: Array) -> bool:
    """Whether the marks before what guarded() returned are still there."""
    before = (ctypes.c_char * mmap.PAGESIZE).from_address(a.ctypes.data - mmap.PAGESIZE)
    return before.raw == MARK * mmap.PAGESIZE


def build(source: str, flags: tuple[str, ...] = FLAGS) -> Path:
    """The shared library of the kernels in `source`, from the cache or built now."""
    source += "".join(map(RUN.format, parse(source)))
    digest = hashlib.sha256("\0".join((source, HEADER.read_text(), *flags)).encode()).hexdigest()[:32]
    folder = library_folder()
    library = folder / f"{digest}.so"
    with _alone(library):
        if not library.is_file():
            _compile(source, library, flags)
    return library


@contextmanager
def _alone(library: Path) -> Iterator[None]:
    """Of processes that want the same library one builds it, and the others wait."""
    with open(library.with_suffix(".lock"), "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def built_whole(source: Path, name: str, flags: tuple[str, ...]) -> Path:
    """The shared library called `name` of a file that includes no other of the project, as above."""
    digest = hashlib.sha256("\0".join((source.read_text(), *flags)).encode()).hexdigest()[:32]
    library = library_folder() / digest / name
    library.parent.mkdir(exist_ok=True)
    with _alone(library), tempfile.TemporaryDirectory(dir=library.parent) as tmp:
        if not library.is_file():
            _gxx(*flags, "-shared", "-fPIC", str(source), "-o", str(Path(tmp, name)), "-ldl")
            os.replace(Path(tmp, name), library)
    return library


def library_folder() -> Path:
    """Where libraries are kept: beside the cubins, or among the temporary files."""
    folder = cache_dir().with_name("emulator")
    if not _writable(folder):
        folder = Path(tempfile.gettempdir()) / f"graphsched-emulator-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _compile(source: str, library: Path, flags: tuple[str, ...]) -> None:
    header = _precompiled(library.parent, flags)
    with tempfile.TemporaryDirectory(dir=library.parent) as tmp:
        cpp, out = Path(tmp, "kernels.cpp"), Path(tmp, "kernels.so")
        cpp.write_text(source)
        _gxx(*flags, "-include", str(header), str(cpp), "-o", str(out))
        os.replace(out, library)


@cache
def _precompiled(folder: Path, flags: tuple[str, ...]) -> Path:
    """The header in a folder of its own, compiled beside it: reading it takes as long as most kernel files do."""
    digest = hashlib.sha256("\0".join((HEADER.read_text(), *flags)).encode()).hexdigest()[:32]
    header = folder / f"header-{digest}" / HEADER.name
    with _alone(folder / f"header-{digest}"):
        if header.exists():
            return header
        with tempfile.TemporaryDirectory(dir=folder) as tmp:
            copy = Path(tmp, "header", HEADER.name)
            copy.parent.mkdir()
            shutil.copyfile(HEADER, copy)
            _gxx(*flags, "-w", "-x", "c++-header", str(copy), "-o", f"{copy}.gch")
            with suppress(OSError):  # another process was faster
                os.rename(copy.parent, header.parent)
    return header


def _gxx(*words: str) -> None:
    done = subprocess.run([compiler() or "g++", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise KernelError(f"g++ failed:\n{done.stderr[:4000]}")


class EmulatedTarget:
    """Runs cases (cases.py): every array is copied to where reading past its end faults, or a sanitizer sees it."""

    def __init__(
        self, seed: int = 0, more: tuple[str, ...] = (), files: Mapping[str, tuple[str, ...]] = FILES
    ) -> None:
        self.seed, self.more, self.files = seed, more, files
        self._sanitized = more in SANITIZERS.values()
        self.libraries: dict[str, Emulator] = {}

    def emulator(self, stem: str) -> Emulator:
        return Emulator(stem, self.files[stem], more=self.more)

    def run(self, *calls: Call) -> None:
        """The launches one after the other; outputs come back before the next."""
        for c in calls:
            if c.stem not in self.libraries:
                self.libraries[c.stem] = self.emulator(c.stem)
            placed = bordered if self._sanitized else guarded
            given = {id(a): placed(_memory(a)) for a in c.args if isinstance(a, np.ndarray | Out)}
            args = [given.get(id(a), a) for a in c.args]
            self.libraries[c.stem].launch(c.kernel, c.grid, c.block, args, c.shared, self.seed)
            for out in (a for a in c.args if isinstance(a, Out)):
                out.array[...] = given[id(out)]
            if not self._sanitized and not all(map(untouched_before, given.values())):
                raise KernelError(f"{c.kernel}: wrote before the start of its memory")


def _memory(a: Array | Out) -> Array:
    return a.array if isinstance(a, Out) else a
