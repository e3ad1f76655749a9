"""Text files as people's editors write them: with a byte order mark, with line ends of Windows."""

import codecs
from pathlib import Path
from typing import Final

from graphsched.errors import OptionError
from graphsched.gguf.format import printable

_MARKS: Final = {  # the longest first: that of UTF-32 begins with UTF-16's
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


def decoded(data: bytes) -> str:
    r"""The text of a file: its mark left out, \r\n as \n. UnicodeDecodeError for what is no text, UTF-8 without a mark.

    A lone \r stays, and so does the end of the last line.
    """
    mark = next((m for m in _MARKS if data.startswith(m)), b"")
    return data[len(mark) :].decode(_MARKS.get(mark, "utf-8")).replace("\r\n", "\n")


def read_plain(option: str, path: str) -> str:
    """The text of a file that an option names, without its last line's end.

    OptionError if it cannot be read, or is empty.
    """
    try:
        text = decoded(Path(path).read_bytes()).removesuffix("\n")
    except OSError as e:
        raise OptionError(f"{printable(path)}: {(e.strerror or str(e)).lower()}", option) from None
    except ValueError:
        raise OptionError(f"{printable(path)}: is no text", option) from None
    if not text.strip():
        raise OptionError(f"{printable(path)}: is empty", option)
    return text
