"""The offload policy: how -op reads, at how many tokens an upload pays, and the sentence for each bad value."""

import json
import re
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import graphsched
from graphsched.cli import main as cli
from graphsched.errors import OptionError
from graphsched.graph.opdef import Op
from graphsched.graph.ops import add, fused_rms_norm, get_rows, moe_fused_up_gate, mul_mat, mul_mat_id
from graphsched.graph.tensor import Extent, Tensor, TensorType, f32, i32, input_tensor, weight
from graphsched.predict.plan import make_plan
from graphsched.schedule.policy import GROUP, MinBatch, OffloadPolicy, parse_off, shown
from graphsched.session.options import SessionOptions, session_options
from graphsched.session.settings import settings
from graphsched.types import dtypes

EVERY = set(map(int, Op))


@pytest.mark.parametrize(
    ("values", "off"),
    [
        ([], set()),
        (["26,0"], {26}),
        (["26,0,27,0"], {26, 27}),
        (["26,0,26,1"], set()),
        (["27,0", "26,0", "27,1"], {26}),
        (["MUL_MAT=0,MUL_MAT_ID=1"], {26}),
        (["MUL_MAT,0,mul-mat-id,0"], {26, 27}),
        (["MUL_MAT=0,27,0,MOE_FUSED_UP_GATE,0"], {26, 27, 29}),
        ([" 26 , 0 , FLASH_ATTN_EXT = 0 "], {26, 62}),
        (["-1,0"], EVERY),
        (["-1=0"], EVERY),
        (["-1,0,27,1"], EVERY - {27}),
        (["26,0", "-1,1"], set()),
        (["0,0,80,0,128,0,130,0"], {0, 80, 128, 130}),
    ],
)
def test_pairs_accumulate_and_later_ones_win(values: list[str], off: set[int]) -> None:
    found = parse_off(values)
    assert found == off
    assert shown(found) == str(OffloadPolicy(found))
    assert parse_off([shown(found)] if off else []) == found


RANGE = f"ops are 0 to 80, 128 to {max(Op)}, or -1 for all"


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("", "-op with nothing needs pairs of an op and 0 or 1, as in 26,0"),
        (" ", "-op with nothing needs pairs of an op and 0 or 1, as in 26,0"),
        (",", "-op , needs pairs of an op and 0 or 1, as in 26,0"),
        ("26,0,", "-op 26,0, needs pairs of an op and 0 or 1, as in 26,0"),
        ("=0", "-op =0 needs pairs of an op and 0 or 1, as in 26,0"),
        ("26", "-op 26: no 0 or 1 follows 26"),
        ("26,0,27", "-op 26,0,27: no 0 or 1 follows 27"),
        ("MUL_MAT", "-op MUL_MAT: no 0 or 1 follows MUL_MAT"),
        ("26,2", "-op 26,2: 26 is 2, 0 (off) or 1 (on) is needed"),
        ("26,off", "-op 26,off: 26 is off, 0 (off) or 1 (on) is needed"),
        ("26,-1", "-op 26,-1: 26 is -1, 0 (off) or 1 (on) is needed"),
        ("26,,27,0", "-op 26,,27,0: 26 is empty, 0 (off) or 1 (on) is needed"),
        ("MUL_MAT=", "-op MUL_MAT=: MUL_MAT is empty, 0 (off) or 1 (on) is needed"),
        ("26=0=1", "-op 26=0=1: 26 is 0=1, 0 (off) or 1 (on) is needed"),
        ("81,0", f"-op 81,0: no op 81; {RANGE}"),
        ("-2,0", f"-op -2,0: no op -2; {RANGE}"),
        ("127,0", f"-op 127,0: no op 127; {RANGE}"),
        ("026,0", f"-op 026,0: no op 026; {RANGE}"),
        ("9" * 30 + ",0", f"-op {'9' * 30},0: no op {'9' * 30}; {RANGE}"),
        ("off,0", "-op off,0: no op off; graphsched ops lists them"),
        ("MULMAT,0", "-op MULMAT,0: no op MULMAT; did you mean MUL_MAT?"),
        ("MUL_MAT_IDS=0", "-op MUL_MAT_IDS=0: no op MUL_MAT_IDS; did you mean MUL_MAT_ID?"),
        ("2.0,0", "-op 2.0,0: no op 2.0; graphsched ops lists them"),
        ("²,0", "-op ²,0: no op ²; graphsched ops lists them"),
    ],
)
def test_a_bad_argument_is_an_error(value: str, sentence: str) -> None:
    with pytest.raises(OptionError) as e:
        SessionOptions(offload_policy=[value])
    assert str(e.value) == sentence.replace("-op", "offload_policy", 1)


