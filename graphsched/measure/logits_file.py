"""Log probabilities of a base model, in the file format of llama-perplexity --kl-divergence-base.

Little-endian: "_logits_"; int32 n_ctx, n_vocab, n_windows; int32 tokens [n_windows, n_ctx] as the text has them; then
of every scored prediction a row of uint16: scale and least log probability (a float32 each), n_vocab values, one more
where n_vocab is odd. log p = scale · value + least; what is less likely than the likeliest by exp(16) is 0.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Self

import numpy as np
from numpy.typing import NDArray

from graphsched.errors import LoadError
from graphsched.gguf.atomic import check_target, replacing
from graphsched.gguf.format import printable
from graphsched.measure.perplexity import LEAST_WINDOW, Floats, Normalised, Windows

MAGIC: Final = b"_logits_"
_HEADER: Final = len(MAGIC) + 3 * 4
_HEAD: Final = 4  # uint16 words in front of a row's values
_STEPS: Final = np.float32(65535)
_LEAST: Final = np.float32(16)  # below the largest logit

Words = NDArray[np.uint16]


def row_words(n_vocab: int) -> int:
    """16-bit words of a row of logits, padding included."""
    return _HEAD + n_vocab + n_vocab % 2


def _size(n_ctx: int, n_vocab: int, n_windows: int) -> int:
    """Bytes of a whole file."""
    return _HEADER + n_windows * (4 * n_ctx + 2 * row_words(n_vocab) * (n_ctx - 1 - n_ctx // 2))


def encoded(p: Normalised) -> Words:
    """Rows of the file, uint16 [n, row_words]."""
    n, n_vocab = p.logits.shape
    least = np.maximum(p.logits.min(axis=1), p.largest - _LEAST)
    scale = (p.largest - least) / _STEPS
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    rows = np.zeros((n, row_words(n_vocab)), np.uint16)
    rows[:, :_HEAD].view(np.float32)[:] = np.stack([scale, least - p.largest - p.log_sum], axis=1)
    steps = np.maximum(p.logits - least[:, None], 0) * inverse[:, None]
    rows[:, _HEAD : _HEAD + n_vocab] = np.minimum(np.rint(steps), _STEPS)
    return rows


def decoded(rows: Words, n_vocab: int) -> Floats:
    """Log probabilities [n, n_vocab] of rows of the file."""
    head = np.ascontiguousarray(rows[:, :_HEAD]).view(np.float32)
    values = rows[:, _HEAD : _HEAD + n_vocab].astype(np.float32)
    return values * head[:, :1] + head[:, 1:]


@contextmanager
def writing(path: Path, windows: Windows, n_vocab: int) -> Iterator[BinaryIO]:
    """The file with its header written, whole when the body has written every row. OptionError if it will not fit."""
    check_target(path, _size(windows.n_ctx, n_vocab, len(windows)))
    with replacing(path) as file:
        file.write(MAGIC + np.array([windows.n_ctx, n_vocab, len(windows)], "<i4").tobytes())
        file.write(windows.tokens.astype("<i4").tobytes())
        yield file


@dataclass(frozen=True)
class BaseLogits:
    """An open file, read window by window."""

    file: BinaryIO
    windows: Windows
    n_vocab: int

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.file.close()

    def rows(self, window: int) -> Words:
        """The rows of a window, uint16 [n_scored, row_words]."""
        size, n = row_words(self.n_vocab), self.windows.n_scored
        start = _HEADER + 4 * self.windows.tokens.size + 2 * size * n * window
        found = np.fromfile(self.file, "<u2", size * n, offset=start - self.file.tell())
        return found.reshape(n, size)


def open_base(path: Path) -> BaseLogits:
    """Opens and checks a file; LoadError where it is none, or is not all there."""
    name = printable(str(path))
    try:
        file = path.open("rb")
    except OSError as e:
        raise LoadError(f"{name}: {(e.strerror or str(e)).lower()}") from None
    try:
        return _checked(file, name)
    except BaseException:
        file.close()
        raise


def _checked(file: BinaryIO, name: str) -> BaseLogits:
    if file.read(len(MAGIC)) != MAGIC:
        raise LoadError(f"{name}: not a file of log probabilities, which --kl-divergence-base makes")
    head = np.fromfile(file, "<i4", 3)
    if len(head) < 3 or head.min() < 1 or head[0] < LEAST_WINDOW:
        raise LoadError(f"{name}: window, vocabulary and count are {head.tolist()}, which cannot be")
    n_ctx, n_vocab, n = map(int, head)
    needed = _size(n_ctx, n_vocab, n)
    there = os.fstat(file.fileno()).st_size
    if there < needed:
        raise LoadError(f"{name}: ends after {there} of {needed} bytes")
    tokens = np.fromfile(file, "<i4", n * n_ctx).astype(np.int32).reshape(n, n_ctx)
    if tokens.min() < 0 or tokens.max() >= n_vocab:
        raise LoadError(f"{name}: has tokens outside its vocabulary of {n_vocab}")
    return BaseLogits(file, Windows(tokens), n_vocab)
