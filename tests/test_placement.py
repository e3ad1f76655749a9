"""Placement: where each tensor goes and why, for each flag, and the sentence that each bad value gives."""

from contextlib import suppress
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphsched.errors import OptionError
from graphsched.graph.tensor import TensorType, f32
from graphsched.schedule.options import parse_split
from graphsched.schedule.overrides import on_devices, parse_overrides
from graphsched.schedule.placement import Home, Placement, PlacementOptions, place

TWO = ("sim0", "sim1")
THREE = ("CUDA0", "CUDA1", "CUDA2")


def names(n_layer: int, *, dense: int = 0) -> list[str]:
    """A MoE model's tensors; the first `dense` layers have no experts."""
    found = ["token_embd.weight", "output_norm.weight", "output.weight", "rope_freqs.weight"]
    for i in range(n_layer):
        stems = ["attn_norm", "attn_q", "ffn_gate_inp"]
        stems += ["ffn_up", "ffn_down"] if i < dense else ["ffn_up_exps", "ffn_gate_exps", "ffn_down_exps"]
        found += [f"blk.{i}.{stem}.weight" for stem in stems]
    return found


def types(found: list[str]) -> dict[str, TensorType]:
    return {name: f32(4, 4) for name in found}


def placed(n_layer: int, devices: tuple[str, ...], *, dense: int = 0, **options: Any) -> Placement:
    return place(types(names(n_layer, dense=dense)), n_layer, devices, PlacementOptions(**options))


def runs(devices: tuple[str, ...]) -> str:
    """Devices in order as in `CPU*2 sim0*3`."""
    return " ".join(f"{device}*{len(list(group))}" for device, group in groupby(devices))


@pytest.mark.parametrize(
    ("ngl", "layers", "output"),
    [
        (-1, "sim0*4", "sim0"),
        (0, "CPU*4", "CPU"),
        (1, "CPU*3 sim0*1", "CPU"),
        (3, "CPU*1 sim0*3", "CPU"),
        (4, "sim0*4", "CPU"),
        (5, "sim0*4", "sim0"),
        (999, "sim0*4", "sim0"),
    ],
)
def test_ngl_takes_the_last_layers_and_the_output_above_the_layer_count(
    ngl: int, layers: str, output: str
) -> None:
    p = placed(4, ("sim0",), n_gpu_layers=ngl)
    assert (runs(p.layers), p.output) == (layers, output)
    cause = f"-ngl {'all' if ngl < 0 else ngl}"
    assert p.kv == tuple(Home(device, cause) for device in p.layers)
    assert p.homes["output.weight"] == p.homes["output_norm.weight"] == Home(output, cause)
    for name in ("token_embd.weight", "rope_freqs.weight"):
        assert p.homes[name] == Home("CPU", "input layer stays on the host")
    for i, device in enumerate(p.layers):
        assert p.homes[f"blk.{i}.attn_q.weight"] == Home(device, cause)


@pytest.mark.parametrize(
    ("split", "ngl", "layers", "output"),
    [
        ((), -1, "CUDA0*3 CUDA1*3 CUDA2*2", "CUDA2"),
        ((1, 1, 1), 8, "CUDA0*3 CUDA1*3 CUDA2*2", "CPU"),  # 8 / 3 each: 0 1 2 | 3 4 5 | 6 7
        ((3, 1), -1, "CUDA0*7 CUDA1*1", "CUDA1"),  # those left out have none
        ((1,), 4, "CPU*4 CUDA0*4", "CPU"),
        ((3, 1, 0), -1, "CUDA0*7 CUDA1*1", "CUDA1"),  # 9 with the output: 6.75 and 2.25
        ((0, 0, 5), -1, "CUDA2*8", "CUDA2"),
        ((0, 1, 0), -1, "CUDA1*8", "CUDA1"),
        ((1, 0, 1), 4, "CPU*4 CUDA0*2 CUDA2*2", "CPU"),
        ((0.1, 0.2, 0.7), 8, "CUDA0*1 CUDA1*2 CUDA2*5", "CPU"),
    ],
)
def test_layers_go_by_cumulated_shares(split: tuple[float, ...], ngl: int, layers: str, output: str) -> None:
    p = placed(8, THREE, n_gpu_layers=ngl, tensor_split=split)
    assert (runs(p.layers), p.output) == (layers, output)


def test_without_layer_split_one_device_takes_all() -> None:
    p = placed(4, THREE, split_mode="none", main_gpu=1)
    assert (runs(p.layers), p.output) == ("CUDA1*4", "CUDA1")


