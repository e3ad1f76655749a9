"""The memory of a session: the most of its runs, compared with what the host and the devices have, before it loads."""

import json
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from machines import machine_file
from running import model_path

import graphsched
from graphsched.gguf.loader import open_model
from graphsched.predict.memory import needs
from graphsched.predict.plan import make_plan
from graphsched.predict.session import session_of
from graphsched.run.device import GpuFacts
from graphsched.run.executable import Executable
from graphsched.schedule.placement import PlacementOptions
from graphsched.session import capacity
from graphsched.session.capacity import capacities, shares
from graphsched.session.model import Model
from graphsched.session.options import SessionOptions
from graphsched.types.devices import HOST

Run = Callable[..., tuple[int, str, str]]
MIXTRAL = ("-m", str(model_path("mixtral")))


def opened(name: str) -> Model:
    return Model(open_model(model_path(name)))


# --- what it takes ---


@pytest.mark.parametrize("name", ["llama", "mixtral", "deepseek2-short", "gemma3", "bitnet-b1.58"])
@pytest.mark.parametrize("overrides", [(), ("exps=CPU", "ffn=CPU")])
def test_the_most_of_a_token_and_a_micro_batch(name: str, overrides: tuple[str, ...]) -> None:
    """Weights are those of both, arenas and staging rings the larger ones, caches those of the whole context."""
    model = opened(name)
    placed = PlacementOptions(overrides=overrides)
    options = SessionOptions(n_ctx=256, n_ubatch=128, devices=("sim:rtx4090",), placement=placed)
    token, micro_batch = (make_plan(model, options, n, 1, n) for n in (1, 128))
    found = session_of(token).needs
    assert found == session_of(micro_batch).needs
    for on in ("sim0", HOST):
        one, many, need = token.memory[on], micro_batch.memory[on], found[on]
        assert need.arena == max(one.arena, many.arena)
        assert need.staging == max(one.staging, many.staging)
        assert need.kv == one.kv == many.kv
        assert max(one.weights, many.weights) <= need.weights + need.derived <= one.weights + many.weights
        assert need.total == need.weights + need.derived + need.kv + need.arena + need.staging
        assert sum(size for _, size in need.parts) == need.total
    read = {leaf.name for plan in (token, micro_batch) for leaf, _ in plan.resident()} & set(
        model.file.tensors
    )
    tied = model.types["token_embd.weight"].nbytes if "output.weight" not in model.file.tensors else 0
    sizes = {name: model.types[name].nbytes for name in read}
    assert sum(need.weights for need in found.values()) == sum(sizes.values()) + tied


def test_caches_and_weights_by_hand() -> None:
    """Keys and values in halves: layers × cells × heads × width × 2 × 2 bytes."""
    model = opened("llama")
    options = SessionOptions(n_ctx=1024, devices=("sim:rtx4090",), placement=PlacementOptions(n_gpu_layers=1))
    found = session_of(make_plan(model, options, 1, 1, 1)).needs
    c: Any = model.config
    assert found["sim0"].kv * (c.n_layer - 1) == found[HOST].kv
    assert found["sim0"].kv == 1024 * c.n_head_kv * c.head_dim * 2 * 2
    last = f"blk.{c.n_layer - 1}."
    sizes = {name: t.nbytes for name, t in model.file.tensors.items()}
    assert found["sim0"].weights == sum(size for name, size in sizes.items() if name.startswith(last))
    assert found[HOST].weights == sum(size for name, size in sizes.items() if not name.startswith(last))


def test_weights_that_only_prompts_read_count() -> None:
    """Single tokens attend to latents with two halves of a matrix, of which a prompt reads the whole."""
    model = opened("deepseek2-lite")
    options = SessionOptions(n_ctx=4096, n_ubatch=512, devices=("sim:rtx4090",))
    token = make_plan(model, options, 1, 1, 1)
    prompt = make_plan(model, options, 512, 1, 512)
    both = needs((token, prompt))["sim0"]
    read = {leaf.name for plan in (token, prompt) for leaf, _ in plan.resident() if "kv_b" in leaf.name}
    assert both.weights + both.derived >= token.memory["sim0"].weights
    assert both.derived == sum(model.types[n].nbytes for n in model.derived if n in read or n in _read(token))


