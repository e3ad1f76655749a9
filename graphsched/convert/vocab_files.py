"""Vocabularies out of tokenizer.model files: SentencePiece's, and tiktoken's."""

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from struct import unpack
from typing import Final

from graphsched.errors import LoadError
from graphsched.gguf.format import printable, shown
from graphsched.text.bpe import BYTE_CHARACTERS
from graphsched.text.vocab import TokenType

_LARGEST: Final = 1 << 26
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_PIECE, _TRAINER, _NORMALIZER, _BPE = 1, 2, 3, 2


@dataclass
class Words:
    """Tokens by id; of SentencePiece scores, of byte-level BPE merges.

    `spaces` are further keys, about white space.
    """

    kind: str  # tokenizer.ggml.model
    texts: list[str] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    spaces: dict[str, bool] = field(default_factory=dict)


def read_model(path: Path) -> Words:
    """A tokenizer.model of either kind."""
    if path.stat().st_size > _LARGEST:
        raise LoadError(f"{printable(path.name)}: is too large for a vocabulary")
    data = path.read_bytes()
    try:
        return _sentencepiece(data) if data[:1] == b"\x0a" else _tiktoken(data)
    except LoadError as e:
        raise LoadError(f"{printable(path.name)}: {e}") from None
    except (ValueError, LookupError, binascii.Error):
        raise LoadError(f"{printable(path.name)}: is no vocabulary of SentencePiece or tiktoken") from None


def read_merges(path: Path) -> list[str]:
    """The lines of a merges.txt but for the one that names its version."""
    if path.stat().st_size > _LARGEST:
        raise LoadError(f"{printable(path.name)}: is too large for a vocabulary")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except ValueError:
        raise LoadError(f"{printable(path.name)}: is not UTF-8 text") from None
    return [line for i, line in enumerate(lines) if line and not (i == 0 and line.startswith("#version"))]


def _sentencepiece(data: bytes) -> Words:
    """A model protobuf. Field 1 is a piece, in it 1 its text, 2 its score, 3 its type; 2 and 3 say how it is used."""
    words = Words("llama")
    for number, piece in _fields(data):
        if not isinstance(piece, bytes):
            continue
        if number == _TRAINER:
            _check_trainer(dict(_fields(piece)))
        elif number == _NORMALIZER:
            words.spaces = _normalizer(dict(_fields(piece)))
        if number != _PIECE:
            continue
        found: dict[int, bytes | int] = {2: b"\0\0\0\0", 3: 1, **dict(_fields(piece))}
        text, score, kind = found[1], found[2], found[3]
        if not isinstance(text, bytes) or not isinstance(score, bytes) or not isinstance(kind, int):
            raise ValueError
        words.texts.append(text.decode("utf-8"))
        words.scores.append(unpack("<f", score)[0])
        words.types.append(kind)
    return words


def _check_trainer(spec: dict[int, bytes | int]) -> None:
    """GGUF's SentencePiece vocabularies merge pairs; other kinds of model (field 3) would give other ids."""
    if (kind := spec.get(3, _BPE)) != _BPE:
        name = {1: "Unigram", 3: "word", 4: "character"}.get(int(kind), str(kind))
        raise LoadError(f"its model is {name}, BPE is needed")


def _normalizer(spec: dict[int, bytes | int]) -> dict[str, bool]:
    """Field 2 is a table of characters, 3 puts a space in front of a text, 4 makes one space of several."""
    if spec.get(2):
        name = spec.get(1, b"")
        what = shown(name.decode("utf-8", "replace")) if isinstance(name, bytes) else "its own"
        raise LoadError(f"its normalizer {what} changes characters, which no file can say")
    keys = {3: "add_space_prefix", 4: "remove_extra_whitespaces"}
    return {f"tokenizer.ggml.{key}": bool(spec.get(field, 1)) for field, key in keys.items()}


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Field numbers and values of a protobuf message; 32-bit values come as bytes."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte, at = data[at], at + 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError

    while at < len(data):
        key = varint()
        if key & 7 == _VARINT:
            yield key >> 3, varint()
            continue
        size = {_FIXED64: 8, _FIXED32: 4}.get(key & 7)
        size = varint() if size is None and key & 7 == _BYTES else size
        if size is None or at + size > len(data):
            raise ValueError
        yield key >> 3, data[at : at + size]
        at += size


def _tiktoken(data: bytes) -> Words:
    """Lines of a token in base 64 and its rank. The merge that makes a token is of the pieces it has without it."""
    ranks: dict[bytes, int] = {}
    for line in data.split(b"\n"):
        if line:
            coded, number = line.split()
            ranks[base64.b64decode(coded, validate=True)] = int(number)
    if sorted(ranks.values()) != list(range(len(ranks))) or len(ranks) < 256:
        raise ValueError
    words = Words("gpt2")
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        words.texts.append(_shown(token))
        words.types.append(TokenType.NORMAL)
        pieces = _merged_below(token, ranks, rank)
        if len(pieces) == 2:
            words.merges.append(" ".join(map(_shown, pieces)))
    return words


def _merged_below(token: bytes, ranks: dict[bytes, int], limit: int) -> list[bytes]:
    """The token's bytes, merged as far as pairs of a rank below `limit` go."""
    pieces = [token[i : i + 1] for i in range(len(token))]
    while len(pieces) > 1:
        merge_ranks = [ranks.get(a + b, limit) for a, b in pairwise(pieces)]
        best = min(merge_ranks)
        if best >= limit:
            break
        i = merge_ranks.index(best)
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
    return pieces


def _shown(token: bytes) -> str:
    return "".join(BYTE_CHARACTERS[b] for b in token)
