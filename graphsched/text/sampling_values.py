"""Values of the options of sampling: the order of samplers, biases of tokens, breakers of repeats."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from graphsched.errors import OptionError
from graphsched.option import texts

# Letters and names are llama.cpp's, in the order that it has by default.
LETTERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "e": "penalties",
        "d": "dry",
        "s": "top_n_sigma",
        "k": "top_k",
        "y": "typ_p",
        "p": "top_p",
        "m": "min_p",
        "x": "xtc",
        "t": "temperature",
    }
)
ORDER: Final = tuple(LETTERS.values())
_OTHER_NAMES: Final = {"typical": "typ_p", "typical_p": "typ_p", "nucleus": "top_p", "temp": "temperature"}
CHANGING: Final = ("penalties", "dry")  # samplers that change the order of tokens
KEEPING: Final = ("top_n_sigma", "top_k", "top_p", "min_p")  # samplers that always keep the likeliest token
# The options of each sampler: those that turn it on, and those that are about it.
OPTIONS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = MappingProxyType(
    {
        "penalties": (("repeat_penalty", "presence_penalty", "frequency_penalty"), ("repeat_last_n",)),
        "dry": (
            ("dry_multiplier",),
            ("dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers"),
        ),
        "top_n_sigma": (("top_n_sigma",), ()),
        "top_k": (("top_k",), ()),
        "typ_p": (("typical_p",), ()),
        "top_p": (("top_p",), ()),
        "min_p": (("min_p",), ()),
        "xtc": (("xtc_probability",), ("xtc_threshold",)),
        "temperature": (("temperature", "dynatemp_range"), ()),
        "mirostat": ((), ("mirostat_tau", "mirostat_eta")),
    }
)
BREAKERS: Final = ("\n", ":", '"', "*")
_ESCAPED: Final = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}
_BIAS: Final = re.compile(r"(\d+)([+-])(\d.*|\.\d.*|inf)")


@dataclass(frozen=True)
class Bias:
    """What is added to the logit of a token; `text` is how it was given."""

    token: int
    bias: float
    text: str


def parse_order(given: Any) -> tuple[str, ...]:
    """The samplers that names stand for, apart by semicolons: top_k;temperature. OptionError for an unknown one."""
    named = given.split(";") if isinstance(given, str) else given
    return tuple(_sampler(str(name)) for name in named if name != "")


def _sampler(name: str) -> str:
    plain = name.strip().lower().replace("-", "_")
    plain = _OTHER_NAMES.get(plain, plain)
    if plain not in ORDER:
        raise OptionError(f"has the unknown sampler {name}; there are {', '.join(ORDER)}")
    return plain


def parse_letters(given: Any) -> tuple[str, ...]:
    """The samplers that letters stand for: kpt. OptionError for an unknown one."""
    if not isinstance(given, str):
        return parse_order(given)
    for letter in given:
        if letter not in LETTERS:
            known = ", ".join(f"{key} {name}" for key, name in LETTERS.items())
            raise OptionError(f"has the unknown letter {letter}; there are {known}")
    return tuple(LETTERS[letter] for letter in given)


def parse_biases(given: Any) -> tuple[Bias, ...]:
    """Biases, as typed: 15043+1, 15043-1, 15043-inf. OptionError for anything else."""
    return tuple(item if isinstance(item, Bias) else _bias(str(item)) for item in texts(given))


def _bias(text: str) -> Bias:
    found = _BIAS.fullmatch(text.strip())
    try:
        amount = float(found[3]) if found else math.nan
    except ValueError:
        amount = math.nan
    if found is None or math.isnan(amount) or (amount == math.inf and found[2] == "+"):
        raise OptionError(
            f"is {text or 'empty'}, a token and a number are needed, as in 15043+1 or 15043-inf"
        )
    return Bias(int(found[1]), -amount if found[2] == "-" else amount, text)


def typed(biases: Iterable[Bias]) -> str:
    """Biases as they may be typed."""
    return ",".join(bias.text for bias in biases)


def parse_breakers(given: Any) -> tuple[str, ...]:
    r"""Texts with \n, \t, \r replaced; `none` takes back those in front of it. OptionError for an empty one."""
    found: list[str] = []
    for text in texts(given):
        if not isinstance(text, str) or not text:
            raise OptionError(f"is {'empty' if text == '' else repr(text)}, a text is needed")
        plain = re.sub(r"\\([ntr\\])", lambda m: _ESCAPED[m[1]], text)
        found = [] if plain == "none" else [*found, plain]
    return tuple(dict.fromkeys(found))
