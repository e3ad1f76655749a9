"""One reading of -c, -b, -ub and -p for all commands, and what is said where one of them is cut."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import model_path

import graphsched
from graphsched.errors import OptionError
from graphsched.session.batching import Batching, batching
from graphsched.session.options import SessionOptions

Run = Callable[..., tuple[int, str, str]]


@given(*(st.integers(1, 40) for _ in range(4)))
def test_micro_batches_are_those_of_a_batch_at_a_time(n: int, batch: int, ubatch: int, n_ctx: int) -> None:
    reading = batching(SessionOptions(n_batch=batch, n_ubatch=ubatch), n_ctx)
    cuts = {i for b in range(0, n, batch) for i in range(b, min(b + batch, n), min(ubatch, batch, n_ctx))}
    found = list(reading.pieces(n))
    assert [first for first, _ in found] == sorted(cuts)
    assert sum(size for _, size in found) == n
    assert max(size for _, size in found) <= reading.n_ubatch == min(ubatch, batch, n_ctx)


@pytest.mark.parametrize(
    ("options", "n_ctx", "trained", "notes"),
    [
        ({}, 4096, 0, []),
        ({"n_batch": 512, "n_ubatch": 512}, 4096, 4096, []),
        ({"n_batch": 512, "n_ubatch": 4096}, 8192, 0, ["-b 512 is smaller than -ub 4096, so 512 tokens are"]),
        ({"n_ubatch": 4096}, 8192, 0, ["-b 2048 is smaller than -ub 4096, so 2048 tokens are"]),
        ({"n_batch": 1000, "n_ubatch": 300}, 8192, 0, ["-b 1000 is no multiple of -ub 300, each full batch"]),
        ({}, 4097, 4096, ["the model was trained on 4096 tokens, the context has 4097"]),
        ({"n_batch": 7}, 10**6, 512, ["-b 7 is smaller", "the model was trained on 512 tokens, the context"]),
    ],
)
def test_what_is_said_of_a_reading(
    options: dict[str, Any], n_ctx: int, trained: int, notes: list[str]
) -> None:
    found = batching(SessionOptions(**options), n_ctx, trained).notes
    assert len(found) == len(notes)
    assert all(line.startswith(start) for line, start in zip(found, notes, strict=True))


@pytest.mark.parametrize(
    ("n_prompt", "n_gen", "fits"), [(8, 0, True), (7, 1, True), (0, 8, False), (9, 0, False)]
)
def test_room_for_a_prompt_and_what_follows(n_prompt: int, n_gen: int, fits: bool) -> None:
    """Generation begins with a token, even without a prompt."""
    if fits:
        Batching(8, 8, 8).check_room(n_prompt, n_gen)
        return
    with pytest.raises(OptionError, match="fit the context of 8 tokens; a larger one is -c N"):
        Batching(8, 8, 8).check_room(n_prompt, n_gen)


def test_a_session_reads_prompts_as_planned() -> None:
    session = graphsched.load(n_batch=10, n_ubatch=4, n_ctx=64, n_threads=1)
    session.take_trace()
    session.eval(list(range(3, 26)))
    lengths = [run.lengths["n_tokens"] for run in session.take_trace().runs]
    assert lengths == [n for _, n in session.engine.batching.pieces(23)] == [4, 4, 2, 4, 4, 2, 3]
    session.close()


SIM = ("-m", str(model_path("mixtral")), "--device", "sim:rtx4090")


@pytest.mark.parametrize(
    ("args", "sizes"),
    [
        (["-p", "400", "-b", "100", "-ub", "256"], [100] * 4),
        (["-p", "300", "-b", "128", "-ub", "64"], [64] * 4 + [44]),
        (["-p", "300", "-b", "100", "-ub", "64"], [64, 36] * 3),
        (["-p", "512"], None),
        (["-p", "100"], None),
        (["-c", "64"], None),  # nobody asked for more than there is room for
    ],
)
def test_plan_and_profile_predict_the_micro_batches_of_a_session(
    run: Run, args: list[str], sizes: list[int] | None
) -> None:
    data = json.loads(run("plan", *SIM, "--phase", "prefill", *args, "--json")[1])
    assert (data["prompt"] and data["prompt"]["micro_batches"]) == sizes
    n = int(args[1]) if args[0] == "-p" else 64
    assert data["lengths"]["n_tokens"] == (sizes[0] if sizes else n)
    profile = json.loads(run("profile", *SIM, *args, "-p", n, "--phase", "prefill", "-n", "0", "--json")[1])
    seconds = data["prompt"]["wall"] if sizes else data["predicted"]["wall"]
    assert profile["phases"][0]["wall"] == pytest.approx(seconds, rel=1e-5)


def test_a_plan_says_which_micro_batch_it_shows(run: Run) -> None:
    _, out, err = run("plan", *SIM, "--phase", "prefill", "-p", "400", "-b", "100", "-ub", "256")
    assert (
        "n_tokens 100, n_outputs 1, n_kv 100 (the first of 4 micro-batches of a prompt of 400 tokens)" in out
    )
    assert err == "hint: -b 100 is smaller than -ub 256, so 100 tokens are computed at once\n"
    seconds, speed = map(float, re.findall(r": ([\d.]+) ms, ([\d.]+) tokens/s", out)[0])
    assert 400 / seconds * 1e3 == pytest.approx(speed, rel=1e-3)


def test_a_difference_is_that_of_whole_prompts(run: Run) -> None:
    args = ("plan", *SIM, "--phase", "prefill", "-p", "400", "-ub", "400", "--json")
    whole = json.loads(run(*args)[1])["predicted"]["wall"]
    cut = json.loads(run(*args, "-ub", "100")[1])["prompt"]["wall"]
    assert json.loads(run(*args, "--vs", "-ub 100")[1])["seconds"] == pytest.approx([whole, cut], rel=1e-9)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["plan", *SIM, "-p", "8192", "-c", "4096"], "-p 8192 does not fit the context of 4096 tokens"),
        (
            ["plan", *SIM, "-p", "65", "-c", "64", "--phase", "prefill"],
            "-p 65 does not fit the context of 64",
        ),
        (["plan", *SIM, "-p", "513"], "-p 513 does not fit the context of 512 tokens"),
        (
            ["plan", *SIM, "-p", "60", "-c", "64", "--vs", "-c 32"],
            "-p 60 does not fit the context of 32 tokens",
        ),
        (["profile", *SIM, "-p", "60", "-n", "8", "-c", "64"], "-p 60 and -n 8 do not fit the context of 64"),
        (["profile", "-p", "60", "-n", "8", "-c", "64"], "-p 60 and -n 8 do not fit the context of 64"),
    ],
)
def test_a_prompt_beyond_the_context_is_an_error(run: Run, args: list[str], sentence: str) -> None:
    code, out, err = run(*args)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"graphsched: {sentence}")


@pytest.mark.parametrize("args", [["-p", "64", "-c", "64"], ["-p", "63", "-c", "64"]])
def test_a_token_behind_a_prompt_that_fills_the_context(run: Run, args: list[str]) -> None:
    data = json.loads(run("plan", *SIM, *args, "--json")[1])
    assert data["lengths"] == {"n_tokens": 1, "n_outputs": 1, "n_kv": 64}


@pytest.mark.parametrize(
    "command",
    [
        ["plan"],
        ["profile", "-p", "4", "-n", "1", "-r", "1"],
        ["profile", "-p", "4", "-n", "1", "--device", "sim:rtx4090"],
        ["run", "-n", "1", "--no-timings"],
        ["bench", "-p", "4", "-n", "1", "-r", "1"],
    ],
)
def test_every_command_says_what_is_cut(run: Run, command: list[str]) -> None:
    code, _, err = run(*command, "-c", "1000", "-b", "3", "-ub", "4")
    hints = [line for line in err.splitlines() if line.startswith("hint")]
    assert (code, hints) == (0, [
        "hint: -b 3 is smaller than -ub 4, so 3 tokens are computed at once",
        "hint: the model was trained on 512 tokens, the context has 1000",
    ])  # fmt: skip
