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
from graphsched.graph.fusion_rules import RULES
from graphsched.schedule.placement import PlacementOptions

# NMSE over all rows, and how close the reference's best two may be for the best token to differ.
LIMITS = {"BF16": (1e-4, 0.1), "Q8_0": (1e-3, 0.1), "Q6_K": (1e-3, 0.1)}
F16_LIMIT, LITE_LIMIT, QUANT_LIMIT = (1e-5, 0.02), (1e-4, 0.02), (3e-3, 0.1)
MODELS = sorted(f"conformance/{p.stem}" for p in (SHARED / "conformance").glob("*.gguf"))
QUANTS = sorted(f"quants/{p.stem}" for p in (SHARED / "quants").glob("*.gguf"))
FUSIONS = sorted(rule.switch for rule in RULES)
WAYS = [(1, 512), (7, 512), (24, 512), (24, 5)]  # first piece of the prompt, micro-batch


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


def limits(name: str) -> tuple[float, float]:
    if name.startswith("conformance/"):
        return LITE_LIMIT if "lite" in name else F16_LIMIT
    return LIMITS.get(name.rpartition("-")[2], QUANT_LIMIT)


def check(name: str, got: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    limit, close = limits(name)
    assert nmse(got, expected) <= limit
    if "gemma2" in name:  # it repeats its input: the best token says nothing
        return
    best_two = np.sort(expected, axis=1)[:, -2:]
    clear = best_two[:, 1] - best_two[:, 0] > close
    np.testing.assert_array_equal(got.argmax(axis=1)[clear], expected.argmax(axis=1)[clear])


def test_every_reference_is_here() -> None:
    shared("conformance")
    assert len(MODELS) == 17
    assert len(QUANTS) == 16


@pytest.mark.target
@pytest.mark.parametrize(("first", "n_ubatch"), WAYS)
@pytest.mark.parametrize("name", MODELS + QUANTS)
def test_logits_on_cpu(name: str, first: int, n_ubatch: int) -> None:
    ref = reference(name)
    check(name, logits_in_pieces(ref.model, ref.tokens, first, n_ubatch=n_ubatch, n_threads=2), ref.logits)


@pytest.mark.parametrize("name", MODELS + QUANTS)
def test_logits_on_reference(name: str) -> None:
    ref = reference(name)
    check(name, logits_in_pieces(ref.model, ref.tokens, 24, backend="reference"), ref.logits)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "n_ubatch"), WAYS)
@pytest.mark.parametrize("name", MODELS + QUANTS)
def test_logits_on_reference_in_pieces(name: str, first: int, n_ubatch: int) -> None:
    ref = reference(name)
    got = logits_in_pieces(ref.model, ref.tokens, first, n_ubatch=n_ubatch, backend="reference")
    check(name, got, ref.logits)


@pytest.mark.target
@pytest.mark.parametrize("name", MODELS)
def test_ways_to_batch_agree(name: str) -> None:
    """With an exact cache: one rounded to F16 may tip the choice of an expert."""
    ref = reference(name)
    whole, *others = (
        logits_in_pieces(ref.model, ref.tokens, first, n_ubatch=n, type_k="f32", type_v="f32")
        for first, n in WAYS
    )
    assert max(nmse(other, whole) for other in others) <= 1e-6


@pytest.mark.parametrize("name", MODELS)
def test_backends_agree(name: str) -> None:
    ref = reference(name)
    exact = {"type_k": "f32", "type_v": "f32"}
    cpu, plain = (
        logits_in_pieces(ref.model, ref.tokens, 24, backend=b, **exact) for b in ("cpu", "reference")
    )
    assert nmse(cpu, plain) <= 1e-6


KV_LIMITS = {
    "f32": 1e-5,
    "f16": 1e-5,
    "q8_0": 1e-3,
    "q4_0": 0.1,
}  # NMSE of the logits, as docs/numerics.md has it


@pytest.mark.target
@pytest.mark.parametrize(
    ("k", "v"), [*((t, t) for t in KV_LIMITS), ("q8_0", "q4_0"), ("q4_0", "q8_0"), ("f16", "q4_0")]
)
def test_kv_types(k: str, v: str) -> None:
    ref = reference("conformance/llama-f16")
    cached = {"type_k": k, "type_v": v}
    got = logits_in_pieces(ref.model, ref.tokens, 24, **cached)
    assert nmse(got, ref.logits) <= max(KV_LIMITS[k], KV_LIMITS[v])
    np.testing.assert_array_equal(got, logits_in_pieces(ref.model, ref.tokens, 24, n_threads=3, **cached))


def test_the_reference_caches_float32() -> None:
    ref = reference("conformance/llama-f16")
    plain, asked = (
        logits_in_pieces(ref.model, ref.tokens, 24, backend="reference", type_k=t, type_v=t)
        for t in ("f32", "q8_0")
    )
    np.testing.assert_array_equal(plain, asked)
    assert nmse(asked, ref.logits) <= F16_LIMIT[0]


@pytest.mark.target
@pytest.mark.parametrize(
    "name",
    [*MODELS, "quants/llama-Q4_0", "quants/llama-Q4_K_M", *(q for q in QUANTS if "bitnet" in q)],
)
def test_bits_do_not_depend_on_threads(name: str) -> None:
    ref = reference(name)
    one, two, three = (logits_in_pieces(ref.model, ref.tokens, 24, n_threads=n) for n in (1, 2, 3))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, three)


@pytest.mark.target
@pytest.mark.parametrize("name", MODELS)
def test_bits_do_not_depend_on_fusion(name: str) -> None:
    ref = reference(name)
    fused = logits_in_pieces(ref.model, ref.tokens, 24)
    np.testing.assert_array_equal(fused, logits_in_pieces(ref.model, ref.tokens, 24, off=frozenset(FUSIONS)))


@pytest.mark.slow
@pytest.mark.parametrize("off", FUSIONS)
@pytest.mark.parametrize("name", MODELS)
def test_bits_do_not_depend_on_one_fusion(name: str, off: str) -> None:
    ref = reference(name)
    fused = logits_in_pieces(ref.model, ref.tokens, 24)
    np.testing.assert_array_equal(fused, logits_in_pieces(ref.model, ref.tokens, 24, off=frozenset({off})))


@pytest.mark.parametrize("name", [*MODELS, *(q for q in QUANTS if "bitnet" in q)])
def test_bits_do_not_depend_on_placement(name: str) -> None:
    """Experts on the host, uploaded for every batch; what no copy has written is NaN."""
    ref = reference(name)
    home = PlacementOptions(overrides=("exps=CPU",))
    options: dict[str, Any] = {
        "devices": ("sim:rtx4090",),
        "placement": home,
        "offload_min_batch": 1,
        "poison": True,
    }
    placed = logits_in_pieces(ref.model, ref.tokens, 24, **options)
    np.testing.assert_array_equal(placed, logits_in_pieces(ref.model, ref.tokens, 24))
