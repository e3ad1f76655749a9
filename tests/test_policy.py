"""The offload policy: how -op reads, at how many tokens an upload pays, and the sentence for each bad value."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphsched.errors import OptionError
from graphsched.graph.opdef import Op
from graphsched.graph.ops import add, fused_rms_norm, get_rows, moe_fused_up_gate, mul_mat, mul_mat_id
from graphsched.graph.tensor import Extent, Tensor, TensorType, f32, i32, input_tensor, weight
from graphsched.schedule.policy import MinBatch, OffloadPolicy, parse_off, shown
from graphsched.session.options import SessionOptions
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
