"""Patterns for tensor names: regular expressions as the peers read them, in ECMAScript's grammar."""

import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Final

from graphsched.errors import OptionError

_SPACE: Final = r" \t-\r"
# Python has no classes such as [[:digit:]]; it would read the characters between the brackets as a set.
_CLASSES: Final[Mapping[str, str]] = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "blank": r" \t",
    "cntrl": r"\x00-\x1f\x7f",
    "d": "0-9",
    "digit": "0-9",
    "graph": r"\x21-\x7e",
    "lower": "a-z",
    "print": r"\x20-\x7e",
    "punct": r"!-/:-@\[-`{-~",
    "s": _SPACE,
    "space": _SPACE,
    "upper": "A-Z",
    "w": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}
_TOKEN: Final = re.compile(r"\\.|.", re.DOTALL)
_IN_SET: Final = re.compile(r"\\.|\[(?P<kind>[:.=])[^]]*?(?P=kind)\]|.", re.DOTALL)


def compiled(pattern: str, where: str, flags: re.RegexFlag = re.NOFLAG) -> re.Pattern[str]:
    """The regular expression; `where` begins the sentence of the error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sets that a later Python may read otherwise
            return re.compile("".join(_as_python(pattern, where)), flags)
    except (re.error, OverflowError, RecursionError) as e:
        raise OptionError(f"{where}: the pattern is no regular expression, {e}") from None


def _as_python(pattern: str, where: str) -> Iterator[str]:
    """The pattern in pieces, with the characters that a class stands for in its place."""
    in_set, at = False, 0
    while found := (_IN_SET if in_set else _TOKEN).match(pattern, at):
        piece, at = found[0], found.end()
        in_set = piece != "]" if in_set else piece == "["
        yield _class(piece, where) if len(piece) > 2 else piece


def _class(piece: str, where: str) -> str:
    """The characters of [:digit:] and the like, to stand in a set. OptionError for what is none of them."""
    if piece[1] == ":" and (found := _CLASSES.get(piece[2:-2].lower())):
        return found
    raise OptionError(f"{where}: there is no class {piece}; there are {', '.join(_CLASSES)}")
