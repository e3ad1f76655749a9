"""Every architecture against the logits of independent engines, on every backend and through every way to batch."""

from typing import Any

import numpy as np
import pytest
from running import F16_LIMIT, WAYS, check, in_turn, logits_in_pieces, nmse, reference
from shared import FILES, references, shared, with_references
from tiny.files import MODELS, QUANTS, SHORT_MODELS

from graphsched.graph.rewrites.rules import RULES
from graphsched.schedule.placement import PlacementOptions
from graphsched.session.options import KV_TYPES
from graphsched.types import dtypes

FUSIONS = sorted(rule.switch for rule in RULES)


@pytest.mark.reference
def test_every_reference_is_here() -> None:
    for folder, names in (("conformance", MODELS), ("quants", QUANTS)):
        files = {p.stem for kind in ("gguf", "npz") for p in shared(folder).glob(f"*.{kind}")}
        assert files == {FILES[name].partition("/")[2] for name in names}


@pytest.mark.parametrize(
    ("name", "way"),
    [
        *in_turn(SHORT_MODELS + QUANTS, WAYS),
        *in_turn([FILES[name] for name in MODELS + QUANTS], WAYS, pytest.mark.reference),
    ],
)
def test_logits_on_cpu(name: str, way: tuple[int, int]) -> None:
    ref, (first, n_ubatch) = reference(name), way
    check(name, logits_in_pieces(ref.model, ref.tokens, first, n_ubatch=n_ubatch, n_threads=2), ref.logits)


@pytest.mark.reference
@pytest.mark.parametrize("name", references(MODELS + QUANTS))
def test_logits_on_reference(name: str) -> None:
    """Of the tiny models they are in test_tiny.py."""
    ref = reference(name)
    check(name, logits_in_pieces(ref.model, ref.tokens, 24, backend="reference"), ref.logits)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "n_ubatch"), WAYS)
@pytest.mark.parametrize("name", with_references(MODELS + QUANTS))
def test_logits_on_reference_in_pieces(name: str, first: int, n_ubatch: int) -> None:
    ref = reference(name)
    got = logits_in_pieces(ref.model, ref.tokens, first, n_ubatch=n_ubatch, backend="reference")
    check(name, got, ref.logits)


@pytest.mark.parametrize("name", SHORT_MODELS)
def test_ways_to_batch_agree(name: str) -> None:
    """With an exact cache: one rounded to F16 may tip the choice of an expert."""
    ref = reference(name)
    whole, *others = (
        logits_in_pieces(ref.model, ref.tokens, first, n_ubatch=n, type_k="f32", type_v="f32")
        for first, n in WAYS
    )
    assert max(nmse(other, whole) for other in others) <= 1e-6


KV_LIMITS = {
    "f32": 1e-5,
    "f16": 1e-5,
    "bf16": 1e-4,
    "q8_0": 1e-3,
    "q8_KV": 1e-3,
    "q5_1": 0.03,
    "iq4_nl": 0.1,
    "q4_0": 0.1,
}  # NMSE of the logits, as docs/numerics.md has it


@pytest.mark.parametrize(
    ("k", "v"),
    [
        *((t, t) for t in KV_LIMITS),
        ("q8_0", "q4_0"),
        ("q4_0", "q8_0"),
        ("f16", "q4_0"),
        ("q5_1", "iq4_nl"),
        ("q8_KV", "f16"),
    ],
)
def test_kv_types(k: str, v: str) -> None:
    ref = reference("llama")
    cached = {"type_k": k, "type_v": v}
    got = logits_in_pieces(ref.model, ref.tokens, 24, **cached)
    assert nmse(got, ref.logits) <= max(KV_LIMITS[k], KV_LIMITS[v])
    np.testing.assert_array_equal(got, logits_in_pieces(ref.model, ref.tokens, 24, n_threads=3, **cached))


def test_every_type_of_the_option_can_be_cached() -> None:
    assert {dtypes.by_name(word) for word in KV_TYPES.values} == {*dtypes.KV_TYPES}
    assert {*KV_LIMITS} == {*KV_TYPES.values}


def test_the_reference_caches_float32() -> None:
    ref = reference("llama")
    plain, asked = (
        logits_in_pieces(ref.model, ref.tokens, 24, backend="reference", type_k=t, type_v=t)
        for t in ("f32", "q8_0")
    )
    np.testing.assert_array_equal(plain, asked)
    assert nmse(asked, ref.logits) <= F16_LIMIT[0]


@pytest.mark.parametrize(
    "name",
    [*SHORT_MODELS, "llama-Q4_0", "llama-Q4_K_M", *(q for q in QUANTS if "bitnet" in q)],
)
def test_bits_do_not_depend_on_threads(name: str) -> None:
    ref = reference(name)
    one, two, three = (logits_in_pieces(ref.model, ref.tokens, 24, n_threads=n) for n in (1, 2, 3))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize("name", SHORT_MODELS)
def test_bits_do_not_depend_on_fusion(name: str) -> None:
    ref = reference(name)
    fused = logits_in_pieces(ref.model, ref.tokens, 24)
    np.testing.assert_array_equal(fused, logits_in_pieces(ref.model, ref.tokens, 24, off=frozenset(FUSIONS)))


@pytest.mark.slow
@pytest.mark.parametrize("off", FUSIONS)
@pytest.mark.parametrize("name", SHORT_MODELS)
def test_bits_do_not_depend_on_one_fusion(name: str, off: str) -> None:
    ref = reference(name)
    fused = logits_in_pieces(ref.model, ref.tokens, 24)
    np.testing.assert_array_equal(fused, logits_in_pieces(ref.model, ref.tokens, 24, off=frozenset({off})))


@pytest.mark.parametrize("name", [*SHORT_MODELS, *(q for q in QUANTS if "bitnet" in q)])
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
