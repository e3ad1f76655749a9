"""What a field of a request may hold: kinds of JSON values, which are never turned into one another."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from graphsched.errors import OptionError
from graphsched.option import Number, Option
from graphsched.serve.api.failures import Failure, refused

_LONGEST: Final = 60  # characters of a bad value that its sentence shows


class Kind(Protocol):
    """The values that a field can have."""

    @property
    def needed(self) -> str:
        """What they are, for a sentence: a number from 0 to 1."""

    @property
    def schema(self) -> dict[str, Any]:
        """The same as JSON schema."""

    def fits(self, given: Any) -> bool:
        """Whether a JSON value is of this kind as far as its type says."""

    def read(self, given: Any, at: str) -> Any:
        """The value that a JSON value stands for. Failure, naming the field `at`, for another kind."""


def is_not(given: Any, at: str, needed: str) -> Failure:
    """The sentence for a value that is not what is needed."""
    text = json.dumps(given)
    text = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    return refused(at, f"is {text}, {needed} is needed")


def is_number(given: Any) -> bool:
    """Whether a JSON value is a number; true and false are none."""
    return isinstance(given, int | float) and not isinstance(given, bool)


def is_whole(given: Any) -> bool:
    """Whether a JSON value is an integer; JSON has one kind of numbers, so that 1.0 is one."""
    return is_number(given) and (isinstance(given, int) or (math.isfinite(given) and given.is_integer()))


@dataclass(frozen=True)
class Flag:
    """true or false."""

    needed: str = "true or false"

    @property
    def schema(self) -> dict[str, Any]:
        """A boolean."""
        return {"type": "boolean"}

    def fits(self, given: Any) -> bool:
        """Whether it is a boolean."""
        return isinstance(given, bool)

    def read(self, given: Any, at: str) -> bool:
        """The boolean itself."""
        if not isinstance(given, bool):
            raise is_not(given, at, self.needed)
        return given


@dataclass(frozen=True)
class Numeric:
    """Numbers in [low, high], integers if `whole`."""

    low: float = -math.inf
    high: float = math.inf
    whole: bool = False

    @property
    def needed(self) -> str:
        """The range in words."""
        kind = "an integer" if self.whole else "a number"
        if self.high < math.inf:
            return f"{kind} from {self.low:g} to {self.high:g}"
        return f"{kind} from {self.low:g} up" if self.low > -math.inf else kind

    @property
    def schema(self) -> dict[str, Any]:
        """A number and its range."""
        found: dict[str, Any] = {"type": "integer" if self.whole else "number"}
        found |= {"minimum": self.low} if self.low > -math.inf else {}
        return found | ({"maximum": self.high} if self.high < math.inf else {})

    def fits(self, given: Any) -> bool:
        """Whether it is a number, or an integer."""
        return is_whole(given) if self.whole else is_number(given)

    def read(self, given: Any, at: str) -> Any:
        """The number in its range."""
        if not self.fits(given) or not self.low <= given <= self.high:
            raise is_not(given, at, self.needed)
        return int(given) if self.whole else float(given)


def integer(low: float = -math.inf, high: float = math.inf) -> Numeric:
    """Integers in [low, high]."""
    return Numeric(low, high, whole=True)


@dataclass(frozen=True)
class Text:
    """A text of at most so many characters."""

    most: int = 1 << 30
    needed: str = "a text"

    @property
    def schema(self) -> dict[str, Any]:
        """A string."""
        return {"type": "string"} | ({"maxLength": self.most} if self.most < 1 << 30 else {})

    def fits(self, given: Any) -> bool:
        """Whether it is a string."""
        return isinstance(given, str)

    def read(self, given: Any, at: str) -> str:
        """The text itself."""
        if not isinstance(given, str):
            raise is_not(given, at, self.needed)
        if len(given) > self.most:
            raise refused(at, f"has {len(given)} characters, {self.most} are possible")
        return given


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def needed(self) -> str:
        """The words."""
        return f"one of {', '.join(self.words)}" if self.words[1:] else self.words[0]

    @property
    def schema(self) -> dict[str, Any]:
        """An enumeration."""
        return {"type": "string", "enum": list(self.words)}

    def fits(self, given: Any) -> bool:
        """Whether it is one of the words."""
        return given in self.words if isinstance(given, str) else False

    def read(self, given: Any, at: str) -> str:
        """The word itself."""
        if not self.fits(given):
            raise is_not(given, at, self.needed)
        return str(given)


@dataclass(frozen=True)
class Anything:
    """Any JSON value, which somebody else reads."""

    needed: str = "a value"

    @property
    def schema(self) -> dict[str, Any]:
        """No restriction."""
        return {}

    def fits(self, given: Any) -> bool:
        """Whatever it is."""
        return True

    def read(self, given: Any, at: str) -> Any:
        """The value itself."""
        return given


@dataclass(frozen=True)
class AnyObject:
    """Any JSON object, which somebody else reads."""

    needed: str = "an object"

    @property
    def schema(self) -> dict[str, Any]:
        """An object."""
        return {"type": "object"}

    def fits(self, given: Any) -> bool:
        """Whether it is an object."""
        return isinstance(given, Mapping)

    def read(self, given: Any, at: str) -> Mapping[str, Any]:
        """The object itself."""
        if not isinstance(given, Mapping):
            raise is_not(given, at, self.needed)
        return given


@dataclass(frozen=True)
class ListOf:
    """A list of so many values of one kind."""

    of: Kind
    most: int = 1 << 30
    least: int = 0

    @property
    def needed(self) -> str:
        """What the values are."""
        return f"a list ({self.of.needed} each)"

    @property
    def schema(self) -> dict[str, Any]:
        """An array."""
        found: dict[str, Any] = {"type": "array", "items": self.of.schema}
        found |= {"minItems": self.least} if self.least else {}
        return found | ({"maxItems": self.most} if self.most < 1 << 30 else {})

    def fits(self, given: Any) -> bool:
        """Whether it is a list whose first value is of the kind."""
        return isinstance(given, list) and all(map(self.of.fits, given[:1]))

    def read(self, given: Any, at: str) -> tuple[Any, ...]:
        """The values."""
        if not isinstance(given, list):
            raise is_not(given, at, self.needed)
        if not self.least <= len(given) <= self.most:
            few = (
                f"at least {self.least} are needed"
                if len(given) < self.least
                else f"{self.most} are possible"
            )
            raise refused(at, f"has {len(given)} items, {few}")
        return tuple(self.of.read(item, f"{at}[{i}]") for i, item in enumerate(given))


@dataclass(frozen=True)
class Either:
    """A value of the first kind that its type fits."""

    kinds: tuple[Kind, ...]

    @property
    def needed(self) -> str:
        """All kinds."""
        return " or ".join(kind.needed for kind in self.kinds)

    @property
    def schema(self) -> dict[str, Any]:
        """Any of them."""
        return {"anyOf": [kind.schema for kind in self.kinds]}

    def fits(self, given: Any) -> bool:
        """Whether it is of one of the kinds."""
        return any(kind.fits(given) for kind in self.kinds)

    def read(self, given: Any, at: str) -> Any:
        """The value as its kind reads it."""
        for kind in self.kinds:
            if kind.fits(given):
                return kind.read(given, at)
        raise is_not(given, at, self.needed)


@dataclass(frozen=True)
class Declared:
    """The numbers of an option of the command line, which has the range."""

    option: Option

    @property
    def _number(self) -> Number:
        assert isinstance(self.option.values, Number)
        return self.option.values

    @property
    def needed(self) -> str:
        """The range in words."""
        return self._number.needed or "a number"

    @property
    def schema(self) -> dict[str, Any]:
        """The range, widened to the values that mean something else."""
        n = self._number
        also = [v for v in n.also if is_number(v)]
        return Numeric(min((n.low, *also)), max((n.high, *also)), whole=n.kind is int).schema

    def fits(self, given: Any) -> bool:
        """Whether it is a number, or an integer."""
        return is_whole(given) if self._number.kind is int else is_number(given)

    def read(self, given: Any, at: str) -> Any:
        """The number in its range, or what a further one stands for."""
        if not self.fits(given):
            raise is_not(given, at, "an integer" if self._number.kind is int else "a number")
        try:
            return self._number.read(int(given) if self._number.kind is int else given)
        except (OptionError, OverflowError) as e:
            raise refused(at, e.what if isinstance(e, OptionError) else "is too large") from None
