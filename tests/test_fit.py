"""`--fit`: the solver against every possibility, and what it finds beside what others would do."""

import itertools
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import cards

from graphsched.errors import OptionError
from graphsched.fit.fit import Fit, fit
from graphsched.fit.flags import placement_of, typed
from graphsched.fit.judge import Judged, judged
from graphsched.fit.solve import dealt, kinds, solve
from graphsched.fit.work import REST, Spot, Work, part_of
from graphsched.schedule.options import PlacementOptions
from graphsched.session.model import Model, open_default_or
from graphsched.session.options import SessionOptions, session_options
from graphsched.types.devices import HOST
from graphsched.types.goal import Goal

pytest.importorskip("scipy")
Run = Callable[..., tuple[int, str, str]]
LAYERS = 6


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Six layers of Qwen3 30B-A3B, 2.3 GB."""
    return _synth(tmp_path_factory.mktemp("moe") / "moe.gguf", "qwen3-30b-a3b")


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Six layers of Llama 8B."""
    return _synth(tmp_path_factory.mktemp("dense") / "dense.gguf", "llama-8b")


def _synth(path: Path, layout: str) -> Model:
    from graphsched.cli.main import run

    assert run(["synth", layout, str(path), "--header-only", "--layers", str(LAYERS)]) == 0
    return open_default_or(path, (), header_only=True)


def options(machine: str, **more: Any) -> SessionOptions:
    return session_options(
        **{"devices": machine, "n_ctx": 2048, "fit_target": 64, "fit_for": Goal(256, 64)} | more
    )


# --- the integer program ---

DEVICES = ("sim0", "sim1")


@st.composite
def programs(draw: st.DrawFn) -> tuple[dict[Spot, Work], dict[str, int]]:
    """Layers of one or two parts with random costs, two kinds of them, and little room."""
    parts = draw(st.sampled_from([(REST,), (REST, "up")]))
    found: dict[Spot, Work] = {}
    templates = [_works(draw, parts) for _ in range(2)]
    for layer in range(draw(st.integers(1, 4))):
        for part in parts:
            found[layer, part] = templates[draw(st.integers(0, 1))][part]
    room = {device: draw(st.integers(0, 12)) * 10**6 for device in DEVICES}
    return found, room


def _works(draw: st.DrawFn, parts: Sequence[str]) -> dict[str, Work]:
    number = st.integers(1, 9)
    return {
        part: Work(
            nbytes=draw(number) * 10**6,
            seconds={device: float(draw(number)) for device in (*DEVICES, HOST)},
        )
        for part in parts
    }


def _fits(works: Mapping[Spot, Work], places: Mapping[Spot, str], room: Mapping[str, int]) -> bool:
    return all(
        sum(w.nbytes for s, w in works.items() if places[s] == on) <= size for on, size in room.items()
    )


@settings(max_examples=60, deadline=None)
@given(programs())
def test_no_placement_is_faster_than_the_solved_one(program: tuple[dict[Spot, Work], dict[str, int]]) -> None:
    works, room = program
    every = (
        dict(zip(works, devices, strict=True))
        for devices in itertools.product((*DEVICES, HOST), repeat=len(works))
    )
    best = min(sum(w.seconds[p[s]] for s, w in works.items()) for p in every if _fits(works, p, room))
    found = kinds(works, DEVICES, {})
    chosen = solve(found, room)
    assert chosen is not None
    assert [len(patterns) for patterns in chosen] == [len(kind.layers) for kind in found]
    seconds = sum(kind.patterns[p][0] for kind, patterns in zip(found, chosen, strict=True) for p in patterns)
    assert seconds == pytest.approx(best, rel=1e-3)
    places = dealt(found, chosen, DEVICES)
    rests = [[HOST, *DEVICES].index(dict(pattern)[REST]) for _, pattern in sorted(places.items())]
    assert rests == sorted(rests)  # as -ngl and -ts have it


def test_nothing_is_solved_where_nothing_fits() -> None:
    works = {(0, REST): Work(nbytes=10, held={"sim0": 10}, seconds=dict.fromkeys(("sim0", HOST), 1.0))}
    assert solve(kinds(works, ("sim0",), {}), {"sim0": 5, HOST: 100}) is None


