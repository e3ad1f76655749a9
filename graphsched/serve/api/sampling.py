"""The fields of sampling: those of `SamplingOptions`, by llama.cpp's names, which are the same."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from graphsched.errors import OptionError
from graphsched.option import Number, declarations
from graphsched.serve.api.failures import refused
from graphsched.serve.api.fields import Field
from graphsched.serve.api.kinds import AnyObject, Declared, Either, Flag, ListOf, Numeric, Text, integer
from graphsched.text.options import SamplingOptions
from graphsched.text.sampling_values import Bias
from graphsched.text.tokenizer import Tokenizer

_TEXTS: Final = ListOf(Text(256), 64)
_BIAS: Final = Either((Flag(), Numeric(-1e9, 1e9)))
_PAIR: Final = ListOf(Either((integer(0), Text(256), _BIAS)), 2, 2)
SAMPLING: Final = (
    *(
        Field(name, Declared(option), help=option.help)
        for name, option in declarations(SamplingOptions).items()
        if isinstance(option.values, Number)
    ),
    Field("dry_sequence_breakers", _TEXTS, help="repeats do not reach over them"),
    Field("samplers", Either((_TEXTS, Text(256))), help="the samplers by name, in their order"),
    Field("logit_bias", Either((AnyObject(), ListOf(_PAIR, 1024))), help="of tokens, by id or text"),
)
_NAMES: Final = tuple(field.name for field in SAMPLING)


def sampling_of(
    values: Mapping[str, Any], defaults: SamplingOptions, tokenizer: Tokenizer
) -> SamplingOptions:
    """The options of a request: what it says, else the server's own. Failure for what does not go together."""
    given = {name: values[name] for name in _NAMES if name in values}
    if "logit_bias" in given:
        given["logit_bias"] = _biases(given["logit_bias"], tokenizer)
    if "samplers" in given:
        given["sampling_seq"] = ()
    try:
        return replace(defaults, **given)
    except OptionError as e:
        raise refused(e.option, e.what) from None


def _biases(given: Any, tokenizer: Tokenizer) -> tuple[Bias, ...]:
    """Biases of tokens: {"15043": 1.0} as OpenAI has them, [[15043, 1.0], ["Hello", false]] as llama.cpp does."""
    pairs = [(_id(key), amount) for key, amount in given.items()] if isinstance(given, Mapping) else given
    return tuple(bias for what, amount in pairs for bias in _of(what, amount, tokenizer))


def _id(key: str) -> int | str:
    return int(key) if key.isdecimal() and len(key) < 10 else key


def _of(what: int | str | bool | float, amount: Any, tokenizer: Tokenizer) -> list[Bias]:
    """The biases of a token, or of all tokens of a text; false is never."""
    at = "logit_bias"
    read = _BIAS.read(amount, at) if not isinstance(amount, str) else None
    if read is None or read is True or not isinstance(what, int | str) or isinstance(what, bool):
        raise refused(at, "has an entry that is no token with a number or false")
    bias = -math.inf if read is False else float(read)
    ids = [what] if isinstance(what, int) else tokenizer.encode(what, add_special=False)
    return [Bias(token, bias, f"{token}{bias:+g}") for token in ids]
