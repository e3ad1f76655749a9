"""Several sequences that generate together: expected experts, the cost of attention, `plan --parallel`, its memory."""

import json
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from typing import Any, Final

import numpy as np
import pytest
from running import model_path

import graphsched
from graphsched.blocks import ExpertConfig
from graphsched.cli import main as cli
from graphsched.graph.cost import cost_of, used_share
from graphsched.graph.ops import flash_attn_ext
from graphsched.graph.tensor import Extent, Pool, Tensor, TensorType, f32, i32, input_tensor
from graphsched.predict.plan import make_plan
from graphsched.predict.session import session_plan
from graphsched.run.trace import RUN
from graphsched.session.model import open_default_or
from graphsched.session.options import SessionOptions
from graphsched.types import dtypes
from graphsched.types.devices import HOST
from graphsched.types.extents import CELL_BLOCK, N_BLOCKS, N_KV, N_TOKENS

Run = Callable[..., tuple[int, str, str]]
SIM: Final = ("--device", "sim:rtx4090", "-c", "1024")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def with_args(*args: str) -> tuple[int, str, str]:
        code = cli.run(args)
        return code, *capsys.readouterr()

    return with_args


# ---- experts ----


@pytest.mark.parametrize(("n_expert", "n_used"), [(4, 2), (64, 6), (8, 8)])
def test_a_token_reads_as_many_experts_as_it_chooses(n_expert: int, n_used: int) -> None:
    assert n_expert * used_share(n_expert, (1, n_used)) == pytest.approx(n_used)
    assert used_share(n_expert, (0, n_used)) == 0


@pytest.mark.parametrize(("n_expert", "n_used", "n_tokens"), [(16, 4, 3), (64, 6, 8), (8, 8, 2)])
def test_distinct_experts_of_several_tokens(n_expert: int, n_used: int, n_tokens: int) -> None:
    """As many as even choices name on average."""
    rng = np.random.default_rng(0)
    named = [
        len({i for _ in range(n_tokens) for i in rng.permutation(n_expert)[:n_used].tolist()})
        for _ in range(2000)
    ]
    assert n_expert * used_share(n_expert, (n_tokens, n_used)) == pytest.approx(np.mean(named), rel=0.02)


# ---- attention ----


def attention(n_tokens: int, n_cells: int) -> Tensor:
    t, pool = Extent(n_tokens, N_TOKENS), Pool(n_cells, N_KV)
    k, v = (
        Tensor(TensorType(dtypes.F16, (pool, 2, width)), kind="cache", name=name)
        for name, width in (("k", 64), ("v", 32))
    )
    table = input_tensor("table", i32(Extent(n_cells, N_BLOCKS)))
    return flash_attn_ext(
        input_tensor("q", f32(t, 8, 64)), k, v, input_tensor("where", i32(t, 3)), table, scale=1
    )