# --- a placement as flags ---


@pytest.mark.parametrize(
    ("layers", "pattern"),
    [
        ([3], "3"),
        ([3, 4, 5], "[3-5]"),
        ([3, 5], "[35]"),
        (range(3, 61), "([3-9]|[1-5][0-9]|60)"),
        ([0, 42, 43, 44], "(0|4[2-4])"),
        ([9, 100], "(9|100)"),
    ],
)
def test_patterns_of_layers(layers: Sequence[int], pattern: str) -> None:
    places = {i: ((REST, "sim0"), ("down", HOST if i in layers else "sim0")) for i in range(101)}
    (rule,) = placement_of(places, ("sim0",), PlacementOptions()).overrides
    assert rule.text == rf"blk\.{pattern}\.ffn_down_exps\.=CPU"
    assert all(rule.finds(f"blk.{i}.ffn_down_exps.weight") == (i in layers) for i in range(101))


def test_flags_make_the_placement_again() -> None:
    options = PlacementOptions(
        overrides="a,b=CPU,x{1,2}=sim0", n_gpu_layers=7, tensor_split="3,4", cpu_moe=True
    )
    words = dict(itertools.pairwise(shlex.split(typed(options))))
    assert words["-ngl"] == "7"
    again = PlacementOptions(
        overrides=words["-ot"],
        n_gpu_layers=int(words["-ngl"]),
        tensor_split=words["-ts"],
        cpu_moe="-cmoe" in words,
    )
    assert again == options


def homes(model: Model, options: SessionOptions) -> Mapping[str, str]:
    found = judged("", model, replace(options, fit_for=Goal(64, 8))).step.planner.homes.placement.homes
    return {name: home.device for name, home in found.items()}


# --- models on machines ---


def seconds(one: Judged | Fit) -> float:
    return one.seconds if isinstance(one, Judged) else one.chosen.seconds


def others(model: Model, asked: SessionOptions) -> list[Judged]:
    """What users and other engines do: layers and experts by number, uploads on, off and by cost."""
    has_experts = any(part_of(name) == "up" for name in model.file.tensors)
    placed: list[dict[str, Any]] = [{"n_gpu_layers": n} for n in range(0, LAYERS + 2, 1 + has_experts)]
    if has_experts:
        placed += [{"n_cpu_moe": n} for n in range(LAYERS + 1)]
    options = [
        replace(asked, placement=replace(asked.placement, **p), offload_policy=policy)
        for p in placed
        for policy in ((), "auto")
    ]
    return [judged("", model, o) for o in options]


CASES = [
    ("moe", (1000,), Goal(512, 128)),
    ("moe", (500, 900), Goal(512, 128)),
    ("moe", (1500,), Goal(2000, 4)),
    ("dense", (1000,), Goal(512, 128)),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in itertools.product(
            ("moe", "dense"), ((700,), (2000,), (900, 400)), (Goal(16, 200, 4), Goal(2000, 4), Goal(0, 8))
        )
    ),
]


@pytest.mark.parametrize(("kind", "memory", "goal"), CASES)
def test_no_other_is_faster(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, memory: Sequence[int], goal: Goal
) -> None:
    model: Model = request.getfixturevalue(kind)
    asked = options(
        cards(tmp_path, [size << 20 for size in memory]),
        fit_for=goal,
        n_ctx=4096,
        n_parallel=goal.slots,
    )
    found = fit(model, asked)
    assert found.chosen.fits
    best = min(seconds(one) for one in others(model, asked) if one.fits)
    assert seconds(found) <= 1.03 * best


def test_a_model_that_fits_is_not_split(moe: Model, tmp_path: Path) -> None:
    found = fit(moe, options(cards(tmp_path, [8 << 30])))
    on = {device for name, device in homes(moe, found.options).items() if name.startswith("blk.")}
    assert on == {"sim0"}