@given(st.text("0123456789,=-_ MULMATID+", max_size=16))
def test_nothing_but_option_errors_comes_out(value: str) -> None:
    with suppress(OptionError):
        assert parse_off([value]) <= EVERY


@pytest.mark.parametrize("value", [-1, 1 << 31, 0.5, True])
def test_a_bad_batch_is_an_error(value: int) -> None:
    with pytest.raises(OptionError) as e:
        SessionOptions(offload_min_batch=value)
    assert str(e.value) == f"offload_min_batch is {value}, an integer from 1 to 1073741824 is needed"


T = Extent(4096, "n_tokens")  # a capacity; the number of tokens is what is computed at once


def experts(op: Op, n_expert: int, n_used: int) -> Tensor:
    w = weight("blk.1.ffn_up_exps.weight", TensorType(dtypes.F16, (n_expert, 8, 8)))
    x, ids = input_tensor("x", f32(T, 1, 8)), input_tensor("ids", i32(T, n_used))
    return mul_mat_id(w, x, ids) if op is Op.MUL_MAT_ID else moe_fused_up_gate(w, w, x, ids, kind="silu")


def dense() -> dict[str, Tensor]:
    w, x = weight("blk.1.ffn_up.weight", f32(8, 8)), input_tensor("x", f32(T, 8))
    return {
        "mul_mat": mul_mat(w, x),
        "norm": fused_rms_norm(x, weight("n", f32(8)), eps=1e-5),
        "bias": add(x, weight("b", f32(8))),
        "per head": mul_mat(weight("k_b", f32(2, 8, 8)), input_tensor("q", f32(T, 2, 8))),
    }


@pytest.mark.parametrize(("n_tokens", "expected"), [(1, False), (31, False), (32, True), (33, True)])
@pytest.mark.parametrize("name", dense())
def test_dense_weights_pay_from_32_tokens(name: str, n_tokens: int, expected: bool) -> None:
    assert MinBatch().wants(dense()[name], n_tokens) is expected


@pytest.mark.parametrize("op", [Op.MUL_MAT_ID, Op.MOE_FUSED_UP_GATE])
@pytest.mark.parametrize(
    ("n_expert", "n_used", "first"),
    [
        (64, 6, 342),  # DeepSeek-V2-Lite
        (128, 8, 512),  # Qwen3-235B-A22B, Qwen3-30B-A3B
        (256, 8, 1024),  # DeepSeek-R1
        (128, 1, 4096),  # Maverick
        (4, 4, 32),
    ],
)
def test_experts_pay_from_32_rows_per_expert(op: Op, n_expert: int, n_used: int, first: int) -> None:
    node = experts(op, n_expert, n_used)
    decisions = [MinBatch().wants(node, n) for n in range(first - 2, first + 2)]
    assert decisions == [False, False, True, True]


def test_the_smallest_batch_can_be_set() -> None:
    node, lite = dense()["mul_mat"], experts(Op.MUL_MAT_ID, 64, 6)
    assert MinBatch(1).wants(node, 1)
    assert MinBatch(0).wants(lite, 1)
    assert [MinBatch(1).wants(lite, n) for n in (10, 11)] == [False, True]
    assert [MinBatch(64).wants(lite, n) for n in (682, 683)] == [False, True]


def test_what_is_off_is_never_wanted_and_rows_of_an_embedding_neither() -> None:
    assert not OffloadPolicy(parse_off(["26,0"])).wants(dense()["mul_mat"], 4096)
    assert OffloadPolicy(parse_off(["-1,0,26,1"])).wants(dense()["mul_mat"], 4096)
    rows = get_rows(weight("token_embd.weight", f32(512, 8)), input_tensor("tokens", i32(T)))
    assert not MinBatch(0).wants(rows, 4096)


class FromEightRows:
    """A policy of somebody else."""

    def wants(self, node: Tensor, rows: int) -> bool:
        return rows >= 8


class Broken:
    def wants(self, node: Tensor, rows: int) -> bool:
        raise KeyError("blk.0")


class Vague:
    def wants(self, node: Tensor, rows: int) -> str:
        return "yes"


class Eager:
    def wants(self, node: Tensor) -> bool:
        return True


