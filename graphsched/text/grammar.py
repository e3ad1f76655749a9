"""Grammars that answers follow: JSON schemas, regular expressions, Lark's and llama.cpp's own (GBNF).

The library llguidance compiles a grammar and says which tokens may follow; it is an extra of the package.
"""

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final
from weakref import WeakKeyDictionary, ref

import numpy as np
from numpy.typing import NDArray

from graphsched.errors import Error, OptionError
from graphsched.text.depth import is_deeper
from graphsched.text.tokenizer import Tokenizer

MOST_CHARACTERS: Final = 1 << 18  # of a grammar's text
# of JSON: white space as models write it, and no more of it, which some would go on with for ever
LAYOUT: Final = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
MOST_DEPTH: Final = 64  # objects and lists inside of each other, of a schema
_LIMITS: Final = {"initial_lexer_fuel": 4_000_000, "step_lexer_fuel": 400_000, "max_grammar_size": 200_000}
_ANY: Final[Mapping[str, Any]] = {"type": "object"}
_CONVERTING: Final = "Failed to convert the grammar from GBNF to Lark: "
_NOTHING_FOLLOWS: Final = "there is no text that it describes"
_TOKENIZERS: "WeakKeyDictionary[Tokenizer, Any]" = WeakKeyDictionary()


@dataclass(frozen=True)
class Grammar:
    """A grammar as llguidance takes it, which has been checked; equal texts are one grammar."""

    compiled: str

    @classmethod
    def from_schema(cls, schema: Mapping[str, Any]) -> "Grammar":
        """JSON that a schema describes, any object for an empty one.

        OptionError for one that is none, is too large, or cannot be followed.
        """
        if is_deeper(schema, MOST_DEPTH):
            raise OptionError(
                f"the JSON schema has more than {MOST_DEPTH} objects and lists inside of each other"
            )
        text = json.dumps({**(schema or _ANY), "x-guidance": LAYOUT})
        _check_size(text, "JSON schema")
        return _checked("json_schema", text, "JSON schema")

    @classmethod
    def from_json(cls) -> "Grammar":
        """Any JSON object."""
        return cls.from_schema(_ANY)

    @classmethod
    def from_regex(cls, text: str) -> "Grammar":
        """Texts that a regular expression matches as a whole. OptionError as for a schema."""
        _check_size(text, "regular expression")
        return _checked("regex", text, "regular expression")

    @classmethod
    def from_lark(cls, text: str) -> "Grammar":
        """Texts of a grammar in Lark's notation. OptionError as for a schema."""
        _check_size(text, "grammar")
        return _checked("lark", text, "grammar")

    @classmethod
    def from_gbnf(cls, text: str) -> "Grammar":
        """Texts of a grammar in llama.cpp's notation. OptionError as for a schema."""
        _check_size(text, "grammar")
        return _checked("gbnf", text, "grammar")

    def matcher(self, tokenizer: Tokenizer) -> "Matcher":
        """What follows a text token by token. OptionError for a grammar that takes too much."""
        return Matcher(self, tokenizer)


class Matcher:
    """Which tokens may follow, in one answer."""

    def __init__(self, grammar: Grammar, tokenizer: Tokenizer) -> None:
        library = _library()
        self._ends = np.array(sorted(tokenizer.eog), np.intp)
        self._matcher = library.LLMatcher(
            _tokenizer_of(tokenizer), grammar.compiled, log_level=0, limits=library.LLParserLimits(**_LIMITS)
        )
        self._bits = np.zeros(-(-tokenizer.n_vocab // 32), np.int32)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise OptionError(f"the grammar cannot be followed: {_reason(self._matcher.get_error())}")

    @property
    def is_done(self) -> bool:
        """Whether nothing but an end may follow."""
        return bool(self._matcher.is_stopped())

    def mask(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits [n_vocab], with -inf where a token may not follow; behind the last one only ends may.

        Error if no token may.
        """
        allowed = np.zeros(len(logits), bool)
        if not self.is_done:
            self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
            self._check()
            found = np.unpackbits(self._bits.view(np.uint8), bitorder="little").view(bool)
            allowed[: len(found)] = found[: len(logits)]
        allowed[self._ends] = bool(self._matcher.is_accepting())
        if not allowed.any():
            raise Error("no token of this vocabulary can go on with the grammar")
        return np.where(allowed, logits, np.float32(-np.inf))

    def can_accept(self, tokens: Sequence[int]) -> bool:
        """Whether these may follow, one behind the other."""
        return bool(self._matcher.validate_tokens(list(tokens)) == len(tokens))

    def accept(self, token: int) -> None:
        """Goes on by a chosen token; ends are no part of the text."""
        if token not in self._ends and not self.is_done:
            self._matcher.consume_token(token)
            self._check()


def _library() -> Any:
    try:
        return importlib.import_module("llguidance")
    except ImportError:
        what = "grammars need llguidance, which pip install 'graphsched[server]' brings"
        raise OptionError(what) from None


@lru_cache(64)
def _checked(kind: str, text: str, what: str) -> Grammar:
    library = _library()
    try:
        compiled = library.grammar_from(kind, text)
        is_bad, messages = library.LLMatcher.validate_grammar_with_warnings(
            compiled, limits=library.LLParserLimits(**_LIMITS)
        )
    except (ValueError, RecursionError) as e:
        raise OptionError(f"the {what} cannot be used: {_reason(str(e))}") from None
    if is_bad:
        raise OptionError(f"the {what} cannot be used: {_reason(messages[0])}")
    return Grammar(compiled)


def _reason(text: str) -> str:
    """The first line of a message, without what is only for its makers."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "it is none")
    line = _NOTHING_FOLLOWS if line == "NoExtensionBias" else line.removeprefix(_CONVERTING)
    return line if len(line) <= 200 else f"{line[:199]}…"


def _check_size(text: str, what: str) -> None:
    if len(text) > MOST_CHARACTERS:
        raise OptionError(f"the {what} has {len(text)} characters, {MOST_CHARACTERS} are possible")
    if not text.strip():
        raise OptionError(f"the {what} is empty")


class _Vocabulary:
    """A tokenizer as llguidance wants it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        pieces = [tokenizer.piece(token) for token in range(tokenizer.n_vocab)]
        self.special_token_ids = [i for i, piece in enumerate(pieces) if not piece]
        self.tokens = [piece or tokenizer.piece(i, special=True) for i, piece in enumerate(pieces)]
        self.bos_token_id, self.eos_token_id = tokenizer.bos, min(tokenizer.eog, default=0)
        self._tokenizer = ref(tokenizer)  # or what is made for it once would keep it for ever

    def __call__(self, text: str | bytes) -> list[int]:
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        tokenizer = self._tokenizer()
        return [] if tokenizer is None else tokenizer.encode(text, add_special=False, continuing=True)


def _tokenizer_of(tokenizer: Tokenizer) -> Any:
    """llguidance's view of a vocabulary, made once."""
    if tokenizer not in _TOKENIZERS:
        library = _library()
        wrapper = library.TokenizerWrapper(_Vocabulary(tokenizer))
        ends = sorted(tokenizer.eog) or None
        _TOKENIZERS[tokenizer] = library.LLTokenizer(wrapper, tokenizer.n_vocab, ends)
    return _TOKENIZERS[tokenizer]
