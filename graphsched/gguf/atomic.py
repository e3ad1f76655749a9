"""Files that appear whole or not at all."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from graphsched.errors import OptionError, StoreError
from graphsched.gguf.format import printable


@contextmanager
def replacing(out: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `out` when all is written, and goes away when something fails.

    Where the file system can it has no name before that: a killed process leaves nothing behind.
    """
    # of this thread: two that write into one folder must not take each other's file
    part = out.with_name(f".graphsched-{os.getpid()}-{threading.get_native_id()}.part")
    try:
        with _nameless(part) as file:
            yield file
            file.flush()
            if not part.exists():
                _name(file, part)
        os.replace(part, out)
    except OSError as e:
        raise StoreError(f"{printable(str(out))}: {(e.strerror or str(e)).lower()}") from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _nameless(part: Path) -> BinaryIO:
    if hasattr(os, "O_TMPFILE") and Path("/proc/self/fd").is_dir():
        with suppress(OSError):
            return os.fdopen(os.open(part.parent, os.O_TMPFILE | os.O_RDWR, 0o666), "w+b")
    return part.open("xb")


def _name(file: BinaryIO, part: Path) -> None:
    """Gives the nameless file its name; what a file system does not link is copied."""
    try:  # with a directory, as Python follows the link to the file only then
        os.link(f"/proc/self/fd/{file.fileno()}", part, src_dir_fd=file.fileno(), follow_symlinks=True)
    except OSError:
        file.seek(0)
        with part.open("xb") as copy:
            shutil.copyfileobj(file, copy)


def check_target(out: Path, size: int, hint: str = "") -> None:
    """OptionError if no file of that size can be put there; `hint` tells what else can be done."""
    name = printable(str(out))
    if "\0" in str(out):
        raise OptionError(f"{name}: is not a possible file name")
    try:
        if out.is_dir() or (out.exists() and not out.is_file()):
            raise OptionError(f"{name}: is not a regular file")
        free = shutil.disk_usage(out.parent).free
    except OSError as e:
        raise OptionError(f"{name}: {(e.strerror or str(e)).lower()}") from None
    if size > free:
        raise OptionError(f"{name}: {size / 1e9:.1f} GB do not fit into {free / 1e9:.1f} GB{hint}")
