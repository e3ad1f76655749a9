"""Text to token ids and back, as the model file's own vocabulary has it."""

import codecs
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, cached_property, partial
from typing import Final, Protocol

from graphsched.errors import Error, LoadError
from graphsched.gguf.format import shown
from graphsched.text.bpe import BpeCoder
from graphsched.text.chat_templates import template_for
from graphsched.text.spm import ListedCoder, SpmCoder
from graphsched.text.vocab import Fields, TokenType, Vocab, read_vocab

_VISIBLE: Final = tuple(map(int, (TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.BYTE)))
_ASCII_SPACE: Final = " \t\n\v\f\r"
# U+DC80 to U+DCFF stand for bytes that are not UTF-8 (surrogateescape), the other surrogates for nothing
_NO_CHARACTER: Final = re.compile("[\ud800-\udc7f\udd00-\udfff]")


class Coder(Protocol):
    """Text between special tokens -> ids, id -> bytes; and what its kind of vocabulary does by default."""

    add_bos: bool
    add_space_prefix: bool
    notes: tuple[str, ...]

    def encode(self, text: str, after_special: bool) -> list[int]:
        """Token ids of a text without special tokens; `after_special`: one stands in front of it."""

    def piece(self, token: int) -> bytes:
        """The bytes of a token."""


class Stream:
    """Decodes token by token: `push` gives the text that is certain, `flush` what is left at the end."""

    def __init__(self, piece: Callable[[int], bytes], strip_space: bool) -> None:
        self._piece, self._strip = piece, strip_space
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that this token completes, never half a character; Error for an id that does not exist."""
        data = self._piece(token)
        if self._strip and data:
            data, self._strip = data.removeprefix(b" "), False
        return self._decoder.decode(data)

    def flush(self) -> str:
        """U+FFFD if the text ends inside a character, else nothing."""
        return self._decoder.decode(b"", True)


class Tokenizer:
    """A model's tokenizer; `eog` are the ids that end a generation, special ids are None if there is none.

    `notes` are sentences about what the file does not say and is assumed.
    """

    def __init__(self, vocab: Vocab, coder: Coder, fields: Fields) -> None:
        self._vocab, self._coder = vocab, coder
        self.n_vocab = len(vocab.tokens)
        self.bos, self.eos, self.eot, self.eog = vocab.bos, vocab.eos, vocab.eot, vocab.eog
        self.add_bos = fields.flag("ggml.add_bos_token", coder.add_bos and vocab.bos is not None)
        self.add_eos = fields.flag("ggml.add_eos_token", False)
        self.add_space_prefix = coder.add_space_prefix
        architecture = fields.metadata.get("general.architecture")
        self.chat_template = template_for(architecture, fields.text("chat_template"))
        self._is_phi3 = any(
            name in str(fields.metadata.get("general.name")).lower() for name in ("phi-3", "phi3")
        )
        self._piece = cache(self._bytes)
        self.notes = (*coder.notes, *fields.absent(("bos", "eos"), self.n_vocab))
        for name, added, token in (("bos", self.add_bos, self.bos), ("eos", self.add_eos, self.eos)):
            if added and token is None:
                raise fields.fail(f"ggml.add_{name}_token", f"is true but there is no {name}_token_id")

    def encode(
        self, text: str, *, add_special: bool = True, parse_special: bool = False, continuing: bool = False
    ) -> list[int]:
        """The ids of a text; `continuing` puts no space in front of a first word.

        `add_special` puts BOS in front where the model wants it. There is no EOS behind it, whatever `add_eos` says:
        that is for texts to be trained on, and this one is to be continued. With `parse_special` the texts of control
        tokens become those tokens, which is for chat templates and never for what a user typed.
        """
        ids = [self.bos] if add_special and self.add_bos and self.bos is not None else []
        after_special = not continuing
        for part in self._pieces(_NO_CHARACTER.sub("\ufffd", text), parse_special):
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self._coder.encode(part, after_special)
            after_special = isinstance(part, int)
        return ids

    def encode_prompt(self, prompt: str) -> list[int]:
        """The ids of a prompt that a chat template wrote, BOS in front where the model wants it."""
        ids = self.encode(prompt, add_special=False, parse_special=True)
        begins = self.add_bos and self.bos is not None and ids[:1] != [self.bos]
        return [self.bos or 0, *ids] if begins else ids

    def begins_twice(self, ids: Sequence[int]) -> bool:
        """Whether a text that brings its own BOS got a second one."""
        return self.bos is not None and list(ids[:2]) == [self.bos, self.bos]

    def decode(self, ids: Iterable[int], *, continuing: bool = False) -> str:
        """The text of ids, control tokens left out; `continuing` keeps the space before a first word."""
        data = b"".join(map(self._piece, ids))
        if self.add_space_prefix and not continuing:
            data = data.removeprefix(b" ")
        return data.decode("utf-8", "replace")

    def stream(self, *, continuing: bool = False, special: bool = False) -> Stream:
        """A decoder for tokens that come one by one; its texts together are what `decode` gives.

        With `special` control tokens have their texts, too.
        """
        piece = partial(self._bytes, special=True) if special else self._piece
        return Stream(piece, self.add_space_prefix and not continuing)

    def piece(self, token: int, special: bool = False) -> bytes:
        """A token's bytes, which may be part of a character; nothing for a control token unless `special`."""
        return self._bytes(token, True) if special else self._piece(token)

    def _bytes(self, token: int, special: bool = False) -> bytes:
        if not 0 <= token < self.n_vocab:
            raise Error(f"token {token} is outside the vocabulary of {self.n_vocab} tokens")
        return self._coder.piece(token) if special or self._vocab.kinds[token] in _VISIBLE else b""

    def _pieces(self, text: str, parse_special: bool) -> list[str | int]:
        """The text cut at special tokens, the longest first wherever they are."""
        parts: list[str | int] = [text] if text else []
        characters = set(text)
        for token in self._special if parse_special else self._user_defined:
            found = self._vocab.tokens[token]
            if found[0] in characters and found in text:
                parts = list(_cut(parts, token, found, strip=token in self._stripping))
        return parts

    @cached_property
    def _user_defined(self) -> list[int]:
        return self._longest_first(TokenType.USER_DEFINED)

    @cached_property
    def _special(self) -> list[int]:
        return self._longest_first(TokenType.USER_DEFINED, TokenType.CONTROL, TokenType.UNKNOWN)

    def _longest_first(self, *types: TokenType) -> list[int]:
        tokens = self._vocab.tokens
        return sorted(
            self._vocab.of_type(*types), key=lambda i: -len(tokens[i].encode("utf-8", "surrogateescape"))
        )

    @cached_property
    def _stripping(self) -> frozenset[int]:
        """Tokens that swallow white space behind them: Phi-3's, which no key of the file says."""
        keep = ("<unk>", "<s>", "<|endoftext|>")
        return (
            frozenset(i for i in self._special if self._vocab.tokens[i] not in keep)
            if self._is_phi3
            else frozenset()
        )


