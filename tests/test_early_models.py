"""Models with LayerNorm, ALiBi, learned positions, attention both ways: bits wherever they run, sequences, errors."""

from contextlib import closing
from typing import Any

import numpy as np
import pytest
from running import ONE, TWO, logits_in_pieces, model_path, reference

import graphsched
from graphsched.errors import OptionError
from graphsched.graph.ops.attention import slopes
from graphsched.graph.rewrites.rules import RULES
from graphsched.schedule.placement import PlacementOptions

NAMES = ("apertus", "cohere2", "cohere2moe", "gpt2", "jais", "llada", "stablelm-12b")
PLACEMENTS: dict[str, dict[str, Any]] = {
    "two devices": {"devices": TWO},
    "attention on the host": {"devices": ONE, "placement": PlacementOptions(overrides=("attn=CPU",))},
    "feed-forward on the host": {"devices": TWO, "placement": PlacementOptions(overrides=("ffn=CPU",))},
    "norms on the host": {"devices": ONE, "placement": PlacementOptions(overrides=("norm=CPU",))},
    "two layers": {"devices": ONE, "placement": PlacementOptions(n_gpu_layers=2)},
}


@pytest.mark.parametrize("name", NAMES)
def test_bits_depend_on_neither_placement_nor_fusion(name: str) -> None:
    """What no copy has written is NaN; weights of the host are uploaded for every batch."""
    ref = reference(name)
    bits = logits_in_pieces(ref.model, ref.tokens, 24)
    for placement in PLACEMENTS.values():
        placed = logits_in_pieces(ref.model, ref.tokens, 24, offload_min_batch=1, poison=True, **placement)
        np.testing.assert_array_equal(placed, bits)
    off = frozenset(rule.switch for rule in RULES)
    np.testing.assert_array_equal(logits_in_pieces(ref.model, ref.tokens, 24, off=off), bits)


@pytest.mark.parametrize("name", ["bloom", "jais"])
def test_attention_in_parts_has_the_biases_too(name: str) -> None:
    ref = reference(name)
    whole, parts = (
        logits_in_pieces(ref.model, ref.tokens, 7, off=frozenset(off), type_k="f32", type_v="f32")
        for off in ((), ("fa",))
    )
    np.testing.assert_allclose(parts, whole, rtol=0, atol=2e-4 * np.abs(whole).max())


def test_slopes_of_six_heads() -> None:
    """As the paper has them: those of four heads, then every other one of eight."""
    want = [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3]
    np.testing.assert_array_equal(slopes(8.0, 6), want)


def test_a_context_longer_than_the_learned_positions() -> None:
    with pytest.raises(OptionError, match="is 1024 tokens, the model has learned 512 positions"):
        graphsched.load(model_path("gpt2"), n_ctx=1024)


def test_sequences_of_one_run_do_not_see_each_other() -> None:
    """Of a model that reads both ways: each has the logits that it has alone."""
    ref = reference("llada")
    with closing(graphsched.load(ref.model, n_ctx=64, n_parallel=2)) as session:
        first, second = session.engine.sequence(), session.sequence
        together = session.engine.step([(first, ref.tokens[:9], 9), (second, ref.tokens[9:21], 12)])
    for part, tokens in zip(together, (ref.tokens[:9], ref.tokens[9:21]), strict=True):
        with closing(graphsched.load(ref.model, n_ctx=64)) as alone:
            np.testing.assert_allclose(part, alone.eval(tokens, all_logits=True), rtol=0, atol=1e-4)