def lengths(n_sequences: int, n_tokens: int, n_kv: int) -> dict[str, int]:
    blocks = n_sequences * -(-n_kv // CELL_BLOCK)
    n = n_sequences * n_tokens
    return {"n_tokens": n, "n_kv": n_kv, "n_blocks": blocks, "n_own": blocks * CELL_BLOCK}


def read(lengths: dict[str, int]) -> float:
    """Bytes of keys and values, without those of the queries, results and tables."""
    others = lengths["n_tokens"] * (8 * (64 + 32) + 3) * 4 + lengths["n_blocks"] * 4
    return cost_of(attention(512, 4096), lengths).nbytes - others


CELL: Final = 2 * (64 + 32) * 2  # bytes of keys and values of a cell


def test_attention_reads_the_cells_of_each_sequence() -> None:
    assert read(lengths(1, 1, 100)) == 100 * CELL  # not of whole blocks: a token sees no more
    assert read(lengths(8, 1, 100)) == 8 * 100 * CELL
    assert read(lengths(2, 40, 96)) == 2 * 96 * CELL  # once for all tokens of a sequence


def test_attention_computes_with_the_cells_that_a_token_sees() -> None:
    one, eight = (cost_of(attention(512, 4096), lengths(n, 1, 100)).flops for n in (1, 8))
    assert one == 2 * 8 * 100 * (64 + 32)
    assert eight == 8 * 97 * one / 100  # the first of eight sees seven cells less than the last


@pytest.mark.parametrize("name", ["llama", "gemma2", "mixtral"])
@pytest.mark.parametrize("n_prompt", [5, 33])
def test_sequences_run_as_planned(name: str, n_prompt: int) -> None:
    """Lengths of tables included, by which costs go."""
    options: dict[str, Any] = {"n_ctx": 256, "n_parallel": 3, "devices": "sim:rtx4090", "n_ubatch": 128}
    with closing(graphsched.load(model_path(name), **options)) as session:
        sequences = [session.sequence, *(session.engine.sequence() for _ in range(2))]
        for n in (n_prompt, 1):
            session.recorder.take()
            session.engine.step([(s, [1 + i] * n, 1) for i, s in enumerate(sequences)])
            (span,) = (s for s in session.recorder.take() if s[0] == RUN)
            plan = make_plan(session.model, session.options, 3 * n, 3, sequences[0].n_past, n_sequences=3)
            assert plan.lengths == span[4]


# ---- plan ----


def test_steps_of_more_and_more_sequences(run: Run) -> None:
    code, out, err = run("plan", *SIM, "-np", "6", "-p", "100", "--json")
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert data["lengths"] == {"n_tokens": 6, "n_outputs": 6, "n_sequences": 6, "n_kv": 101}
    steps, config = data["together"], open_default_or(None).config
    assert isinstance(config, ExpertConfig)
    assert [step["n_parallel"] for step in steps] == [1, 2, 4, 6]
    for step, wider in pairwise(steps):
        assert step["wall"] < wider["wall"]
        assert step["tokens_per_second"] < wider["tokens_per_second"]
    for step in steps:
        n, e, used = step["n_parallel"], config.n_expert, config.n_expert_used
        assert step["experts"] == pytest.approx(e * (1 - (1 - used / e) ** n))
        assert step["tokens_per_second"] == pytest.approx(n / step["wall"])
        assert step["tokens_per_second_each"] == pytest.approx(1 / step["wall"])
    assert steps[-1]["wall"] == data["predicted"]["wall"]


def test_one_sequence_is_planned_as_before(run: Run) -> None:
    plain, one = (json.loads(run("plan", *SIM, *args, "--json")[1]) for args in ((), ("-np", "1")))
    assert plain == one
    assert plain["together"] == []


def test_the_table(run: Run) -> None:
    out = run("plan", *SIM, "-np", "3", "-p", "64")[1]
    head = out.partition("generating together, predicted")[2].splitlines()[2]
    assert [cell.strip() for cell in head.strip("┃").split("┃")] == [
        *("sequences", "ms", "tokens/s", "each", "experts per layer")
    ]
    assert "generating together" not in run("plan", *SIM)[1]


def test_without_a_described_machine_experts_are_known(run: Run) -> None:
    steps = json.loads(run("plan", "-np", "2", "-p", "8", "-c", "128", "--json")[1])["together"]
    assert [(step["wall"], step["n_expert"]) for step in steps] == [(None, 8)] * 2


def test_a_dense_model_has_no_experts(run: Run) -> None:
    model = str(model_path("llama"))
    (step, *_) = json.loads(run("plan", "-m", model, *SIM, "-np", "2", "-p", "8", "--json")[1])["together"]
    assert (step["experts"], step["n_expert"]) == (None, None)
    assert step["wall"] > 0


def test_other_flags_may_have_other_sequences(run: Run) -> None:
    change = json.loads(run("plan", *SIM, "-p", "8", "--vs", "-np 4", "--json")[1])
    assert change["seconds"][0] < change["seconds"][1]


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ("-np 8 -p 65 -c 512", "-p 65 does not fit the context of 512 tokens 8 times; a larger one is -c N"),
        (
            "-np 17 -c 512",
            "the context of 512 tokens has no block of cells for each of 17 sequences; a larger one is -c N",
        ),
        ("-np 0", "-np is 0, an integer from 1 to 1024 is needed"),
    ],
)
def test_bad_input(run: Run, args: str, sentence: str) -> None:
    assert run("plan", *args.split()) == (2, "", f"graphsched: {sentence}\n")


# ---- memory ----


def test_the_memory_of_slots_counts() -> None:
    """Windows have cells for each sequence, recurrent state a row for each and its checkpoints; the rest is shared."""

    def taken(name: str, **options: Any) -> tuple[int, int]:
        given = SessionOptions(n_ctx=8192, n_ubatch=32, **options)
        need = session_plan(open_default_or(model_path(name)), given).needs[HOST]
        return need.kv, need.state

    assert taken("llama", n_parallel=4) == taken("llama")
    one, four = (taken("gemma2", n_parallel=n)[0] for n in (1, 4))
    assert one < four < 4 * one
    one, four = (taken("mamba2", n_parallel=n, n_checkpoints=2)[1] for n in (1, 4))
    assert four == 4 * one > 0
    assert 3 * taken("mamba2", n_checkpoints=0)[1] == one
    assert taken("mamba2", n_checkpoints=2, checkpoint_every=0)[1] == one // 3


@pytest.mark.parametrize(("name", "layers"), [("llama", 0), ("qwen35", 2)])
def test_checkpoints_without_a_state_are_named(run: Run, name: str, layers: int) -> None:
    model = str(model_path(name))
    code, out, err = run("plan", "-m", model, "-c", "64", "-ctxcp", "2", "-cpent", "16", "--json")
    hits = {given["given"]: given["hits"] for given in json.loads(out)["given"]}
    assert (code, hits) == (0, {"-ctxcp 2": layers, "-cpent 16": layers})
    assert err.count("no layer has a recurrent state") == (0 if layers else 2)
