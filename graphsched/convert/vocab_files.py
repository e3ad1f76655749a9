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
from graphsched.gguf.format import printable
from graphsched.text.bpe import BYTE_CHARACTERS
from graphsched.text.vocab import TokenType

_LARGEST: Final = 1 << 26
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass
class Words:
    """Tokens by id; of SentencePiece scores, of byte-level BPE merges."""

    kind: str  # tokenizer.ggml.model
    texts: list[str] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)


def read_model(path: Path) -> Words:
    """A tokenizer.model of either kind."""
    if path.stat().st_size > _LARGEST:
        raise LoadError(f"{printable(path.name)}: is too large for a vocabulary")
    data = path.read_bytes()
    try:
        return _sentencepiece(data) if data[:1] == b"\x0a" else _tiktoken(data)
    except (ValueError, LookupError, binascii.Error):
        raise LoadError(f"{printable(path.name)}: is no vocabulary of SentencePiece or tiktoken") from None


def _sentencepiece(data: bytes) -> Words:
    """The pieces of a model protobuf: field 1 is a piece, in it 1 its text, 2 its score, 3 its type."""
    words = Words("llama")
    for number, piece in _fields(data):
        if number != 1 or not isinstance(piece, bytes):
            continue
        found: dict[int, bytes | int] = {2: b"\0\0\0\0", 3: 1, **dict(_fields(piece))}
        text, score, kind = found[1], found[2], found[3]
        if not isinstance(text, bytes) or not isinstance(score, bytes) or not isinstance(kind, int):
            raise ValueError
        words.texts.append(text.decode("utf-8"))
        words.scores.append(unpack("<f", score)[0])
        words.types.append(kind)
    return words


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
    """Lines of a token in base 64 and its rank. The merge that makes a token is of the parts it has without it."""
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
        parts = _parts(token, ranks, rank)
        if len(parts) == 2:
            words.merges.append(" ".join(map(_shown, parts)))
    return words


def _parts(token: bytes, ranks: dict[bytes, int], limit: int) -> list[bytes]:
    """The token's bytes, merged as far as pairs of a rank below `limit` go."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 1:
        found = [ranks.get(a + b, limit) for a, b in pairwise(parts)]
        best = min(found)
        if best >= limit:
            break
        i = found.index(best)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def _shown(token: bytes) -> str:
    return "".join(BYTE_CHARACTERS[b] for b in token)