def _read(plan: Any) -> set[str]:
    return {leaf.name for leaf, _ in plan.resident()}


@pytest.mark.parametrize(
    ("smaller", "larger", "what"),
    [
        (["-ub", "64"], ["-ub", "512"], "arena"),
        (["-c", "512"], ["-c", "4096"], "kv"),
        (["-ngl", "1"], ["-ngl", "2"], "weights"),
        (["-op", "-1,0", "-ot", "exps=CPU"], ["-ot", "exps=CPU", "--offload-min-batch", "1"], "staging"),
        (["-b", "64"], ["-b", "512"], "arena"),
    ],
)
@pytest.mark.parametrize("phase", [["--phase", "decode"], ["--phase", "prefill", "-p", "8"]])
def test_flags_that_take_memory_show_in_each_phase(
    run: Run, smaller: list[str], larger: list[str], what: str, phase: list[str]
) -> None:
    both = [
        json.loads(run("plan", *MIXTRAL, "--device", "sim:rtx4090", *phase, *flags, "--json")[1])["devices"]
        for flags in (smaller, larger)
    ]
    assert both[0]["sim0"][what] < both[1]["sim0"][what]


def test_real_devices_upload_from_page_locked_copies() -> None:
    """A full micro-batch uploads all experts but the last layer's, which compute one row; sim reads the mapped file."""
    model, placed = opened("mixtral"), PlacementOptions(overrides=("exps=CPU",))
    gpu, sim = (
        session_of(
            make_plan(model, SessionOptions(n_ctx=512, devices=(d,), placement=placed), 1, 1, 1)
        ).needs[HOST]
        for d in ("CUDA0", "sim:rtx4090")
    )
    experts = sum(t.nbytes for name, t in model.file.tensors.items() if "blk.0" in name and "exps" in name)
    assert (gpu.staging, sim.staging) == (experts, 0)
    assert ("page-locked copies", experts) in gpu.parts


def test_a_session_allocates_what_is_planned() -> None:
    """Its executables share the largest arena and staging ring, and give the bits of a session of their own."""
    given: dict[str, Any] = {
        "n_ctx": 256,
        "n_ubatch": 128,
        "devices": ("sim:rtx4090",),
        "overrides": "exps=CPU",
    }
    session = graphsched.load(model_path("mixtral"), **given)
    planned = session_of(make_plan(session.model, session.options, 1, 1, 1)).needs
    tokens = list(range(3, 131))
    whole = session.eval(tokens)
    held = arenas(session)
    for name, size in (("sim0", planned["sim0"].arena), ("CPU", planned[HOST].arena)):
        assert max(memory.nbytes for memory in held[name].values()) == size
    assert max(m.nbytes for m in held["sim0 staging"].values()) == planned["sim0"].staging
    session.reset()
    session.eval(tokens[:100])
    session.eval(tokens[100:127])  # executables of other capacities
    last = session.eval(tokens[127:])
    again = arenas(session)
    assert (again["sim0"], again["sim0 staging"]) == (held["sim0"], held["sim0 staging"])
    np.testing.assert_allclose(last, whole, rtol=0, atol=1e-2)
    with closing(graphsched.load(model_path("mixtral"), **given)) as other:
        other.eval(tokens[:100])
        other.eval(tokens[100:127])
        np.testing.assert_array_equal(other.eval(tokens[127:]), last)
    session.close()


def arenas(session: graphsched.Session) -> dict[str, dict[int, Any]]:
    """Memory of all executables' arenas by name, each piece once."""
    found: dict[str, dict[int, Any]] = {}
    for plan in session.engine.plans.values():
        assert isinstance(plan, Executable)
        for name, memory in plan.addresses.arenas.items():
            found.setdefault(name, {})[id(memory)] = memory
    return found


# --- what there is ---


