"""Models of the families on simulated devices, bit for bit as on the CPU: slow, as their parts are those of others.

`pytest -m slow tests/test_family_models.py` runs them.
"""

from typing import Any

import numpy as np
import pytest
from running import ONE, TWO, logits_in_pieces, on_host, reference
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


@pytest.mark.slow
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("name", FAMILY)
def test_same_bits_as_the_cpu(name: str, placement: str) -> None:
    """What no copy has written is NaN."""
    ref = reference(name)
    got = logits_in_pieces(ref.model, ref.tokens, 24, poison=True, **PLACEMENTS[placement])
    np.testing.assert_array_equal(got, on_host(name))