def test_two_devices_of_different_size_take_what_they_hold(moe: Model, tmp_path: Path) -> None:
    found = fit(moe, options(cards(tmp_path, [1 << 30, 2 << 30])))
    assert found.chosen.fits
    held = {on: need.weights for on, need in found.chosen.needs.items()}
    assert held["sim0"] > 500 << 20
    assert held["sim1"] > 500 << 20
    assert found.flags.startswith("-ngl ")
    assert "-ts " in found.flags


@pytest.mark.parametrize(
    "said",
    [
        {"overrides": r"blk\.[02]\.ffn_up=CPU"},
        {"overrides": r"attn_q=CPU,blk\.1\.ffn_down=sim0"},
        {"n_gpu_layers": 3},
        {"n_cpu_moe": 4},
        {"n_cpu_moe_first": 2, "n_gpu_layers": 5},
        {"cpu_moe": True},
    ],
)
def test_what_was_asked_for_stays(moe: Model, tmp_path: Path, said: Mapping[str, Any]) -> None:
    asked = options(cards(tmp_path, [1500 << 20]), **said)
    found, plain = homes(moe, fit(moe, asked).options), homes(moe, asked)
    for name, device in plain.items():
        for rule in asked.placement.overrides:
            assert not rule.finds(name) or found[name] == device
        if "cpu_moe" in said or "n_cpu_moe" in said or "n_cpu_moe_first" in said:
            assert part_of(name) not in ("up", "down") or found[name] == device
        if "n_gpu_layers" in said:
            assert part_of(name) != REST or found[name] == device


def test_policies_stay(moe: Model, tmp_path: Path) -> None:
    path = cards(tmp_path, [1000 << 20])
    held_back = fit(moe, options(path, offload_policy="29,0")).options.policy
    assert str(held_back).endswith("MOE_FUSED_UP_GATE=0")
    assert fit(moe, options(path, offload_min_batch=64)).options.offload_min_batch == 64


def test_too_little_memory_is_an_error(moe: Model, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="finds no placement that fits: the memory of CPU is too small"):
        fit(moe, options(cards(tmp_path, [64 << 20], host=1 << 30)))


def test_without_the_solver(moe: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(OptionError, match=r"pip install 'graphsched\[fit\]'"):
        fit(moe, options(cards(tmp_path, [1000 << 20])))


@pytest.mark.parametrize(
    ("given", "goal"),
    [
        ("chat", Goal()),
        ("prompt", Goal(4096, 64)),
        ("tg=8", Goal(0, 8)),
        ("pp=5, tg=3,slots=2", Goal(5, 3, 2)),
    ],
)
def test_goals(given: str, goal: Goal) -> None:
    assert session_options(fit_for=given).fit_for == goal
    assert session_options(fit_for=str(goal)).fit_for == goal


@pytest.mark.parametrize("given", ["", "talk", "pp=x", "pp=-1", "pp=0,tg=0", "slots=0,pp=4", "pp=99999999"])
def test_bad_goals(given: str) -> None:
    with pytest.raises(OptionError):
        session_options(fit_for=given)


# --- on the command line ---


def test_a_plan_with_fit(moe: Model, tmp_path: Path, run: Run) -> None:
    machine = cards(tmp_path, [1000 << 20])
    line = ["plan", "-m", str(moe.file.path), "--device", machine, "-c", "2048"]
    line += ["-fitt", "64"]
    code, out, _ = run(*line, "--fit", "--for", "pp=256,tg=64", "--json")
    assert code == 0
    data = json.loads(out)
    chosen = next(c for c in data["fit"]["candidates"] if c["name"] == data["fit"]["chosen"] and c["fits"])
    code, out, _ = run(*line, *shlex.split(data["fit"]["flags"]), "--json")
    assert json.loads(out)["splits"] == data["splits"]
    assert chosen["seconds"] > 0
    code, out, err = run(*line, "--fit", "--for", "pp=4096,tg=1")
    assert code == 2
    assert "do not fit the context" in err


def test_fit_without_devices_is_said_to_have_no_effect(run: Run) -> None:
    code, _, err = run("plan", "--fit")
    assert code == 0
    assert "without effect: --fit, as there is no device" in err
