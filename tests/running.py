"""Models and their expected logits by name, runs in pieces, and when two results agree."""

import itertools
from collections.abc import Iterable, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from shared import shared
from tiny import files
from tiny.files import MODELS, SHORT_MODELS, Reference

import graphsched
from graphsched import Session

# NMSE over all rows, and how close the expected best two may be for the best token to differ.
LIMITS = {"BF16": (1e-4, 0.1), "Q8_0": (1e-3, 0.1), "Q6_K": (1e-3, 0.1)}
F16_LIMIT, LITE_LIMIT, QUANT_LIMIT = (1e-5, 0.02), (1e-4, 0.02), (3e-3, 0.1)
WAYS = [(1, 512), (7, 512), (24, 512), (24, 5)]  # first piece of the prompt, micro-batch
ONE, TWO, THREE = ("sim:rtx4090",), ("sim:2x3090",), ("sim:2x3090", "sim:rtx4090")
EXACT: dict[str, Any] = {"type_k": "f32", "type_v": "f32"}


def model_path(name: str) -> Path:
    """The file of a tiny model, or of a reference: `llama-Q4_0`, `quants/llama-Q4_0`."""
    return shared(f"{name}.gguf") if "/" in name else files.path(name)


def tokens_of(name: str) -> NDArray[np.int32]:
    """The 32 tokens after each of which the logits are known."""
    tokens: NDArray[np.int32] = (
        np.load(shared(f"{name}.npz"))["tokens"] if "/" in name else files.tokens(name)
    )
    return tokens


def reference(name: str) -> Reference:
    """A tiny model with the logits of the plain forward pass, or a reference file with those of another engine."""
    if "/" not in name:
        return files.reference(name)
    data = np.load(shared(f"{name}.npz"))
    return Reference(model_path(name), data["tokens"], data["logits"], int(data["n_prompt"]))


def logits_in_pieces(
    path: Path, tokens: NDArray[np.int32], first: int, **options: Any
) -> NDArray[np.float32]:
    """A prompt of `first` tokens at once, the rest of the reference's prompt at once, then one by one."""
    with closing(graphsched.load(path, n_ctx=64, **options)) as session:
        cuts = sorted({0, first, 24, *range(24, len(tokens) + 1)})
        rows = [session.eval(tokens[a:b], all_logits=True) for a, b in itertools.pairwise(cuts)]
    return np.concatenate(rows)


def in_turn(names: Iterable[str], options: Sequence[Any], *marks: pytest.MarkDecorator) -> list[Any]:
    """Parameters, every name with every option: by default each name with one of them, the others are slow.

    For what depends on names and on options, but not on which come together.
    """
    return [
        pytest.param(
            name, option, marks=(*marks, *(() if (m - o) % len(options) == 0 else (pytest.mark.slow,)))
        )
        for (m, name), (o, option) in itertools.product(enumerate(names), enumerate(options))
    ]


@cache
def on_host(name: str) -> NDArray[np.float32]:
    """Logits of the CPU run, once per model."""
    ref = reference(name)
    return logits_in_pieces(ref.model, ref.tokens, 24)


def nmse(got: NDArray[Any], expected: NDArray[Any]) -> float:
    """Σ(a-b)² / Σb², of finite values."""
    assert np.isfinite(got).all(), "not finite"
    scale = float(np.sum(expected.astype(np.float64) ** 2))
    return float(np.sum((got.astype(np.float64) - expected) ** 2)) / (scale or 1.0)


def limits(name: str) -> tuple[float, float]:
    """NMSE, and how close the best two may be, for a run with a cache of halves."""
    if name in MODELS + SHORT_MODELS or name.startswith("conformance/"):
        return LITE_LIMIT if "lite" in name else F16_LIMIT
    return LIMITS.get(name.rpartition("-")[2], QUANT_LIMIT)


def check(name: str, got: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """Within the limits of the model, the best token of each row included."""
    limit, close = limits(name)
    assert nmse(got, expected) <= limit
    if "gemma2" in name:  # it repeats its input: the best token says nothing
        return
    best_two = np.sort(expected, axis=1)[:, -2:]
    clear = best_two[:, 1] - best_two[:, 0] > close
    np.testing.assert_array_equal(got.argmax(axis=1)[clear], expected.argmax(axis=1)[clear])


def window_losses(session: Session, window: list[int]) -> list[float]:
    """Negative log-likelihood of the second half of a window that starts with BOS."""
    session.reset()
    logits = session.eval([session.tokenizer.bos or 0, *window[1:]], all_logits=True).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return [-float(log_p[i, window[i + 1]]) for i in range(128, 255)]
