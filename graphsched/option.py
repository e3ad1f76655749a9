"""One declaration per option: a dataclass field that knows its flags, its values and its texts.

    n_ubatch: int = option("-ub --ubatch-size", 512, low=1, high=1 << 20, help="tokens computed at once")

Flags and help of the command line, docs/options.md, the sentence for a bad value and the settings in reports derive
from this line. Text becomes a value where a set of options is made (`Options`), whether it comes from a command line
or from a program; behind that door are values only. Imports nothing slow: `--help` reads the declarations.
"""

import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol

from graphsched.errors import OptionError

Many = Literal["", "first", "last", "all"]


class Values(Protocol):
    """The values that an option can have."""

    @property
    def metavar(self) -> str:
        """What stands for a value in help."""

    def read(self, given: Any) -> Any:
        """The value that a text stands for, or a checked value. OptionError with the reason, without the name."""

    def show(self, value: Any) -> Any:
        """A value as reports show it: a number, a boolean or a text."""


@dataclass(frozen=True)
class Number:
    """Integers or floats in [low, high]; `also` maps further ones, and words, to what they mean, as -1 to no limit.

    needed: the range in words. is_optional: None is a value, too.
    """

    kind: type[int] | type[float]
    low: float = -math.inf
    high: float = math.inf
    also: Mapping[Any, Any] = field(default_factory=dict)
    needed: str = ""
    is_optional: bool = False

    @property
    def metavar(self) -> str:
        """N for integers, F for floats."""
        return "N" if self.kind is int else "F"

    def read(self, given: Any) -> Any:
        """The number in its range, or what a further one stands for. OptionError for all else."""
        if given is None and self.is_optional:
            return None
        if isinstance(given, str) and given in self.also:
            return self.also[given]
        number = self._number(given)
        # Words of llama.cpp for "no limit", such as -1, lie outside of the range.
        if number in self.also:
            return self.also[number]
        if math.isfinite(number) and self.low <= number <= self.high:
            return number
        raise is_not(given, self.needed or self._range())

    def _number(self, given: Any) -> Any:
        """The number that was given, NaN for what is none."""
        allowed = numbers.Integral if self.kind is int else numbers.Real
        if not isinstance(given, str | allowed) or isinstance(given, bool):
            return math.nan
        try:
            return self.kind(given)  # type: ignore[arg-type]  # an integer, or a real number, or a text
        except (ValueError, OverflowError):
            return math.nan

    def _range(self) -> str:
        kind = "an integer" if self.kind is int else "a number"
        if self.high < math.inf:
            return f"{kind} from {self.low} to {self.high}"
        return f"{kind} from {self.low} up" if self.low > -math.inf else kind

    def show(self, value: Any) -> Any:
        """The number itself."""
        return value


@dataclass(frozen=True)
class Words:
    """Words, and the values that they stand for; of a switch, the name alone means 1."""

    values: Mapping[str, Any]
    metavar: str
    is_switch: bool = False

    def read(self, given: Any) -> Any:
        """What the word stands for. OptionError for another."""
        word = str(int(given)) if isinstance(given, bool) else str(given)
        if word not in self.values:
            raise is_not(given, self.needed)
        return self.values[word]

    @property
    def needed(self) -> str:
        """The words, for a sentence; of a switch 0 and 1 stand for off and on."""
        words = [word for word in self.values if not self.is_switch or word not in ("off", "on")]
        if len(words) > 2 and not self.is_switch:
            return f"one of {', '.join(words)}"
        return f"{', '.join(words[:-1])} or {words[-1]}"

    def show(self, value: Any) -> Any:
        """The value itself."""
        return value


@dataclass(frozen=True)
class Parsed:
    """Values with a text of their own, which `read` parses; it leaves alone what is a value."""

    metavar: str
    read: Callable[[Any], Any]
    show: Callable[[Any], Any] = str


def switch(auto: Any = None, *, no: Any = False, yes: Any = True) -> Words:
    """The values 0 or 1, off or on; and auto, unless `auto` is None."""
    words = {"0": no, "1": yes} | ({} if auto is None else {"auto": auto}) | {"off": no, "on": yes}
    return Words(words, "0|1|auto" if auto not in (None, no, yes) else "0|1", is_switch=True)


def one_of(metavar: str, *words: str) -> Words:
    """One of a few words, which are the values."""
    return Words({word: word for word in words}, metavar)


def is_not(given: Any, needed: str) -> OptionError:
    """The sentence for a value that is not what is needed."""
    return OptionError(f"is {given if given != '' else 'empty'}, {needed} is needed")


@dataclass(frozen=True)
class Option:
    """The declaration of one option.

    off: names that turn a switch off. many: it may be given several times, and the first or the last of those that
    contradict each other counts; of `all` none does. default: as help shows it.
    """

    flags: tuple[str, ...]
    values: Values
    help: str
    default: str
    off: tuple[str, ...] = ()
    many: Many = ""

    @property
    def flag(self) -> str:
        """The name by which errors call it on a command line."""
        return (self.flags or self.off)[0]

    @property
    def text(self) -> str:
        """Its help."""
        return f"{self.help} (default: {self.default})" if self.default else self.help


def option(
    flags: str,
    default: Any,
    *,
    help: str,
    low: float = -math.inf,
    high: float = math.inf,
    also: Mapping[Any, Any] | None = None,
    needed: str = "",
    values: Values | None = None,
    shown: str | None = None,
    off: str = "",
    many: Many = "",
) -> Any:
    """A field of `Options`. Without `values` the default says which they are: numbers in [low, high], or a switch.

    `shown` is the default in words, where its value does not say it; `needed` the range in words.
    """
    if values is None:
        kind = type(default)
        values = switch() if kind is bool else Number(kind, low, high, also or {}, needed)
    if shown is None:
        shown = str(int(default) if isinstance(default, bool) else default)
    declared = Option(tuple(flags.split()), values, help, shown, tuple(off.split()), many)
    return field(default=default, metadata={"option": declared})


class Options:
    """The base of a frozen dataclass of options: takes texts and values, holds values.

    A field whose values are no texts themselves is `Annotated[Any, type of its values]`, as it takes both. Raises
    OptionError, which knows the option's name, for what is neither.
    """

    def __post_init__(self) -> None:
        for name, declared in declarations(type(self)).items():
            object.__setattr__(self, name, read(name, declared, getattr(self, name)))


def declarations(options: Any) -> Mapping[str, Option]:
    """The options that a subclass of `Options` declares, by field name."""
    return {f.name: f.metadata["option"] for f in fields(options) if "option" in f.metadata}


def read(name: str, declared: Option, given: Any) -> Any:
    """The value of an option, from a text or a value. OptionError with the option's name."""
    try:
        return declared.values.read(given)
    except OptionError as e:
        raise OptionError(e.what, e.option or name) from None


def shown(options: Options) -> dict[str, Any]:
    """The declared options with their values as reports show them: numbers, booleans and texts."""
    return {n: o.values.show(getattr(options, n)) for n, o in declarations(type(options)).items()}


def names(given: Any) -> tuple[str, ...]:
    """One name or several, as a tuple. OptionError for what are no texts."""
    items = tuple(texts(given))
    if not all(isinstance(name, str) for name in items):
        raise OptionError(f"is {given!r}, a text or several are needed")
    return items


def texts(given: Any) -> Sequence[Any]:
    """The items given for an option that takes several: of one text, or of an iterable of texts and values."""
    if isinstance(given, str):
        return (given,) if given else ()
    return tuple(given) if isinstance(given, Iterable) else (given,)