def test_what_a_described_machine_has(run: Run, tmp_path: Path) -> None:
    machine = machine_file(tmp_path, [2 * 10**9, 10**9], host=5 * 10**9)
    data = json.loads(run("plan", *MIXTRAL, "--device", machine, "--json")[1])
    assert {on: need["of"] for on, need in data["devices"].items()} == {
        "sim0": 2 * 10**9,
        "sim1": 10**9,
        "CPU": 5 * 10**9,
    }
    for need in data["devices"].values():
        assert need["free"] == need["of"] - need["total"] > 0
        assert need["fits"] is True
    assert data["fits"] is True
    out = run("plan", *MIXTRAL, "--device", machine)[1]
    assert re.search(r"total ┃ +of ┃ +free ┃", out)
    assert re.search(r"│ sim1 .*│ 1.0 GB │ 9\d\d.\d MB │", out)


def facts(name: str, free: int) -> GpuFacts:
    return GpuFacts(name, "card", 24 * 10**9, free, "sm_90", 1, 1, "0000:01:00.0", "")


def test_what_real_devices_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "gpus", lambda: [facts("CUDA0", 20 * 10**9), facts("CUDA1", 5 * 10**9)])
    monkeypatch.setattr(capacity, "physical_memory", lambda: 7)
    assert capacities(None, ("CUDA1", "CUDA0")) == {"CUDA1": 5 * 10**9, "CUDA0": 20 * 10**9, HOST: 7}
    assert capacities(None, ("CUDA1", "CUDA2")) == {"CUDA1": 5 * 10**9, HOST: 7}
    assert capacities(None, ()) == {HOST: 7}


def test_without_a_device_the_host_is_this_machine(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "physical_memory", lambda: 12345)
    _, out, err = run("plan", *MIXTRAL, "--json")
    data = json.loads(out)
    assert (data["devices"]["CPU"]["of"], data["fits"]) == (12345, False)
    assert err.startswith("hint: the memory of CPU is too small: a session takes ")


# --- what does not fit ---


def test_a_plan_names_devices_that_are_too_small(run: Run, tmp_path: Path) -> None:
    machine = machine_file(tmp_path, [10**9, 10**6], host=10**5)
    code, out, err = run("plan", *MIXTRAL, "--device", machine, "-ts", "1,3", "-c", "20000")
    hints = err.splitlines()[1:]  # the first one is about the context
    assert [re.findall(r"memory of (\w+) is", line) for line in hints] == [["sim1"], ["CPU"]]
    data = json.loads(run("plan", *MIXTRAL, "--device", machine, "-ts", "1,3", "-c", "20000", "--json")[1])
    need = data["devices"]["sim1"]
    assert (code, data["fits"], need["fits"], need["free"]) == (0, False, False, need["of"] - need["total"])
    sizes = rf"{need['total'] / 1e6:.1f} MB of 1.0 MB, {(need['total'] - 10**6) / 1e6:.1f} MB too much"
    assert f"a session takes {sizes}; the largest are KV cache {need['kv'] / 1e6:.1f} MB, " in hints[0]
    assert hints[0].removeprefix("hint: ") in " ".join(out.split()).replace("│", "")
    assert "predicted on made, if it did fit: " in out


@pytest.mark.parametrize(
    ("args", "largest"),
    [
        (["-c", "100000"], "KV cache"),
        (["-ub", "8192", "-b", "8192", "-c", "8192", "-ctk", "q8_0", "-nkvo"], "arena"),
        (["-c", "64", "-ub", "8"], "ffn_"),
        (["-ot", "exps=CPU", "-nkvo", "-c", "64", "-ub", "64", "--offload-min-batch", "1"], "staging"),
    ],
)
def test_the_largest_part_comes_first(run: Run, tmp_path: Path, args: list[str], largest: str) -> None:
    err = run("plan", *MIXTRAL, "--device", machine_file(tmp_path, [10]), *args)[2]
    (line,) = (line for line in err.splitlines() if "memory of sim0" in line)
    assert re.search(rf"; the largest are {largest}", line)
    found = re.findall(r" ([\d.]+) (B|kB|MB)(?:,|$)", line.partition("; ")[2])
    sizes = [float(n) * {"B": 1, "kB": 1e3, "MB": 1e6}[unit] for n, unit in found]
    assert sizes == sorted(sizes, reverse=True)


