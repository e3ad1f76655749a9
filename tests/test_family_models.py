"""Models of the families on simulated devices and without fusions, bit for bit as on the CPU.

Each in one way; `pytest -m "slow or not slow"` runs all ways.
"""

from typing import Any

import numpy as np
import pytest
from running import ONE, TWO, in_turn, logits_in_pieces, on_host, reference
from tiny.family import FAMILY

from graphsched.schedule.placement import PlacementOptions
from graphsched.session.switches import FUSIONS

PLACEMENTS: dict[str, dict[str, Any]] = {
    "two devices": {"devices": TWO},
    "attention on the host": {"devices": ONE, "placement": PlacementOptions(overrides=("attn=CPU",))},
    "feed-forward on the host": {"devices": TWO, "placement": PlacementOptions(overrides=("ffn=CPU",))},
    "experts out, uploaded": {
        "devices": ONE,
        "placement": PlacementOptions(overrides=("exps=CPU",)),
        "offload_min_batch": 1,
    },
    "cache on the host": {"devices": TWO, "placement": PlacementOptions(kv_offload=False)},
    "nothing fused": {"off": frozenset(FUSIONS)},
}


@pytest.mark.parametrize(("name", "placement"), in_turn(FAMILY, list(PLACEMENTS)))
def test_same_bits_as_the_cpu(name: str, placement: str) -> None:
    """What no copy has written is NaN."""
    ref = reference(name)
    got = logits_in_pieces(ref.model, ref.tokens, 24, poison=True, **PLACEMENTS[placement])
    np.testing.assert_array_equal(got, on_host(name))


def test_a_view_of_a_weight_behind_experts_on_the_host() -> None:
    """Its bytes count where the weight is; no node of the plan is its source."""
    ref = reference("step35")
    got = logits_in_pieces(ref.model, ref.tokens, 24, **PLACEMENTS["attention on the host"])
    np.testing.assert_array_equal(got, on_host("step35"))