HOSTED: Final[dict[str, Any]] = {"n_ctx": 64, "devices": "sim:rtx4090", "n_gpu_layers": 0, "n_threads": 1}


def test_an_object_is_a_policy_and_decides_alone() -> None:
    policy = session_options(offload_policy=FromEightRows(), offload_min_batch=1).policy
    assert [policy.wants(dense()["mul_mat"], n) for n in (1, 7, 8)] == [False, False, True]
    assert replace(SessionOptions(offload_policy=FromEightRows()), n_ctx=5).policy.wants(dense()["bias"], 8)


def test_a_rule_stands_for_the_default_one_and_op_holds_it_back() -> None:
    policy = session_options(offload_rule=FromEightRows(), offload_policy="26,0").policy
    assert [policy.wants(dense()["bias"], n) for n in (7, 8)] == [False, True]
    assert not policy.wants(dense()["mul_mat"], 4096)


def test_plans_are_kept_by_what_a_policy_answers() -> None:
    session = graphsched.load(**HOSTED, offload_policy=FromEightRows())
    few, many = (session.eval(range(n)) for n in (7, 8))  # of one capacity
    kept = [plan_devices(session, n) for n in (7, 8)]
    assert kept[0] == {"CPU"} != kept[1] == {"CPU", "sim0"}
    plain = graphsched.load(n_ctx=64, n_threads=1)
    for n, logits in ((7, few), (8, many)):
        np.testing.assert_array_equal(logits, plain.eval(range(n)))


def plan_devices(session: graphsched.Session, n: int) -> set[str]:
    """The devices of the schedule for n tokens."""
    made = make_plan(session.model, session.options, n, 1, n).schedule
    return {split.device for split in made.splits}


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        (
            object(),
            "offload_policy is of type object, a text such as 26,0 or an object with wants(node, rows) is needed",
        ),
        (
            1.5,
            "offload_policy is of type float, a text such as 26,0 or an object with wants(node, rows) is needed",
        ),
        ({26: 0.5}.values(), "offload_policy is of type dict_values, a text such as 26,0 or an object"),
        ({9999}, "offload_policy is of type set, a text such as 26,0 or an object"),
        (Eager(), "offload_policy is of type Eager, an object with wants(node, rows) is needed"),
        (
            FromEightRows,
            "offload_policy is the class FromEightRows, an object with wants(node, rows) is needed",
        ),
        (Broken(), "the offload policy Broken fails on "),
        (Vague(), "the offload policy Vague says 'yes' of "),
    ],
)
def test_what_is_no_policy_is_one_sentence(policy: Any, sentence: str) -> None:
    with pytest.raises(OptionError, match="^" + re.escape(sentence)):
        graphsched.load(**HOSTED, offload_policy=policy)


PACKAGE: Final = """
class Eight:
    def wants(self, node, rows):
        return rows >= 8

ready, number = Eight(), 8
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with policies, as pip leaves it in site-packages."""
    info = tmp_path / "eightpolicy-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: eightpolicy\nVersion: 0.1\n")
    points = ["eight = eightpolicy:Eight", "ready = eightpolicy:ready", "number = eightpolicy:number"]
    (info / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *points, "gone = nowhere_at_all:x"]))
    (tmp_path / "eightpolicy.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "eightpolicy", raising=False)


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("name", ["eight", "ready"])
def test_a_package_gives_its_policy_a_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = session_options(offload_rule=name)
    assert [options.policy.wants(dense()["mul_mat"], n) for n in (7, 8)] == [False, True]
    assert settings(options)["offload_rule"] == name
    line = ("plan", "--device", "sim:rtx4090", "-ngl", "0", "--phase", "prefill", "-op-rule", name, "--json")
    for n, devices in ((7, {"CPU"}), (8, {"CPU", "sim0"})):
        assert cli.run((*line, "-p", str(n))) == 0
        assert {split["device"] for split in json.loads(capsys.readouterr().out)["splits"]} == devices


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "nine",
            "-op-rule is nine, no package installs a rule of that name; there are eight, gone, number, ready",
        ),
        (
            "gone",
            "-op-rule is gone (entry point nowhere_at_all:x), which cannot be imported: No module named",
        ),
        ("number", "-op-rule is number, an object with wants(node, rows) is needed"),
    ],
)
def test_a_name_that_cannot_be_used_is_one_sentence(
    name: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(("plan", "-op-rule", name)) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"graphsched: {sentence}")
