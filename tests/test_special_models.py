"""Models with parts of their own on the CPU and on simulated devices: streams, indexers, pools, latents, gates."""

from contextlib import closing
from typing import Any

import numpy as np
import pytest
from running import EXACT, ONE, TWO, in_turn, logits_in_pieces, nmse, on_host, reference
from tiny.files import encoded_tensor, keys, plain, shapes
from tiny.special import SPECIAL
from tiny.table import V

import graphsched
from graphsched.schedule.placement import PlacementOptions
from graphsched.session.switches import FUSIONS

P = PlacementOptions
EXACT_LIMIT = 1e-9
LATENT = ("deepseek32", "glm-dsa", "glm5-next", "kimi-k3", "minicpm3", "mistral4")
SPARSE = ("deepseek32", "deepseek4", "deepseek4-wide", "glm-dsa", "glm5-next", "minimax-m3")
PRESETS: dict[str, dict[str, Any]] = {
    "all on devices": {"devices": TWO},
    "alternate layers": {
        "devices": TWO,
        "placement": P(overrides=tuple(rf"blk\.{i}\.={('CPU', 'sim0', 'sim1')[i % 3]}" for i in range(15))),
    },
    "experts out": {"devices": ONE, "placement": P(overrides=("exps=CPU",)), "offload_min_batch": 1},
    "cache on the host": {"devices": ONE, "placement": P(kv_offload=False)},
    "attention out": {"devices": ONE, "placement": P(overrides=("attn=CPU", "indexer=CPU", "hc_=CPU"))},
}


@pytest.mark.parametrize(("name", "preset"), in_turn(SPECIAL, list(PRESETS)))
def test_same_bits_as_the_cpu(name: str, preset: str) -> None:
    ref = reference(name)
    got = logits_in_pieces(ref.model, ref.tokens, 24, poison=True, **PRESETS[preset])
    np.testing.assert_array_equal(got, on_host(name))


OPTIONS: dict[str, dict[str, Any]] = {
    "two threads": {"n_threads": 2},
    "nothing fused": {"off": frozenset(FUSIONS)},
}


@pytest.mark.parametrize(("name", "options"), in_turn(SPECIAL, list(OPTIONS)))
def test_threads_and_fusions_change_no_bit(name: str, options: str) -> None:
    ref = reference(name)
    got = logits_in_pieces(ref.model, ref.tokens, 24, **OPTIONS[options])
    np.testing.assert_array_equal(got, on_host(name))


@pytest.mark.parametrize("mla", range(4))
@pytest.mark.parametrize("name", LATENT)
def test_latent_attention(name: str, mla: int) -> None:
    ref = reference(name)
    assert nmse(logits_in_pieces(ref.model, ref.tokens, 24, mla=mla, **EXACT), ref.logits) <= EXACT_LIMIT


@pytest.mark.parametrize("first", [1, 6, 15])
@pytest.mark.parametrize("name", SPARSE)
def test_any_cut_of_the_prompt(name: str, first: int) -> None:
    ref = reference(name)
    got = logits_in_pieces(ref.model, ref.tokens, first, n_ubatch=5, **EXACT)
    assert nmse(got, ref.logits) <= EXACT_LIMIT


@pytest.mark.parametrize("name", ["deepseek4", "deepseek4-wide"])
def test_windows_that_give_blocks_back(name: str) -> None:
    """Rows that stand for several positions are all there, whatever a window has given back."""
    tokens = np.random.default_rng(7).integers(3, V, 420).astype(np.int32)
    values = {t: encoded_tensor(name, t, shape)[2] for t, shape in shapes(name).items()}
    stored = {k: float(np.float32(v)) if isinstance(v, float) else v for k, v in keys(name).items()}
    want = plain("deepseek4", stored, values).logits(tokens)
    with closing(graphsched.load(reference(name).model, n_ctx=1024, n_ubatch=32, **EXACT)) as session:
        got = session.eval(tokens, all_logits=True)
    assert nmse(got, want) <= EXACT_LIMIT


@pytest.mark.parametrize("name", SPARSE)
def test_sequences_see_what_their_own_indexer_chooses(name: str) -> None:
    """A fork and a sequence with other tokens in one forward: each as alone."""
    ref = reference(name)
    with closing(graphsched.load(ref.model, n_ctx=192, n_parallel=3, deterministic=True, **EXACT)) as session:
        engine, first = session.engine, session.sequence
        other = engine.sequence()
        engine.step([(first, ref.tokens[:20], 1), (other, ref.tokens[::-1], 1)])
        fork = first.fork()
        rest = [(s, ref.tokens[20:], len(ref.tokens) - 20) for s in (fork, first)]
        found = engine.step([*rest, (other, ref.tokens[:3], 1)])
    for logits in found[:2]:
        assert nmse(logits, ref.logits[20:]) <= EXACT_LIMIT
