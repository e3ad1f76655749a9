"""What is kept between runs, such as compiled kernels: a convenience, so whatever is wrong with it is a miss.

A file is a digest of its data and the data. One that cannot be read, or is not whole, is made again; one that cannot
be written is done without, which a CacheWarning says once, with the folder and the reason.
"""

import atexit
import functools
import hashlib
import os
import shutil
import stat
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Final

from graphsched import env
from graphsched.errors import Error
from graphsched.gguf.atomic import replacing

DIGEST_BYTES: Final = 32


class CacheWarning(UserWarning):
    """Something will be made anew by the next run, too."""


def folder() -> Path:
    """GRAPHSCHED_CACHE_DIR or a folder of the user's; a private temporary one where that cannot be written to."""
    wanted = env.cache_dir()
    if wanted is not None and _can_be_written(wanted):
        return wanted
    what = "there is no home folder" if wanted is None else f"{wanted} cannot be written to"
    if instead := _private():
        _complain(f"{what}, compiled kernels are kept in {instead}")
        return instead
    return wanted or Path("/tmp/graphsched")  # which `write` will find out and say


def read(path: Path) -> bytes | None:
    """The data of a file, None if there is none that is whole."""
    try:
        kept = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as e:
        _complain(f"{path} cannot be read ({_reason(e)}), what it held is made again")
        return None
    data = kept[DIGEST_BYTES:]
    return data if kept[:DIGEST_BYTES] == hashlib.sha256(data).digest() else None


def write(path: Path, data: bytes) -> None:
    """Keeps data for `read`. Whole or not at all: several processes may fill the cache at once."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(hashlib.sha256(data).digest() + data)
    except (OSError, Error) as e:
        reason = _reason(e) if isinstance(e, OSError) else str(e).rpartition(": ")[2]
        _complain(
            f"{path.parent} cannot be written to ({reason}), compiled kernels are lost when this run ends"
        )


def forget(files: Path, seconds: float, now: float) -> None:
    """Removes from a folder what was last written to longer ago than that."""
    with suppress(OSError):
        for old in [entry for entry in files.iterdir() if now - entry.stat().st_mtime > seconds]:
            with suppress(OSError):
                shutil.rmtree(old) if old.is_dir() else old.unlink()


def _reason(e: OSError) -> str:
    return (e.strerror or str(e)).lower()


@functools.cache
def _complain(what: str) -> None:
    """Says it once."""
    warnings.warn(f"{what}; GRAPHSCHED_CACHE_DIR names another folder", CacheWarning, stacklevel=3)


def _can_be_written(wanted: Path) -> bool:
    """Whether it is a folder to write to, or can be made one."""
    try:
        existing = next((f for f in (wanted, *wanted.absolute().parents) if f.exists()), None)
    except OSError:  # a name that is too long, or a folder that may not be looked into
        return False
    return existing is not None and existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


@functools.cache
def _private() -> Path | None:
    """A temporary folder that nobody else can write to, as compiled code is loaded from it; None if there is none."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    with suppress(OSError):
        private = Path(tempfile.gettempdir()) / f"graphsched-{user}"
        private.mkdir(mode=0o700, exist_ok=True)
        found = private.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == user and not found.st_mode & 0o022:
            return private
    with suppress(OSError):
        name = tempfile.mkdtemp(prefix="graphsched-")
        atexit.register(shutil.rmtree, name, ignore_errors=True)
        return Path(name)
    return None