def test_without_devices_all_is_on_the_host_whatever_the_flags() -> None:
    given = PlacementOptions(
        n_gpu_layers=99, overrides=("attn=cpu",), n_cpu_moe=2, main_gpu=3, tensor_split=(3, 1)
    )
    p = place(types(names(3)), 3, (), given)
    assert set(p.homes.values()) == set(p.kv) == {Home("CPU", "no device")}
    assert (p.layers, p.output) == (("CPU",) * 3, "CPU")


def test_kv_stays_on_the_host_on_request() -> None:
    p = placed(3, ("sim0",), kv_offload=False)
    assert p.kv == (Home("CPU", "--no-kv-offload"),) * 3
    assert p.layers == ("sim0",) * 3


class TestOverrides:
    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            (["exps=CPU"], [("exps", "CPU")]),
            (["exps=cpu,attn=SIM1"], [("exps", "CPU"), ("attn", "sim1")]),
            ([r"blk\.(1|2)\.ffn{1,3}=CPU,exps=CPU"], [(r"blk\.(1|2)\.ffn{1,3}", "CPU"), ("exps", "CPU")]),
            (["a=CPU", "b=sim0,c=sim1"], [("a", "CPU"), ("b", "sim0"), ("c", "sim1")]),
            (["a{1,}=CPU,b{,2}=sim0"], [("a{1,}", "CPU"), ("b{,2}", "sim0")]),
            ([r"ffn_(?=up,|down)x=CPU"], [("ffn_(?=up,|down)x", "CPU")]),
            ([r"x(?<=a=CPU,b)[(,=]\(=sim0,y=CPU"], [(r"x(?<=a=CPU,b)[(,=]\(", "sim0"), ("y", "CPU")]),
            (["a,b=CPU"], [("a,b", "CPU")]),
            (["a = CPU , b=sim0"], [("a ", "CPU"), ("b", "sim0")]),
            ([], []),
        ],
    )
    def test_commas_separate_only_behind_a_buffer_type(
        self, values: list[str], expected: list[tuple[str, str]]
    ) -> None:
        assert [(o.pattern.pattern, o.device) for o in on_devices(parse_overrides(values), TWO)] == expected

    def test_the_first_match_wins_over_all_other_flags(self) -> None:
        p = placed(
            4, TWO, n_gpu_layers=2, overrides=(r"blk\.[13]\.ffn_up=sim1", "exps=CPU,embd=sim0"), n_cpu_moe=1
        )
        assert p.homes["blk.1.ffn_up_exps.weight"] == Home("sim1", r"-ot blk\.[13]\.ffn_up=sim1")
        assert p.homes["blk.3.ffn_up_exps.weight"] == Home("sim1", r"-ot blk\.[13]\.ffn_up=sim1")
        assert p.homes["blk.3.ffn_down_exps.weight"] == Home("CPU", "-ot exps=CPU")
        assert p.homes["token_embd.weight"] == Home("sim0", "-ot embd=sim0")
        assert p.homes["blk.3.attn_q.weight"] == Home("sim1", "-ngl 2")
        assert p.kv[3] == Home("sim1", "-ngl 2")

    @pytest.mark.parametrize(
        ("value", "sentence"),
        [
            ("", "-ot with nothing needs a pattern and a buffer type, as in exps=CPU"),
            ("exps", "-ot exps needs a pattern and a buffer type, as in exps=CPU"),
            ("exps=CPU,attn", "-ot attn needs a pattern and a buffer type, as in exps=CPU"),
            ("exps=CPU,", "-ot with nothing needs a pattern and a buffer type, as in exps=CPU"),
            ("=CPU", "-ot =CPU has no pattern in front of the ="),
            ("exps=", "-ot exps=: no buffer type is named; there are CPU, sim0, sim1"),
            ("exps=,a=CPU", "-ot exps=: no buffer type is named; there are CPU, sim0, sim1"),
            ("x=CUDA2", "-ot x=CUDA2: no buffer type CUDA2; there are CPU, sim0, sim1"),
            ("x=CUDA_Host,y=CPU", "-ot x=CUDA_Host: no buffer type CUDA_Host; there are CPU, sim0, sim1"),
            ("exps=CPU=", "-ot exps=CPU=: no buffer type is named; there are CPU, sim0, sim1"),
            (
                "ffn_(up=CPU",
                "-ot ffn_(up=CPU: the pattern is no regular expression, "
                "missing ), unterminated subpattern at position 4",
            ),
            ("*=CPU", "-ot *=CPU: the pattern is no regular expression, nothing to repeat at position 0"),
            (
                "a{99999999999}=CPU",
                "-ot a{99999999999}=CPU: the pattern is no regular expression, the repetition number is too large",
            ),
        ],
    )
    def test_a_bad_override_is_an_error(self, value: str, sentence: str) -> None:
        with pytest.raises(OptionError) as e:
            placed(2, TWO, overrides=[value])
        assert str(e.value) == sentence.replace("-ot", "overrides", 1)

    @pytest.mark.parametrize(
        ("typed", "devices", "home"),
        [
            ("CUDA1", TWO, "sim1"),
            ("cuda0", TWO, "sim0"),
            ("ROCm1", TWO, "sim1"),
            ("CUDA1", ("sim1",), "sim1"),  # of a machine of which one device is used
            ("Vulkan0", ("CUDA0",), "CUDA0"),
            ("CUDA7", (), "CPU"),  # where all is
        ],
    )
    def test_the_nth_gpu_is_the_nth_device(self, typed: str, devices: tuple[str, ...], home: str) -> None:
        p = placed(2, devices, overrides=(f"attn_q={typed}",))
        assert p.homes["blk.1.attn_q.weight"].device == home

    def test_a_missing_device_is_an_error_without_any_device(self) -> None:
        with pytest.raises(OptionError) as e:
            placed(2, (), overrides=("x=sim0",))
        assert str(e.value) == "overrides x=sim0: no buffer type sim0; there are CPU"

    @given(st.text("ab=,(){}[]\\|*+.?0CPUsim ", max_size=20))
    def test_nothing_but_option_errors_comes_out(self, value: str) -> None:
        with suppress(OptionError):
            assert all(o.device in ("CPU", *TWO) for o in on_devices(parse_overrides([value]), TWO))


