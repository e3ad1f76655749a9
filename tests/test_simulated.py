"""Splits over simulated devices: the same bits as on the CPU, wherever things are placed."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import ONE, THREE, TWO, logits_in_pieces, on_host, reference
from tiny.files import SHORT_MODELS as MODELS

from graphsched.schedule.placement import PlacementOptions

P = PlacementOptions


def alternate(devices: int) -> tuple[str, ...]:
    """Layers in turn over the host and the devices."""
    names = ["CPU", *(f"sim{i}" for i in range(devices))]
    return tuple(rf"blk\.{i}\.={names[i % len(names)]}" for i in range(64))


PRESETS: dict[str, dict[str, Any]] = {
    "all on devices": {},
    "one layer": {"placement": P(n_gpu_layers=1)},
    "alternate layers": {"placement": P(overrides=alternate(1))},
    "experts out": {"placement": P(overrides=("exps=CPU",))},
    "experts out, baseline rules": {
        "placement": P(overrides=("exps=CPU",)),
        "off": frozenset({"traffic", "hoist"}),
    },
    "attention out": {"placement": P(overrides=("attn=CPU",))},
    "up and gate apart": {"placement": P(overrides=("ffn_up=CPU",))},
    "host cache": {"placement": P(kv_offload=False)},
    "offload all": {"placement": P(n_gpu_layers=0), "offload_min_batch": 1},
    "offload experts": {"placement": P(overrides=("exps=CPU",)), "offload_min_batch": 1},
    "-op -1,0": {"placement": P(n_gpu_layers=0), "offload_min_batch": 1, "offload_policy": ("-1,0",)},
    "-op 29,0": {
        "placement": P(overrides=("exps=CPU",)),
        "offload_min_batch": 1,
        "offload_policy": ("29,0",),
    },
    "output on the host": {"placement": P(overrides=("output=CPU",))},
}
EXTRA = ["llama-Q4_0", "llama-Q4_K_M"]
DEVICES = {"1": ONE, "2": TWO, "3": THREE}


def cross_product() -> list[Any]:
    """Every model in every preset on one, two and three devices.

    By default each model in every second preset, on one of the three: each pair of preset and devices has three models.
    """
    product = itertools.product(*map(enumerate, ([*MODELS, *EXTRA], PRESETS, DEVICES)))
    return [
        pytest.param(name, preset, devices, marks=() if (m + p) % 6 == 2 * d else pytest.mark.slow)
        for (m, name), (p, preset), (d, devices) in product
    ]


@pytest.mark.parametrize(("name", "preset", "devices"), cross_product())
def test_same_bits_as_the_cpu(name: str, preset: str, devices: str) -> None:
    ref = reference(name)
    placed = {"devices": DEVICES[devices], "poison": True, **PRESETS[preset]}
    got = logits_in_pieces(ref.model, ref.tokens, 24, **placed)
    np.testing.assert_array_equal(got, on_host(name))


TENSORS = [
    "attn_q",
    "attn_k",
    "attn_output",
    "ffn_up",
    "ffn_gate",
    "ffn_down",
    "norm",
    "output",
    "token_embd",
    "exps",
]


@pytest.mark.parametrize(
    "name", [pytest.param(m, marks=() if "mixtral" in m else pytest.mark.slow) for m in MODELS]
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rules=st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from(TENSORS), st.sampled_from(["CPU", "sim0", "sim1"]))
    ),
    min_batch=st.sampled_from([1, 4, 32]),
    policy=st.sampled_from([(), ("26,0",), ("27,0,29,0",)]),
    off=st.sets(st.sampled_from(["traffic", "hoist", "fmoe"])),
)
def test_any_placement_and_policy(
    name: str, rules: list[tuple[int, str, str]], min_batch: int, policy: tuple[str, ...], off: set[str]
) -> None:
    ref = reference(name)
    overrides = tuple(rf"blk\.{layer}.*{tensor}={device}" for layer, tensor, device in rules)
    options: dict[str, Any] = {
        "offload_min_batch": min_batch,
        "offload_policy": policy,
        "off": frozenset(off),
    }
    placed = {"devices": TWO, "placement": P(overrides=overrides), "poison": True}
    got = logits_in_pieces(ref.model, ref.tokens, 24, **placed, **options)
    np.testing.assert_array_equal(got, on_host(name))
