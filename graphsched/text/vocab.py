"""A model file's vocabulary: token texts and types, special ids, flags and what ends a generation."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from graphsched.errors import LoadError
from graphsched.gguf.format import shown

_PREFIX: Final = "tokenizer."
# Special tokens that files often do not name by id, by their texts, likeliest first.
_TEXTS: Final = {
    "eot": "<|eot_id|> <|im_end|> <|end|> <end_of_turn> <|endoftext|> <|end_of_text|> <EOT> _<EOT> [EOT] "
    "<｜end▁of▁sentence｜> <end_of_utterance>",
    "eom": "<|eom_id|>",
    "fim_pre": "<|fim_prefix|> <fim-prefix> <fim_prefix> <｜fim▁begin｜> <PRE> ▁<PRE> "
    "<|code_prefix|> <|prefix|>",
    "fim_suf": "<|fim_suffix|> <fim-suffix> <fim_suffix> <｜fim▁hole｜> <SUF> ▁<SUF> "
    "<|code_suffix|> <|suffix|>",
    "fim_mid": "<|fim_middle|> <fim-middle> <fim_middle> <｜fim▁end｜> <MID> ▁<MID> "
    "<|code_middle|> <|middle|>",
    "fim_pad": "<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD]",
    "fim_rep": "<|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame>",
    "fim_sep": "<|file_sep|>",
}
_NONE: Final = (-1, 0xFFFF_FFFF)  # ids by which files say that there is no such token
_ENDING: Final = ("eot", "eom", "fim_pad", "fim_rep", "fim_sep")
_ENDS: Final = (
    "<|eot_id|> <|eot|> <|im_end|> <|end|> <|return|> <|call|> <|calls|> <|flush|> <|eom_id|> <|eom|> <end_of_turn> "
    "<|endoftext|> <|end_of_text|> <end_of_utterance> <｜end▁of▁sentence｜> "
    "<eos> <EOT> _<EOT> [EOT] [EOS] [e~["
)
# The parts of a gpt-oss answer: matched and shown like text, or a reader could not tell them apart.
_CHANNELS: Final = "<|channel|> <|message|> <|start|> <|constrain|>"


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type`."""

    UNDEFINED, NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(7)


@dataclass(frozen=True)
class Fields:
    """The keys `tokenizer.*` of a metadata mapping; errors name the file and the key."""

    metadata: Mapping[str, object]
    source: str

    def fail(self, key: str, what: str) -> LoadError:
        """The error that names file and key."""
        return LoadError(f"{shown(self.source)}: key {_PREFIX}{key} {what}")

    def text(self, key: str) -> str | None:
        """A string, None if there is no such key. LoadError for another type."""
        value = self.metadata.get(_PREFIX + key)
        if value is not None and not isinstance(value, str):
            raise self.fail(key, "is not a string")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """A bool. LoadError for another type."""
        value = self.metadata.get(_PREFIX + key, default)
        if not isinstance(value, bool | np.bool_):
            raise self.fail(key, "is not a bool")
        return bool(value)

    def token(self, name: str, n_vocab: int, default: int | None = None) -> int | None:
        """A special token's id; one outside the vocabulary counts as absent, since real files have such."""
        value = self.metadata.get(f"{_PREFIX}ggml.{name}_token_id", default)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | np.integer)):
            raise self.fail(f"ggml.{name}_token_id", "is not an integer")
        return next((int(v) for v in (value, default) if v is not None and 0 <= v < n_vocab), None)

    def absent(self, names: Iterable[str], n_vocab: int) -> tuple[str, ...]:
        """Sentences on ids of special tokens that the vocabulary does not have; -1 says that there is none."""
        keys = [f"ggml.{name}_token_id" for name in names]
        ids = ((key, self.metadata.get(_PREFIX + key)) for key in keys)
        return tuple(
            str(self.fail(key, f"is {id}, which is no token of a vocabulary of {n_vocab}"))
            for key, id in ids
            if isinstance(id, int | np.integer) and not 0 <= id < n_vocab and int(id) not in _NONE
        )

    def strings(self, key: str) -> list[str]:
        """An array of strings. LoadError if it is missing or holds anything else."""
        if _PREFIX + key not in self.metadata:
            raise self.fail(key, "is missing")
        values = _as_list(self.metadata[_PREFIX + key])
        if not set(map(type, values)) <= {str}:
            raise self.fail(key, "is not an array of strings")
        return values

    def numbers(self, key: str, dtype: type, n: int, default: float) -> NDArray[Any]:
        """The first n numbers of an array, or n times the default if there is none."""
        if _PREFIX + key not in self.metadata:
            return np.full(n, default, dtype)
        try:
            array: NDArray[Any] = np.asarray(self.metadata[_PREFIX + key]).astype(dtype, casting="same_kind")
        except (ValueError, TypeError):
            raise self.fail(key, "is not an array of numbers") from None
        if array.ndim != 1 or array.size < n:
            raise self.fail(key, f"has {array.size} values for {n} tokens")
        return array[:n]


