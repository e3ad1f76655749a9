"""`--override-kv KEY=TYPE:VALUE`: metadata that takes the place of a file's, in llama.cpp's syntax."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from graphsched.errors import OptionError
from graphsched.gguf.format import MetaValue, shown
from graphsched.gguf.given import Given
from graphsched.option import texts

FLAG: Final = "--override-kv"
TYPES: Final[Mapping[str, type]] = {"int": int, "float": float, "bool": bool, "str": str}
_RULE: Final = re.compile(r"(?P<key>[^=]+)=(?P<type>\w+):(?P<value>.*)", re.DOTALL)
_BOOLS: Final = {"true": True, "false": False}


@dataclass(frozen=True)
class Override:
    """A key and the value that it gets; `text` is the rule as it was given."""

    key: str
    value: bool | int | float | str
    text: str


def parse_overrides(rules: str | Iterable[str | Override], flag: str = FLAG) -> tuple[Override, ...]:
    """The overrides that rules stand for; several in one are parted by commas, \\, being one in a text.

    What is an override already stays.
    OptionError, which names the rule, for one that is not KEY=TYPE:VALUE, or a key that is given twice.
    """
    found = tuple(o for rule in texts(rules) for o in _overrides(rule, flag))
    keys = [o.key for o in found]
    for o in found:
        if keys.count(o.key) > 1:
            raise OptionError(f"{shown(o.text)}: key {shown(o.key)} is given twice", flag)
    return found


def _overrides(rule: str | Override, flag: str) -> Iterator[Override]:
    if isinstance(rule, Override):
        yield rule
    elif isinstance(rule, str):
        yield from (_parsed(piece, flag) for piece in _pieces(rule))
    else:
        raise OptionError(f"has {rule!r}, texts such as general.name=str:x are needed", flag)


def _pieces(rule: str) -> Iterator[str]:
    """A comma parts rules only where another KEY=TYPE: follows, as texts have commas, too."""
    for piece in re.split(rf"(?<!\\),(?=[^=,]+=(?:{'|'.join(TYPES)}):)", rule):
        yield piece.replace("\\,", ",")


def _parsed(text: str, flag: str) -> Override:
    where = shown(text) if text else "with nothing"
    match = _RULE.fullmatch(text)
    if match is None or match["type"] not in TYPES:
        what = "" if match is None else f" (there is no type {shown(match['type'])})"
        needed = f"KEY=TYPE:VALUE is needed, TYPE being {', '.join(TYPES)}{what}"
        raise OptionError(f"{where}: {needed}", flag)
    kind, value = match["type"], match["value"]
    try:
        return Override(match["key"], _value(kind, value), text)
    except OptionError as e:
        raise OptionError(f"{where}: {e.what}", flag) from None


def _value(kind: str, text: str) -> bool | int | float | str:
    try:
        if kind == "bool":
            return _BOOLS[text]
        if kind == "int" and -(1 << 63) <= int(text) < 1 << 64:
            return int(text)
        if kind == "float" and math.isfinite(float(text)):
            return float(text)
        if kind == "str":
            return text
    except (ValueError, KeyError):
        pass
    need = {"bool": "true or false", "int": "an integer of 64 bits", "float": "a finite number"}[kind]
    raise OptionError(f"{shown(text)} is not {need}")


def typed(overrides: Iterable[Override]) -> str:
    """The overrides as one text."""
    return ",".join(o.text for o in overrides)


class Overridden(Mapping[str, MetaValue]):
    """A file's metadata with overrides in it, which says how often each was read.

    A key may get another type than the file gives it, as this is what is wrong with some: whoever reads it checks.
    """

    def __init__(
        self, metadata: Mapping[str, MetaValue], overrides: Iterable[Override], flag: str = FLAG
    ) -> None:
        self._overrides, self._flag = tuple(overrides), flag
        self._values = dict(metadata) | {o.key: o.value for o in self._overrides}
        self._reads = Counter[str]()

    @property
    def overrides(self) -> Mapping[str, MetaValue]:
        """The values that replace those of the file, by key."""
        return {o.key: o.value for o in self._overrides}

    def given(self) -> tuple[Given, ...]:
        """Each rule with the number of times that its key has been read by now."""
        return tuple(Given(f"{self._flag} {o.text}", self._reads[o.key]) for o in self._overrides)

    def __getitem__(self, key: str) -> MetaValue:
        value = self._values[key]
        self._reads[key] += 1
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)
