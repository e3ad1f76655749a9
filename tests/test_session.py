"""Sessions: golden text, perplexity, plans by capacity, what Python does per token, and its errors."""

import json
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import model_path, window_losses
from shared import shared

import graphsched
from graphsched import SamplingOptions, Session
from graphsched.errors import ContextError, Error, OptionError
from graphsched.session.session import Aborted
from graphsched.session.switches import SWITCHES

GREEDY = SamplingOptions(temperature=0)
PROMPT = "Once upon a time"


def small(**options: Any) -> Session:
    return graphsched.load(model_path("llama-F32"), **options)


def stories(**options: Any) -> Session:
    return graphsched.load(shared("models/stories260K.gguf"), **options)


def text_of(session: Session, n: int) -> str:
    return PROMPT + "".join(session.generate(PROMPT, n_predict=n, sampling=GREEDY))


@pytest.mark.reference
@pytest.mark.target
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_golden_text(backend: str) -> None:
    expected = json.loads(shared("models/stories260K.json").read_text())["greedy_text_256_positions"]
    assert text_of(stories(backend=backend), 252) == expected


@pytest.mark.reference
@pytest.mark.parametrize("kv", ["f32", "f16"])
def test_perplexity_has_the_windows_of_llama_perplexity(kv: str) -> None:
    expected = json.loads(shared("models/stories260K.json").read_text())["perplexity"]["F32"]
    session = stories(n_ctx=256, type_k=kv, type_v=kv)
    ids = session.tokenizer.encode(shared("text/stories.txt").read_text(encoding="utf-8"))
    windows = [ids[start : start + 256] for start in range(0, len(ids) - 255, 256)]
    losses = [loss for window in windows for loss in window_losses(session, window)]
    assert np.exp(np.mean(losses)) == pytest.approx(expected, abs=0.003)


def test_one_plan_per_capacity_not_per_length() -> None:
    session = small()
    for n in (31, 32, 30, 33, 34, 100):
        session.reset()
        session.eval(list(range(3, 3 + n)))
    assert sorted(session.engine.plans) == [(1, 1, ()), (32, 1, ()), (128, 1, ())]


def test_logits_do_not_depend_on_how_a_prompt_is_cut() -> None:
    ids = list(range(5, 60))
    whole = small().eval(ids, all_logits=True)
    cut = small(n_ubatch=7, n_batch=20).eval(ids, all_logits=True)
    assert whole.shape == cut.shape == (55, 512)
    np.testing.assert_allclose(cut, whole, rtol=0, atol=2e-4)
    np.testing.assert_allclose(small().eval(ids)[0], whole[-1], rtol=0, atol=2e-4)


def calls_per_token(session: Session) -> int:
    """Python and C function calls that one decode step makes."""
    session.eval([1, 2, 3])
    session.eval([4])
    count = 0

    def profile(frame: Any, event: str, arg: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    session.eval([5])
    sys.setprofile(None)
    return count


def test_python_calls_per_token_do_not_grow_with_layers() -> None:
    five_layers = calls_per_token(small())
    two_layers = calls_per_token(graphsched.load(model_path("llama"), n_ctx=64))
    assert five_layers == two_layers
    assert five_layers < 80


def test_reset_forgets() -> None:
    session = small()
    first = session.eval([1, 2, 3])
    session.eval([9, 9])
    session.reset()
    assert session.n_past == 0
    np.testing.assert_array_equal(session.eval([1, 2, 3]), first)


def test_generation_ends_at_a_full_context() -> None:
    session = small(n_ctx=16)
    list(session.generate(PROMPT, sampling=GREEDY))
    assert session.stop_reason == "context"
    assert session.n_past == 16


def test_weights_in_memory_give_the_same_bits() -> None:
    np.testing.assert_array_equal(small(mmap=False).eval([1, 2, 3]), small().eval([1, 2, 3]))


def test_seed_decides_the_text() -> None:
    sampling = SamplingOptions(temperature=1.0, seed=7)
    one, two = ("".join(small().generate(PROMPT, n_predict=30, sampling=sampling)) for _ in range(2))
    assert one == two


def test_abort_ends_a_prompt_and_keeps_the_cache() -> None:
    session = small(n_ctx=4096, n_ubatch=2048)
    before = session.eval([1, 2, 3])
    timer = threading.Timer(0.05, session.abort)
    timer.start()
    with pytest.raises(Aborted):
        read_prompts_for_ever(session)
    timer.join()
    assert session.n_past in (0, 3, 2051)  # whole micro-batches only
    session.reset()
    np.testing.assert_array_equal(session.eval([1, 2, 3]), before)


def read_prompts_for_ever(session: Session) -> None:
    while True:
        session.reset()
        session.eval([1, 2, 3])
        session.eval([7] * 4000)


BAD = [
    (lambda s: s.eval([]), OptionError, "no tokens to evaluate"),
    (lambda s: s.eval([512]), OptionError, "token 512 is outside the vocabulary of 512"),
    (lambda s: s.eval([3, -1]), OptionError, "token -1 is outside the vocabulary of 512"),
    (
        lambda s: s.eval([1] * 33),
        ContextError,
        "the context holds 32 tokens: 0 are used and 33 more do not fit; a larger one is -c N",
    ),
    (lambda s: list(s.generate("word " * 40)), ContextError, None),
]


@pytest.mark.parametrize(("call", "kind", "sentence"), BAD)
def test_bad_calls(call: Any, kind: type[Error], sentence: str | None) -> None:
    session = small(n_ctx=32)
    with pytest.raises(kind) as caught:
        call(session)
    assert sentence is None or str(caught.value) == sentence
    assert session.eval([1]).shape == (1, 512)  # the session lives on


BAD_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"n_ctx": -2}, "n_ctx is -2, an integer from 1 to 16777216, or 0 for the training context is needed"),
    ({"n_threads": 5000}, "n_threads is 5000, an integer from 0 to 1024 is needed"),
    ({"n_ubatch": 0}, "n_ubatch is 0, an integer from 1 to 1048576 is needed"),
    ({"type_k": "q4_k"}, "type_k is q4_k, one of f32, f16, bf16, q8_0, q4_0, q5_1, iq4_nl, q8_KV is needed"),
    ({"backend": "tpu"}, "backend is tpu, cpu or reference is needed"),
    (
        {"off": frozenset({"magic"})},
        f"off has no switch 'magic'; there are {', '.join(sorted(SWITCHES))}",
    ),
    ({"colour": 1}, "there is no option 'colour'"),
    ({"n_ctxs": 1}, "there is no option 'n_ctxs'; did you mean n_ctx?"),
]


@pytest.mark.parametrize(("options", "sentence"), BAD_OPTIONS)
def test_bad_options(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(OptionError) as caught:
        small(**options)
    assert str(caught.value) == sentence


def test_a_cache_that_cannot_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphsched.session.engine.physical_memory", lambda: 8_000_000_000)
    with pytest.raises(ContextError) as caught:
        graphsched.load(n_ctx=1 << 24, type_k="f32", type_v="f32")
    assert str(caught.value).startswith(
        "a context of 16777216 tokens takes 34.4 GB of KV cache, this machine has"
    )


def test_errors_of_the_path(tmp_path: Path) -> None:
    with pytest.raises(Error):
        graphsched.load(tmp_path / "absent.gguf")
