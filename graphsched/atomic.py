"""Output files that are whole or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from graphsched.errors import Error, OptionError
from graphsched.gguf_format import printable


@contextmanager
def replacing(out: Path) -> Iterator[BinaryIO]:
    """A file beside `out` that takes its place when all is written, and goes away when something fails.

    Error, with the file's name, where it cannot be written; what cannot work is found before the body runs.
    """
    name = printable(str(out))
    if "\0" in str(out):
        raise OptionError(f"{name}: is not a possible file name")
    part: Path | None = None
    try:
        if out.is_dir() or (out.exists() and not out.is_file()):
            raise OptionError(f"{name}: is not a regular file")
        part = out.with_name(f".graphsched-{os.getpid()}.part")
        with part.open("xb") as file:
            yield file
        os.replace(part, out)
    except OSError as e:
        raise Error(f"{name}: {(e.strerror or str(e)).lower()}") from None
    finally:
        if part is not None:
            with suppress(OSError):
                part.unlink(missing_ok=True)