def _as_list(values: object) -> list[Any]:
    if isinstance(values, np.ndarray):
        values = values.tolist()
    return list(values) if isinstance(values, list | tuple) else [None]


@dataclass(frozen=True)
class Vocab:
    """Texts and types by id, ids by text, special ids (None: there is none), ids that end a generation."""

    tokens: list[str]
    types: NDArray[np.int32]
    ids: dict[str, int]
    bos: int | None
    eos: int | None
    unk: int | None
    eot: int | None
    eog: frozenset[int]

    @cached_property
    def kinds(self) -> list[int]:
        """The types as Python's integers, which compare fast."""
        return list(self.types.tolist())

    def of_type(self, *types: TokenType) -> list[int]:
        """Ids of all tokens of these types, ascending."""
        return np.flatnonzero(np.isin(self.types, types)).tolist()

    def plain_ids(self) -> dict[str, int]:
        """Ids by text without the tokens that ordinary text must never become."""
        ids = self.ids.copy()
        for i in self.of_type(TokenType.CONTROL, TokenType.UNKNOWN, TokenType.BYTE):
            del ids[self.tokens[i]]
        return ids


def read_vocab(fields: Fields, defaults: Mapping[str, int]) -> Vocab:
    """The vocabulary of a model file, `defaults` being the ids of special tokens that it does not name.

    Raises LoadError for missing or malformed keys and for duplicate tokens.
    """
    tokens = _tokens(fields)
    ids = dict(zip(tokens, range(len(tokens)), strict=True))
    if len(ids) < len(tokens):
        twice = next(t for i, t in enumerate(tokens) if ids[t] != i)
        raise fields.fail("ggml.tokens", f"has the token {shown(twice)} more than once")
    types = fields.numbers("ggml.token_type", np.int32, len(tokens), TokenType.NORMAL)
    bos, eos, unk = (fields.token(k, len(tokens), defaults.get(k)) for k in ("bos", "eos", "unknown"))
    named, ends = _special(fields, ids, types)
    eog = frozenset(ends if eos is None else ends | {eos})
    return Vocab(tokens, types, ids, bos, eos, unk, named.get("eot"), eog)


def _tokens(fields: Fields) -> list[str]:
    tokens = fields.strings("ggml.tokens")
    if not tokens:
        raise fields.fail("ggml.tokens", "is empty")
    return [t or f"[EMPTY_{i}]" for i, t in enumerate(tokens)] if "" in tokens else tokens


def _special(
    fields: Fields, ids: Mapping[str, int], types: NDArray[np.int32]
) -> tuple[dict[str, int], set[int]]:
    """Ids of special tokens by name, and of tokens that end a generation; corrects `types` by their texts."""
    given = {k: i for k in _TEXTS if (i := fields.token(k, len(ids))) is not None}
    by_text = {k: found[0] for k, v in _TEXTS.items() if k not in given and (found := _present(v, ids))}
    named = given | by_text
    # </s> is also HTML, an ordinary token of Qwen
    ends = {*_present(_ENDS, ids), *(i for i in _present("</s>", ids) if types[i] == TokenType.CONTROL)}
    parts = {*_present(_CHANNELS, ids), *_message_end(ids)}
    types[[*ends, *by_text.values()]] = TokenType.CONTROL
    types[[*parts]] = TokenType.USER_DEFINED
    return named, (ends | {named[k] for k in _ENDING if k in named}) - parts


def _present(texts: str, ids: Mapping[str, int]) -> list[int]:
    return [ids[t] for t in texts.split() if t in ids]


def _message_end(ids: Mapping[str, int]) -> list[int]:
    """<|end|> where it closes one message of several, because other tokens close the answer."""
    closed = _present("<|call|> <|calls|>", ids) and _present("<|return|> <|flush|>", ids)
    return _present("<|end|>", ids) if closed else []
