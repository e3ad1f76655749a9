"""Embeddings: the states in front of the output matrix, pooled, beside answers and alone."""

import asyncio
from typing import Any

import numpy as np
import pytest
from running import EXACT, model_path, nmse
from serving import GREEDY, opened, run, serving, tokens_of_answer

from graphsched.errors import ContextError, OptionError
from graphsched.serve.embedding import pooling_of
from graphsched.serve.request import Busy, Request
from graphsched.session.engine import Engine
from graphsched.session.model import open_default_or
from graphsched.session.options import session_options

LONG = tuple(range(3, 203))  # several steps


@pytest.mark.parametrize("options", [{}, {"devices": ("sim:2x3090",)}, {"backend": "reference"}])
@pytest.mark.parametrize("name", ["llama", "qwen35moe", "mamba2"])
def test_the_output_matrix_makes_logits_of_states(name: str, options: dict[str, Any]) -> None:
    model = open_default_or(model_path(name))
    engine = Engine(model, session_options(n_ctx=64, n_parallel=2, n_threads=2, **EXACT, **options))
    a, b = engine.sequence(), engine.sequence()
    ids = np.arange(5, 25, dtype=np.int32)
    (states,) = engine.compute([(a, ids, 20)], "hidden")
    (logits,) = engine.compute([(b, ids, 20)])
    output = "output.weight" if "output.weight" in model.types else "token_embd.weight"
    weight = model.types[output].dtype.dequantize(model.weights[output], tuple(model.types[output].shape))
    assert states.shape == (20, weight.shape[1])
    assert nmse(states @ weight.T, logits) <= 1e-6
    np.testing.assert_array_equal(a.read(ids[:1]), b.read(ids[:1]))  # cells and states are the same
    engine.close()


def test_poolings() -> None:
    async def states(pooling: str) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
        async with serving(opened(deterministic=True), pooling=pooling) as service:
            return await service.embed([LONG, LONG[:7]])

    async def main() -> None:
        whole = await states("none")
        assert [s.shape[0] for s in whole] == [200, 7]
        first, last = [x[0] for x in whole], [x[-1] for x in whole]
        mean = [x.mean(axis=0, dtype=np.float64).astype(np.float32) for x in whole]
        for pooling, expected in (("mean", mean), ("cls", first), ("last", last), ("", mean)):
            for a, b in zip(await states(pooling), expected, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5)

    run(main())


def test_embeddings_beside_answers() -> None:
    async def main() -> None:
        async with serving(opened(deterministic=True)) as service:
            texts = [LONG[i : 150 - i] for i in range(9)]
            alone = [(await service.embed([text]))[0] for text in texts]
            request = Request(LONG[:30], 40, GREEDY, ignore_eos=True)
            said, _ = await tokens_of_answer(service, request)
            found, (again, _) = await asyncio.gather(service.embed(texts), tokens_of_answer(service, request))
            assert again == said
            for a, b in zip(alone, found, strict=True):
                np.testing.assert_array_equal(a, b)

    run(main())


def test_closing_ends_embeddings() -> None:
    async def main() -> None:
        async with serving(opened(n_parallel=1)) as service:
            asked = asyncio.create_task(service.embed([LONG] * 50))
            while not service.counters().steps:
                await asyncio.sleep(0)
            service.close()
            with pytest.raises(Busy, match="is ending"):
                await asked

    run(main())


def test_texts_that_do_not_fit() -> None:
    async def main() -> None:
        async with serving(opened(n_ctx=64)) as service:
            with pytest.raises(ContextError, match="200 tokens"):
                await service.embed([LONG[:5], LONG])
            with pytest.raises(OptionError, match="is empty"):
                await service.embed([()])
            assert await service.embed([]) == []

    run(main())


@pytest.mark.parametrize(("number", "name"), [(0, "none"), (2, "cls"), (3, "last")])
def test_the_file_says_how(number: int, name: str) -> None:
    asked = session_options(override_kv=f"qwen3moe.pooling_type=int:{number}").override_kv
    with open_default_or(None, asked).file as file:
        assert pooling_of(file, "") == name
        assert pooling_of(file, "mean") == "mean"


def test_an_unknown_way_is_to_be_chosen() -> None:
    asked = session_options(override_kv="qwen3moe.pooling_type=int:4").override_kv
    with (
        open_default_or(None, asked).file as file,
        pytest.raises(OptionError, match="pooling is to be chosen"),
    ):
        pooling_of(file, "")