def host_experts(p: Placement) -> list[int]:
    """Layers whose experts -ncmoe keeps on the host."""
    found = {
        name.split(".")[1] for name, home in p.homes.items() if home.cause.startswith(("-ncmoe", "-cmoe"))
    }
    return sorted(map(int, found))


@pytest.mark.parametrize(
    ("devices", "n", "options", "expected"),
    [
        (("sim0",), 0, {}, []),
        (("sim0",), 3, {}, [5, 6, 7]),
        (("sim0",), 6, {}, [2, 3, 4, 5, 6, 7]),
        (("sim0",), 7, {}, [2, 3, 4, 5, 6, 7]),
        (("sim0",), 999, {}, [2, 3, 4, 5, 6, 7]),
        (("sim0",), 3, {"n_gpu_layers": 2}, [6, 7]),
        (TWO, 2, {"n_gpu_layers": 8}, [3, 7]),  # sim0 has experts in 2 3, sim1 in 4 5 6 7
        (TWO, 3, {"n_gpu_layers": 8}, [3, 6, 7]),
        (TWO, 3, {"n_gpu_layers": 8, "split_mode": "none"}, [5, 6, 7]),
        (TWO, 999, {"n_gpu_layers": 4}, [2, 3, 4, 5, 6, 7]),
    ],
)
def test_ncmoe_takes_the_last_layers_with_experts_of_each_device(
    devices: tuple[str, ...], n: int, options: dict[str, Any], expected: list[int]
) -> None:
    p = placed(8, devices, dense=2, **({"cpu_moe": True} if n == 999 else {"n_cpu_moe": n}), **options)
    assert host_experts(p) == expected
    for i in expected:
        cause = "-cmoe" if n == 999 else f"-ncmoe {n}"
        assert p.homes[f"blk.{i}.ffn_up_exps.weight"] == Home("CPU", cause)
        assert p.homes[f"blk.{i}.attn_q.weight"].cause.startswith("-ngl")


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [(0, 0, []), (2, 0, []), (3, 0, [2]), (5, 0, [2, 3, 4]), (8, 0, [2, 3, 4, 5, 6, 7]), (3, 2, [2, 6, 7])],
)
def test_ncmoe_first_counts_layers_without_experts_as_llama_cpp_does(
    first: int, last: int, expected: list[int]
) -> None:
    p = placed(8, TWO, dense=2, n_cpu_moe_first=first, n_cpu_moe=last, split_mode="none")
    assert host_experts(p) == expected
    if expected:
        assert p.homes["blk.2.ffn_up_exps.weight"] == Home("CPU", f"-ncmoe-first {first}")
        assert p.homes["blk.2.attn_q.weight"] == Home("sim0", "-ngl all")


