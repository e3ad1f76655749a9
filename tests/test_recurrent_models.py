"""Models with recurrent state on the CPU and on simulated devices: any cut of the prompt, any place, any cache."""

from contextlib import closing
from typing import Any

import numpy as np
import pytest
from running import EXACT, ONE, TWO, in_turn, logits_in_pieces, model_path, nmse, on_host, reference
from tiny.files import keys
from tiny.recurrent import RECURRENT

import graphsched
from graphsched.graph.opdef import Op
from graphsched.graph.tensor import is_state
from graphsched.predict.plan import make_plan
from graphsched.schedule.placement import PlacementOptions
from graphsched.session.model import open_default_or
from graphsched.session.options import SessionOptions

P = PlacementOptions
EXACT_LIMIT = 1e-9
CUTS = [(1, 512, 1), (15, 512, 2), (24, 5, 1)]  # first piece of the prompt, micro-batch, threads
PRESETS: dict[str, dict[str, Any]] = {
    "all on devices": {"devices": TWO},
    "alternate layers": {
        "devices": TWO,
        "placement": P(overrides=tuple(rf"blk\.{i}\.={('CPU', 'sim0', 'sim1')[i % 3]}" for i in range(4))),
    },
    "mixers out": {"devices": ONE, "placement": P(overrides=("attn=CPU", "ssm=CPU", "shortconv=CPU"))},
    "state on the host": {"devices": ONE, "placement": P(kv_offload=False)},
    "offload all": {"devices": ONE, "placement": P(n_gpu_layers=0), "offload_min_batch": 1},
}


@pytest.mark.parametrize(("name", "cut"), in_turn(RECURRENT, CUTS))
def test_any_cut_of_the_prompt(name: str, cut: tuple[int, int, int]) -> None:
    ref, (first, n_ubatch, threads) = reference(name), cut
    got = logits_in_pieces(ref.model, ref.tokens, first, n_ubatch=n_ubatch, n_threads=threads, **EXACT)
    for rows in (slice(ref.n_prompt), slice(ref.n_prompt, None)):
        assert nmse(got[rows], ref.logits[rows]) <= EXACT_LIMIT


@pytest.mark.parametrize("name", RECURRENT)
def test_threads_change_no_bit(name: str) -> None:
    ref = reference(name)
    np.testing.assert_array_equal(logits_in_pieces(ref.model, ref.tokens, 24, n_threads=2), on_host(name))


@pytest.mark.parametrize(("name", "preset"), in_turn(RECURRENT, list(PRESETS)))
def test_same_bits_as_the_cpu(name: str, preset: str) -> None:
    ref = reference(name)
    got = logits_in_pieces(ref.model, ref.tokens, 24, poison=True, **PRESETS[preset])
    np.testing.assert_array_equal(got, on_host(name))


STILL = {name for name in RECURRENT if not any("attention.head_count" in key for key in keys(name))}


@pytest.mark.parametrize("name", [name for name in RECURRENT if name not in STILL])
def test_attention_between_recurrent_layers_in_several_nodes(name: str) -> None:
    ref = reference(name)
    got = logits_in_pieces(ref.model, ref.tokens, 24, off=frozenset({"fa"}), **EXACT)
    assert nmse(got, ref.logits) <= EXACT_LIMIT


@pytest.mark.parametrize("mla", range(4))
@pytest.mark.parametrize("name", ["kimi-linear", "bailingmoe3", "bailingmoe3-sections"])
def test_latent_attention_between_recurrent_layers(name: str, mla: int) -> None:
    ref = reference(name)
    assert nmse(logits_in_pieces(ref.model, ref.tokens, 24, mla=mla, **EXACT), ref.logits) <= EXACT_LIMIT


@pytest.mark.parametrize(("kind", "limit"), [("q8_0", 1e-3), ("q4_0", 0.1)])
def test_types_of_the_kv_cache_are_not_those_of_the_state(kind: str, limit: float) -> None:
    ref = reference("qwen35moe")
    error = nmse(logits_in_pieces(ref.model, ref.tokens, 24, type_k=kind, type_v=kind), ref.logits)
    assert 0 < error <= limit
    plan = make_plan(open_default_or(ref.model), SessionOptions(n_ctx=64, type_k=kind, type_v=kind), 1, 1, 1)
    caches = [leaf for leaf in plan.schedule.graph.leaves if leaf.kind == "cache"]
    assert {leaf.dtype.name for leaf in caches if is_state(leaf)} == {"F32"}
    assert {leaf.dtype.name for leaf in caches if not is_state(leaf)} == {kind.upper()}


@pytest.mark.parametrize("name", ["qwen35", "nemotron_h", "lfm2", "kimi-linear", "mamba"])
def test_a_second_text_begins_with_an_empty_state(name: str) -> None:
    ref = reference(name)
    with closing(graphsched.load(ref.model, n_ctx=64, **EXACT)) as session:
        session.eval(ref.tokens[::-1])
        session.reset()
        again = session.eval(ref.tokens, all_logits=True)
    assert nmse(again, ref.logits) <= EXACT_LIMIT


@pytest.mark.parametrize("name", ["kimi-linear", "nemotron_h_moe"])
def test_state_is_changed_where_it_lives(name: str) -> None:
    """Each op runs on the device of its layer's state, wherever the weights are."""
    overrides = tuple(rf"blk\.{i}\.=sim{i % 2}" for i in range(4))
    options = SessionOptions(n_ctx=64, devices=TWO, placement=P(overrides=overrides))
    plan = make_plan(open_default_or(model_path(name)), options, 8, 8, 8)
    device = plan.schedule.assignment.device
    updating = [n for n in plan.schedule.graph.nodes if n.traits.updates]
    assert {n.op for n in updating} <= {Op.SSM_CONV, Op.SSM_SCAN, Op.GATED_DELTA_NET}
    assert len({device[n] for n in updating}) == 2
    assert all(device[n] == plan.planner.homes.device(n.operand(n.traits.updates)) for n in updating)