def _cut(parts: list[str | int], token: int, text: str, strip: bool) -> Iterator[str | int]:
    for part in parts:
        if isinstance(part, int):
            yield part
            continue
        for i, piece in enumerate(part.split(text)):
            if i:
                yield token
            if rest := piece.lstrip(_ASCII_SPACE) if i and strip else piece:
                yield rest


def check_vocabulary(tokenizer: Tokenizer, n_rows: int, source: str) -> None:
    """LoadError if the embedding has not one row for each token; `source` names the file."""
    if tokenizer.n_vocab != n_rows:
        what = (
            f"key tokenizer.ggml.tokens has {tokenizer.n_vocab} tokens, token_embd.weight has {n_rows} rows"
        )
        raise LoadError(f"{shown(source)}: {what}")


def from_metadata(metadata: Mapping[str, object], source: str = "model.gguf") -> Tokenizer:
    """The tokenizer that a GGUF file's metadata describes.

    Raises LoadError, one sentence that names `source` and the key, for a vocabulary that cannot be used.
    """
    fields = Fields(metadata, source)
    model = fields.text("ggml.model")
    if model == "llama":
        vocab = read_vocab(fields, {"bos": 1, "eos": 2, "unknown": 0})
        return Tokenizer(vocab, SpmCoder(vocab, fields), fields)
    if model == "gpt2":
        vocab = read_vocab(fields, {})
        return Tokenizer(vocab, BpeCoder(vocab, fields), fields)
    if model == "gemma4":
        vocab = read_vocab(fields, {})
        return Tokenizer(vocab, ListedCoder(vocab, fields), fields)
    what = "is missing" if model is None else f"is the unknown tokenizer {shown(model)}"
    raise fields.fail("ggml.model", f"{what}, known are llama, gpt2 and gemma4")
