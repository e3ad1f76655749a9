"""Every architecture against the logits of independent engines, on every backend and through every way to batch."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from shared import SHARED, shared

import graphsched

# NMSE over all rows, and how close the reference's best two may be for the best token to differ.
LIMITS = {
    "f16": (1e-5, 0.02),
    "BF16": (1e-4, 0.1),
    "Q8_0": (1e-3, 0.1),
    "Q6_K": (1e-3, 0.1),
    "other": (3e-3, 0.1),
}
CONFORMANCE = ["llama-f16", "mixtral-f16"]
QUANTS = sorted(p.stem for p in (SHARED / "quants").glob("llama-*.gguf"))


@dataclass(frozen=True)
class Reference:
    """Logits [32, 512] after each of `tokens`; the first n_prompt came from one batch."""

    model: Path
    tokens: NDArray[np.int32]
    logits: NDArray[np.float32]
    n_prompt: int


def reference(name: str) -> Reference:
    data = np.load(shared(f"{name}.npz"))
    return Reference(shared(f"{name}.gguf"), data["tokens"], data["logits"], int(data["n_prompt"]))


def logits_in_pieces(
    path: Path, tokens: NDArray[np.int32], first: int, **options: Any
) -> NDArray[np.float32]:
    """A prompt of `first` tokens at once, the rest of the reference's prompt at once, then one by one."""
    session = graphsched.load(path, n_ctx=64, **options)
    cuts = sorted({0, first, 24, *range(24, len(tokens) + 1)})
    rows = [session.eval(tokens[a:b], all_logits=True) for a, b in itertools.pairwise(cuts)]
    session.close()
    return np.concatenate(rows)


def nmse(got: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    assert np.isfinite(got).all()
    difference = got.astype(np.float64) - expected
    return float(np.sum(difference**2) / np.sum(expected.astype(np.float64) ** 2))


def check(name: str, got: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    limit, close = LIMITS.get(name.rpartition("-")[2], LIMITS["other"])
    assert nmse(got, expected) <= limit
    best_two = np.sort(expected, axis=1)[:, -2:]
    clear = best_two[:, 1] - best_two[:, 0] > close
    np.testing.assert_array_equal(got.argmax(axis=1)[clear], expected.argmax(axis=1)[clear])


@pytest.mark.target
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("first", "n_ubatch"), [(1, 512), (7, 512), (24, 512), (24, 5), (24, 16)])
@pytest.mark.parametrize("name", [f"conformance/{n}" for n in CONFORMANCE] + [f"quants/{n}" for n in QUANTS])
def test_logits_on_cpu(name: str, first: int, n_ubatch: int, threads: int) -> None:
    ref = reference(name)
    check(
        name, logits_in_pieces(ref.model, ref.tokens, first, n_ubatch=n_ubatch, n_threads=threads), ref.logits
    )


@pytest.mark.parametrize("name", [f"conformance/{n}" for n in CONFORMANCE] + ["quants/llama-Q4_K_M"])
def test_logits_on_reference(name: str) -> None:
    ref = reference(name)
    check(name, logits_in_pieces(ref.model, ref.tokens, 24, backend="reference"), ref.logits)


@pytest.mark.target
@pytest.mark.parametrize("kv", ["f32", "f16", "q8_0"])
def test_kv_types(kv: str) -> None:
    ref = reference("conformance/llama-f16")
    got = logits_in_pieces(ref.model, ref.tokens, 24, type_k=kv, type_v=kv)
    assert nmse(got, ref.logits) <= (1e-3 if kv == "q8_0" else 1e-5)


@pytest.mark.target
@pytest.mark.parametrize("name", ["conformance/llama-f16", "conformance/mixtral-f16", "quants/llama-Q4_0"])
def test_bits_do_not_depend_on_threads(name: str) -> None:
    ref = reference(name)
    one, two, three = (logits_in_pieces(ref.model, ref.tokens, 24, n_threads=n) for n in (1, 2, 3))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, three)


@pytest.mark.target
@pytest.mark.parametrize("off", ["fmoe", "fused-mul-unary", "fused-rms-norm"])
@pytest.mark.parametrize("name", ["conformance/llama-f16", "conformance/mixtral-f16"])
def test_bits_do_not_depend_on_fusion(name: str, off: str) -> None:
    ref = reference(name)
    fused = logits_in_pieces(ref.model, ref.tokens, 24)
    np.testing.assert_array_equal(fused, logits_in_pieces(ref.model, ref.tokens, 24, off=frozenset({off})))
