"""Sampling: which tokens remain and how often each is drawn, against the steps written out one by one."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from graphsched.errors import Error, OptionError
from graphsched.text.sampling import Sampler, SamplingOptions

F32 = NDArray[np.float32]


def f32(*values: float) -> F32:
    return np.array(values, np.float32)


def remaining(logits: F32, o: SamplingOptions) -> list[int]:
    """Tokens after top-k, top-p and min-p, each on what the one before it left."""
    order = sorted(range(logits.size), key=lambda i: (-logits[i], i))
    if o.top_k:
        order = order[: o.top_k]
    weights = [math.exp(logits[i] - logits[order[0]]) for i in order]
    n, mass = 0, 0.0
    while n < len(order) and (n == 0 or mass < o.top_p * sum(weights)):
        mass += weights[n]
        n += 1
    order = order[:n] if o.top_p < 1 else order
    return [i for i, w in zip(order, weights, strict=False) if w >= o.min_p]


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.sampled_from([-math.inf, -2.0, -1.0, -0.6, 0.0, 0.3, 0.5, 2.0]), min_size=1, max_size=6),
    st.integers(0, 7),
    st.sampled_from([0.0, 0.31, 0.77, 0.93, 1.0]),
    st.sampled_from([0.0, 0.07, 0.33, 1.0]),
)
def test_the_filters_leave_what_the_steps_leave(values: list[float], k: int, p: float, m: float) -> None:
    logits = f32(*values)
    if not np.isfinite(logits.max()):
        return
    # so hot that all that remain are drawn equally often: 6 tokens are all seen in 200 draws
    options = SamplingOptions(1e9, k, p, m, seed=1)
    sampler = Sampler(options)
    drawn = {sampler.sample(logits) for _ in range(200)}
    assert drawn == {i for i in remaining(logits, options) if np.isfinite(logits[i])}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_they_should(temperature: float) -> None:
    logits = f32(0.0, 1.0, -math.inf, 2.0)
    sampler = Sampler(SamplingOptions(temperature, 0, 1.0, 0.0, seed=3))
    counts = np.bincount([sampler.sample(logits) for _ in range(4000)], minlength=4)
    weights = np.exp(logits.astype(np.float64) / temperature)
    np.testing.assert_allclose(counts / 4000, weights / weights.sum(), atol=0.03)
    assert counts[2] == 0


def test_a_large_vocabulary_gives_what_a_small_one_gives() -> None:
    rng = np.random.default_rng(0)
    logits = (rng.standard_normal(5000) * 4).astype(np.float32)
    for p in (0.5, 0.9999):
        options = SamplingOptions(1.0, 0, p, 0.0, seed=2)
        sampler, allowed = Sampler(options), set(remaining(logits, options))
        assert {sampler.sample(logits) for _ in range(500)} <= allowed


def test_a_flat_distribution_keeps_as_many_tokens_as_its_share_needs() -> None:
    sampler = Sampler(SamplingOptions(1.0, 0, 0.5, 0.0, seed=0))
    drawn = [sampler.sample(np.zeros(3000, np.float32)) for _ in range(300)]
    assert 1400 < max(drawn) < 1500


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_greedy_takes_the_first_maximum(temperature: float) -> None:
    sampler = Sampler(SamplingOptions(temperature))
    assert sampler.sample(f32(-1, 3, 2, 3)) == 1
    assert sampler.sample(f32(-math.inf, -math.inf, -5)) == 2


def test_a_tiny_temperature_is_greedy() -> None:
    sampler = Sampler(SamplingOptions(5e-324, 0, 1.0, 0.0))
    assert {sampler.sample(f32(1, 2, -math.inf, 1.9)) for _ in range(20)} == {1}


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others() -> None:
    logits = np.zeros(1000, np.float32)

    def tokens(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingOptions(top_k=0, min_p=0, top_p=1, seed=seed))
        return [sampler.sample(logits) for _ in range(20)]

    assert tokens(7) == tokens(7) != tokens(8)
    assert tokens(None) != tokens(None)


def test_equal_logits_at_the_limit_of_top_k_keep_the_first_tokens() -> None:
    sampler = Sampler(SamplingOptions(top_k=3, seed=0))
    assert {sampler.sample(f32(1, 1, 2, 1, 1)) for _ in range(100)} == {0, 1, 2}


class TestRepeatPenalty:
    def sampler(self, **options: Any) -> Sampler:
        return Sampler(SamplingOptions(temperature=0, repeat_penalty=2.0, **options))

    def test_recent_tokens_are_less_likely_whatever_their_sign(self) -> None:
        sampler = self.sampler()
        logits = f32(3, 2, -1, -1.5)
        assert sampler.sample(logits) == 0
        for _ in range(3):
            sampler.accept(0)  # however often: 3 becomes 1.5
        assert sampler.sample(logits) == 1
        assert logits.tolist() == [3, 2, -1, -1.5]
        for token in (1, 0):
            sampler.accept(token)
        assert sampler.sample(f32(-9, -9, -1, -1.5)) == 2
        sampler.accept(2)  # -1 becomes -2
        assert sampler.sample(f32(-9, -9, -1, -1.5)) == 3

    def test_the_window_forgets(self) -> None:
        for window, expected in ((2, 0), (3, 1), (-1, 1), (0, 0)):
            sampler = self.sampler(repeat_last_n=window)
            for token in (0, 2, 3):
                sampler.accept(token)
            assert sampler.sample(f32(3, 2, 0, 0)) == expected


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("logits", [f32(1, math.nan, 2), f32(-math.inf, -math.inf), f32(0, math.inf)])
def test_unusable_logits_are_an_error(logits: F32, temperature: float) -> None:
    with pytest.raises(Error, match=r"the model gave no usable logits, the largest is (nan|-?inf)"):
        Sampler(SamplingOptions(temperature)).sample(logits)


@pytest.mark.parametrize(
    ("name", "value", "valid"),
    [
        ("temperature", math.nan, "a finite number, 0 and below being greedy"),
        ("temperature", math.inf, "a finite number, 0 and below being greedy"),
        ("temperature", "warm", "a finite number, 0 and below being greedy"),
        ("top_k", -1, "an integer from 0 (off) up"),
        ("top_k", 2.5, "an integer from 0 (off) up"),
        ("top_p", 1.01, "a number from 0 to 1 (off)"),
        ("min_p", -0.01, "a number from 0 (off) to 1"),
        ("repeat_penalty", 0.0, "a number from 0.01 to 100, 1 being off"),
        ("repeat_last_n", -2, "an integer from 0 (off) up, or -1 for all tokens"),
        ("seed", -2, "an integer from -1 up"),
        ("seed", True, "an integer from -1 up"),
    ],
)
def test_an_option_outside_its_range_is_an_error(name: str, value: Any, valid: str) -> None:
    with pytest.raises(OptionError) as e:
        SamplingOptions(**{name: value})
    assert str(e.value) == f"{name} is {value}, {valid} is needed"