def test_a_difference_says_what_fits(run: Run, tmp_path: Path) -> None:
    machine = machine_file(tmp_path, [2 * 10**6])
    out = run("plan", *MIXTRAL, "--device", machine, "-c", "64", "-ngl", "1", "-ub", "8", "--vs", "-c 20000")[
        1
    ]
    assert re.search(r"memory sim0 [\d.]+ .B -> [\d.]+ MB \(of 2.0 MB\), CPU [\d.]+ .B -> [\d.]+ .B", out)


COMMANDS = [
    ["run", "-n", "1"],
    ["bench", "-p", "4", "-n", "1", "-r", "1"],
    ["sweep-bench", "-c", "8", "-ub", "4", "-n", "1"],
    ["batched-bench", "-npp", "4", "-ntg", "1", "-npl", "2"],
    ["profile", "-p", "4", "-n", "1", "-r", "1"],
    ["perplexity", "-f", "text.txt", "-c", "4"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c[0])
def test_nothing_is_loaded_that_does_not_fit(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    def never(*args: object) -> None:
        raise AssertionError("a session is made")

    monkeypatch.setattr("graphsched.session.session.Engine", never)
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("Once upon a time there was a girl. " * 4)
    machine = machine_file(tmp_path, [10**9, 1000])
    code, out, err = run(*command, "--device", machine, "-ts", "1/1")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("graphsched: the memory of sim1 is too small: a session takes ")
    assert " of 1.0 kB, " in err


@pytest.mark.parametrize("command", COMMANDS[:2], ids=lambda c: c[0])
def test_a_host_that_is_too_small_gets_a_hint(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    """Weights are mapped: what does not fit is read again."""
    weights = sum(t.nbytes for t in open_model(model_path("mixtral")).tensors.values())
    for name in ("graphsched.session.capacity", "graphsched.session.options"):
        monkeypatch.setattr(f"{name}.physical_memory", lambda: weights - 1)
    code, _, err = run(*command, *MIXTRAL, "-c", "64", "-ub", "8", "-q")
    assert (code, err) == (0, "")
    code, _, err = run(*command, *MIXTRAL, "-c", "64", "-ub", "8")
    assert (code, err.splitlines()[0].count("hint: the memory of CPU is too small: ")) == (0, 1)
    assert "; weights are read from the file again and again\n" in err
    code, _, err = run(*command, *MIXTRAL, "-c", "64", "-ub", "8", "--no-mmap")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("graphsched: the memory of CPU is too small: ")


def test_a_cache_that_no_host_can_hold(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("capacity", "options", "engine"):
        monkeypatch.setattr(f"graphsched.session.{name}.physical_memory", lambda: 10**7)
    code, _, err = run("run", *MIXTRAL, "-c", "100000", "-q")
    assert (code, err.count("\n")) == (2, 1)
    assert "the memory of CPU is too small: " in err
    assert "; the largest are KV cache " in err


def test_a_host_that_is_large_enough_needs_no_plan(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object) -> None:
        raise AssertionError("a plan is made")

    monkeypatch.setattr("graphsched.predict.session.make_plan", never)
    assert run("run", *MIXTRAL, "-n", "1", "-c", "64", "-q")[0] == 0


# --- default shares ---


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        ([24 * 10**9, 24 * 10**9], ()),
        ([24 * 10**9, 12 * 10**9], (24.0, 12.0)),
        ([8 * 10**9, 16 * 10**9, 24 * 10**9], (8.0, 16.0, 24.0)),
        ([5 * 10**9], ()),
    ],
)
def test_shares_follow_memory(memory: list[int], expected: tuple[float, ...]) -> None:
    names = tuple(f"sim{i}" for i in range(len(memory)))
    found = dict(zip(names, memory, strict=True))
    assert shares(found, names) == expected
    assert shares(dict(list(found.items())[1:]), names) == ()  # of one nobody knows


@pytest.mark.parametrize(
    ("memory", "flags", "same_as"),
    [
        ([24, 12], [], ["-ts", "24,12"]),
        ([12, 24], [], ["-ts", "1,2"]),
        ([12, 24, 6], ["-ngl", "3"], ["-ngl", "3", "-ts", "12,24,6"]),
        ([24, 24], [], ["-ts", "1,1"]),
        ([24, 12], ["-ts", "1,1"], ["-ts", "1,1"]),
        ([24, 12], ["-sm", "none", "-mg", "1"], ["-sm", "none", "-mg", "1"]),
    ],
)
def test_default_shares_of_uneven_cards(
    run: Run, tmp_path: Path, memory: list[int], flags: list[str], same_as: list[str]
) -> None:
    machine = machine_file(tmp_path, [size * 10**9 for size in memory])
    found, expected = (
        json.loads(run("plan", *MIXTRAL, "--device", machine, *f, "--json")[1]) for f in (flags, same_as)
    )
    assert found["devices"] == expected["devices"]
    if not flags:
        total = sum(memory)
        got = [share / sum(found["shares"].values()) for share in found["shares"].values()]
        assert got == pytest.approx([size / total for size in memory])


@pytest.mark.parametrize(
    ("memory", "flags", "line"),
    [
        ([24, 12], [], "layers are shared out 24/12 (GB of memory)"),
        ([24, 24], [], "layers are shared out 1/1 (equal memory)"),
        ([24, 12], ["-ts", "3,2"], "layers are shared out 3/2 (-ts)"),
        ([24], [], None),
        ([24, 12], ["-sm", "none"], None),
    ],
)
def test_the_shares_are_said(
    run: Run, tmp_path: Path, memory: list[int], flags: list[str], line: str | None
) -> None:
    args = [*MIXTRAL, "--device", machine_file(tmp_path, [size * 10**9 for size in memory]), *flags]
    lines = [found for found in run("plan", *args)[1].splitlines() if "shared out" in found]
    assert [found.strip() for found in lines] == ([line] if line else [])
    told = run("run", "-v", "-n", "1", *args)[2]
    assert (line in told) if line else ("shared out" not in told)


def test_real_cards_of_uneven_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their free memory counts, whatever their size; a plan takes the same when it is made anew."""
    monkeypatch.setattr(capacity, "gpus", lambda: [facts("CUDA0", 3 * 10**9), facts("CUDA1", 9 * 10**9)])
    options = SessionOptions(n_ctx=64, devices=("CUDA0", "CUDA1"))
    plan = make_plan(opened("deepseek2-lite"), options, 1, 1, 1)
    layers = plan.planner.homes.placement.layers
    assert layers.count("CUDA0") == 7  # of 27 layers and the output: i / 28 < 1 / 4
    monkeypatch.setattr(capacity, "gpus", lambda: [facts("CUDA0", 1), facts("CUDA1", 1)])
    assert {on: need.has for on, need in session_of(plan).needs.items() if on != HOST} == {
        "CUDA0": 3 * 10**9,
        "CUDA1": 9 * 10**9,
    }


def test_a_session_shares_layers_as_its_plan_does(tmp_path: Path) -> None:
    machine = machine_file(tmp_path, [2 * 10**9, 10**9, 10**9])
    with closing(graphsched.load(model_path("deepseek2-lite"), n_ctx=64, devices=(machine,))) as session:
        found = session.planner.homes.placement
        plan = make_plan(session.model, session.options, 1, 1, 1)
    assert found == plan.planner.homes.placement
    assert [found.layers.count(f"sim{i}") for i in range(3)] == [14, 7, 6]


@pytest.mark.parametrize("command", COMMANDS[:4], ids=lambda c: c[0])
def test_a_real_card_that_is_too_full(run: Run, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    monkeypatch.setattr(capacity, "gpus", lambda: [facts("CUDA0", 5000)])
    code, out, err = run(*command, "--device", "CUDA0", *([] if "-c" in command else ["-c", "64"]))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("graphsched: the memory of CUDA0 is too small: a session takes ")
    assert " of 5.0 kB, " in err