def test_expert_biases_stay_with_their_layer() -> None:
    tensors = types(
        [*names(2), "blk.1.ffn_up_exps.bias", "blk.1.ffn_down_exps.scale", "blk.1.ffn_gate_up_exps.weight"]
    )
    p = place(tensors, 2, ("sim0",), PlacementOptions(n_cpu_moe=1))
    assert p.homes["blk.1.ffn_up_exps.bias"] == Home("sim0", "-ngl all")
    assert p.homes["blk.1.ffn_down_exps.scale"] == Home("CPU", "-ncmoe 1")
    assert p.homes["blk.1.ffn_gate_up_exps.weight"] == Home("CPU", "-ncmoe 1")


def test_names_of_no_layer_and_endless_names_stay_on_the_host() -> None:
    tensors = types(["blk.7.nextn.weight", f"blk.{'9' * 5000}.x", "v.blk.0.x"])
    homes = place(tensors, 7, ("sim0",), PlacementOptions()).homes
    assert homes["blk.7.nextn.weight"] == Home("CPU", "layer 7 of 7 is not computed")
    assert {home.device for home in homes.values()} == {"CPU"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"n_gpu_layers": -3}, "n_gpu_layers is -3, an integer from 0 up, -1, all or auto is needed"),
        ({"n_gpu_layers": True}, "n_gpu_layers is True, an integer from 0 up, -1, all or auto is needed"),
        ({"n_cpu_moe": -1}, "n_cpu_moe is -1, an integer from 0 up is needed"),
        ({"main_gpu": -1}, "main_gpu is -1, an integer from 0 up is needed"),
        ({"main_gpu": 2}, "main_gpu is 2, an integer from 0 to 1 is needed"),
        ({"split_mode": "row"}, "split_mode is row, layer or none is needed"),
        ({"tensor_split": (3, 2, 1)}, "tensor_split is 3,2,1, shares of 3 devices; there are sim0, sim1"),
        ({"tensor_split": (0, 0, 1)}, "tensor_split is 0,0,1, shares of 3 devices; there are sim0, sim1"),
        ({"tensor_split": (1, -0.5)}, "tensor_split is 1,-0.5, numbers from 0 to 1e+06 are needed"),
        ({"tensor_split": (1, float("inf"))}, "tensor_split is 1,inf, numbers from 0 to 1e+06 are needed"),
        ({"tensor_split": (float("nan"), 1)}, "tensor_split is nan,1, numbers from 0 to 1e+06 are needed"),
        ({"tensor_split": (0, 1e-60)}, "tensor_split is 0,1e-60, one share above 0 is needed"),
        ({"tensor_split": (0, 0)}, "tensor_split is 0,0, one share above 0 is needed"),
        (
            {"tensor_split": (1e-60, 1e300)},
            "tensor_split is 1e-60,1e+300, numbers from 0 to 1e+06 are needed",
        ),
    ],
)
def test_an_option_outside_its_range_is_an_error(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(OptionError) as e:
        placed(2, TWO, **options)
    assert str(e.value) == sentence


@pytest.mark.parametrize(
    ("text", "expected"), [("3,1", (3, 1)), ("3/1", (3, 1)), ("0.5", (0.5,)), ("0,1,0", (0, 1, 0))]
)
def test_shares_as_typed(text: str, expected: tuple[float, ...]) -> None:
    assert parse_split(text) == expected


@pytest.mark.parametrize(("text", "shown"), [("", "empty"), ("3,", "3,"), ("a,b", "a,b"), ("3;1", "3;1")])
def test_shares_that_are_no_numbers_are_an_error(text: str, shown: str) -> None:
    with pytest.raises(OptionError) as e:
        PlacementOptions(tensor_split=text)
    assert str(e.value) == f"tensor_split is {shown}, numbers such as 3,1 are needed"


@given(st.integers(0, 12), st.integers(-1, 15), st.integers(0, 15), st.integers(0, 3), st.integers(0, 4))
def test_every_tensor_has_a_home_and_a_cause(
    n_layer: int, ngl: int, ncmoe: int, n_devices: int, dense: int
) -> None:
    devices = tuple(f"sim{i}" for i in range(n_devices))
    p = placed(n_layer, devices, dense=dense, n_gpu_layers=ngl, n_cpu_moe=ncmoe)
    assert set(p.homes) == set(names(n_layer, dense=dense))
    assert len(p.layers) == len(p.kv) == n_layer
    assert {home.device for home in p.homes.values()} <= {"CPU", *devices}
    assert all(home.cause for home in p.homes.values())
    if devices:
        on_device = [i for i in range(dense, n_layer) if p.layers[i] != "CPU"]
        count = max(n_layer - dense, 0) if ncmoe >= n_layer else min(ncmoe, len(on_device))
        assert len(host_experts(p)) == count
