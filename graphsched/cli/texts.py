"""Texts that commands are given: in files, on standard input, with escapes."""

import os
import re
import stat
import sys
from pathlib import Path
from typing import Final

from graphsched.cli.screen import is_terminal
from graphsched.errors import OptionError

_ESCAPE: Final = re.compile(rb"\\(?:x([0-9a-fA-F]{1,2})|([nrt'\"\\]))")
_ESCAPED: Final = dict(zip(b"nrt'\"\\", (b"\n", b"\r", b"\t", b"'", b'"', b"\\"), strict=True))


def read_text(name: str) -> str:
    """A text file without its last newline, as llama.cpp takes it; - is standard input."""
    from graphsched.text.plain import decoded

    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return decoded(data).removesuffix("\n")
    except OSError as e:
        raise OptionError(f"{name}: {(e.strerror or str(e)).lower()}") from None
    except UnicodeDecodeError as e:
        raise OptionError(f"{name}: is not UTF-8 text, byte {e.start} is 0x{e.object[e.start]:02x}") from None


def is_piped() -> bool:
    """Whether standard input is a pipe or a file: what somebody means to be read, unlike a terminal or /dev/null."""
    if sys.stdin is None or sys.stdin.closed or is_terminal(sys.stdin):
        return False
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):  # no file behind it
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


def unescaped(text: str) -> str:
    r"""Text with \n, \r, \t, \', \", \\ and \xHH (a byte) replaced; other backslashes stay, as in llama.cpp."""
    data = _ESCAPE.sub(
        lambda m: bytes([int(m[1], 16)]) if m[1] else _ESCAPED[m[2][0]],
        text.encode("utf-8", "surrogateescape"),
    )
    return data.decode("utf-8", "replace")
