"""What nodes are lowered to on a GPU: which launches a token takes, and that fused ones write what later nodes read."""

from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from nowhere import Nowhere
from running import model_path

from graphsched.backends.cuda import device as _attached  # noqa: F401  # importing it attaches the lowerings
from graphsched.backends.cuda.call import Call, Product
from graphsched.backends.cuda.lowering import At, Launch, Low
from graphsched.backends.cuda.stream.chain import can_overlap, chained
from graphsched.gguf.loader import open_model
from graphsched.graph import ops
from graphsched.graph.graph import Graph, from_outputs
from graphsched.graph.tensor import Tensor, TensorType, f32, input_tensor, weight
from graphsched.predict.plan import make_plan
from graphsched.run.operand import Item, Memory, sized
from graphsched.run.streams import Flag, Wait
from graphsched.session.model import Model
from graphsched.session.options import SessionOptions
from graphsched.synth.model import write
from graphsched.types.dtypes import by_name

GPU = "CUDA0"


def lowered(graph: Graph, fuses: bool = True) -> list[Item]:
    items: list[Item] = []
    low = Low("cuda", lambda t: sized(GPU, t), items, lambda raw: Memory(0, raw.size), 1, GPU, fuses=fuses)
    for i, node in enumerate(graph.nodes):
        low.lower(node, i)
    for output in graph.outputs:
        low.operand(output)  # a copy brings it to the host
    return items


def kernels(item: Item, n_tokens: int = 1) -> list[str]:
    assert isinstance(item, Launch)
    at = At(Nowhere({}, {}), {"n_tokens": n_tokens, "n_outputs": n_tokens}, 0)
    return [call.kernel for call in item.make(at)]


@cache
def layer(path: Path, fuses: bool, n_tokens: int = 1, number: int = 1) -> tuple[str, ...]:
    """The kernels of a layer, by default the second."""
    options = SessionOptions(n_ctx=1024, devices=("sim:rtx4090",))
    graph = make_plan(
        Model(open_model(path, header_only=True)), options, n_tokens, 1, n_tokens
    ).schedule.graph
    mine = [i for i in lowered(graph, fuses) if graph.names[graph.nodes[i.node]].startswith(f"blk.{number}.")]  # type: ignore[attr-defined]
    return tuple(k for item in mine for k in kernels(item, n_tokens))


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    folder = tmp_path_factory.mktemp("headers")

    @cache
    def made(layout: str, type: str) -> Path:
        path = folder / f"{layout}-{type}.gguf"
        write(layout, path, type, extent="header")
        return path

    return made


# the norm in front of a layer is part of the launch of the sum that ends the layer before
LLAMA = (
    "matvec_joined_q4_0", "rope", "set_rows_f16", "attention_f16_f16_128_128_4",
    "attention_merge", "quantize_q8", "matvec_1_q4_0", "rms_norm_q8", "up_gate_q4_0", "quantize_q8",
    "matvec_1_q4_0", "rms_norm_q8",
)  # fmt: skip
BITNET = (
    "w2a8_1", "rope", "set_rows_f16", "attention_f16_f16_128_128_4", "attention_merge",
    "quantize_token", "w2a8_1", "quantize_token", "w2a8_1", "unary", "unary", "mul", "quantize_token", "w2a8_1",
    "quantize_token",
)  # fmt: skip


def test_launches_of_a_llama_layer(header: Callable[[str, str], Path]) -> None:
    path = header("llama-8b", "Q4_0")
    assert layer(path, True) == LLAMA
    assert len(layer(path, False)) == 22
    # many tokens: a launch for each matrix
    assert Counter(layer(path, True, 32))["gemm_q8_q4_0"] == 7


def test_launches_of_a_layer_of_halves(header: Callable[[str, str], Path]) -> None:
    path = header("llama-8b", "F16")
    fused = layer(path, True)
    assert Counter(k.partition("_f16")[0] for k in fused)["matvec_1"] == 2
    assert {"matvec_joined_f16", "up_gate_f16"} < set(fused)
    assert (len(fused), len(layer(path, False))) == (10, 18)


def test_launches_of_a_bitnet_layer(header: Callable[[str, str], Path]) -> None:
    path = header("bitnet-2b", "IQ2_BN")
    assert layer(path, True) == BITNET
    assert len(layer(path, False)) == 26
    assert Counter(layer(path, True, 32))["w2a8_prompt"] == 4


def test_launches_of_a_layer_with_experts(header: Callable[[str, str], Path]) -> None:
    path = header("qwen3-30b-a3b", "Q4_0")
    fused, apart = layer(path, True), layer(path, False)
    assert {"matvec_joined_q4_0", "up_gate_q4_0", "rms_norm_q8"} <= set(fused)
    assert (len(fused), len(apart)) == (17, 31)


@pytest.mark.parametrize(
    ("layout", "type", "number", "want"),
    [
        ("qwen3-30b-a3b", "Q4_0", 1, (17, 31)),
        ("deepseek-v2-lite", "IQ4_NL", 1, (28, 39)),
        ("deepseek-v3", "Q4_K", 3, (30, 47)),
        ("maverick", "Q4_K", 1, (22, 34)),
        ("gpt-oss", "", 0, (25, 33)),  # with the first norm, and rows for the output
    ],
)
def test_choosing_experts_is_one_launch(
    header: Callable[[str, str], Path], layout: str, type: str, number: int, want: tuple[int, int]
) -> None:
    """Behind the product of the gate, for one token and for many."""
    path = header(layout, type) if type else model_path(layout)
    fused, apart = layer(path, True, number=number), layer(path, False, number=number)
    assert (len(fused), len(apart)) == want
    for n_tokens in (1, 32):
        kernels = layer(path, True, n_tokens, number)
        at = kernels.index("route")
        assert kernels[at - 1].startswith(("matvec", "gemm", "add"))  # a bias
        assert kernels.count("route") == 1
        assert not {"soft_max", "top_k", "choose", "divide"} & set(kernels)


# ---- what a fused launch does not write until somebody asks


def product(x: Tensor, name: str, n: int = 64) -> Tensor:
    return ops.mul_mat(weight(name, TensorType(by_name("Q4_0"), (n, int(x.shape[-1])))), x)


def writes(item: Item) -> set[str]:
    return {o.buffer.name for o in item.writes()}


def all_written(items: list[Item]) -> None:
    """Every planned buffer that an item reads was written by an item before it."""
    made: set[Any] = set()
    for item in items:
        wanted = {o.buffer for o in item.reads() if o.buffer.is_planned}
        assert wanted <= made, [b.name for b in wanted - made]
        made |= {o.buffer for o in item.writes()}


def normed(tokens: int = 1) -> Tensor:
    return ops.fused_rms_norm(input_tensor("x", f32(tokens, 64)), weight("norm", f32(64)), eps=1e-6)


def test_a_norm_writes_floats_only_if_they_are_read() -> None:
    y = normed()
    items = lowered(from_outputs(product(y, "a")))
    assert [kernels(i) for i in items] == [["rms_norm_q8"], ["matvec_1_q4_0"]]
    assert str(y) not in writes(items[0])
    items = lowered(from_outputs(ops.scale(y, by=2.0), product(y, "a")))
    assert str(y) in writes(items[0])
    all_written(items)
    items = lowered(from_outputs(product(y, "a"), ops.scale(y, by=2.0)))  # later than the int8 blocks
    assert [k for i in items for k in kernels(i)] == ["rms_norm_q8", "matvec_1_q4_0", "unary"]
    assert str(y) in writes(items[0])
    all_written(items)


def test_gate_and_up_are_written_only_if_they_are_read() -> None:
    y = normed()
    gate, up = product(y, "gate"), product(y, "up")
    h = ops.fused_mul_unary(gate, up, kind="silu")
    items = lowered(from_outputs(h))
    assert [k for i in items for k in kernels(i)] == ["rms_norm_q8", "up_gate_q4_0"]
    all_written(items)
    for late in (from_outputs(h, ops.scale(up, by=2.0)), from_outputs(h, gate)):
        items = lowered(late)
        want = ["rms_norm_q8", "matvec_joined_q4_0", "silu_mul", "unary"]
        assert [k for i in items for k in kernels(i)] == want[: 3 + (late.outputs[1] is not gate)]
        all_written(items)
    early = lowered(from_outputs(ops.scale(gate, by=2.0), h))
    assert "silu_mul" in [k for i in early for k in kernels(i)]
    all_written(early)


def test_several_tokens_keep_gate_and_up_apart() -> None:
    y = normed(5)
    h = ops.fused_mul_unary(product(y, "gate"), product(y, "up"), kind="silu")
    items = lowered(from_outputs(h))
    assert [k for i in items for k in kernels(i, 5)] == ["rms_norm_q8", *["matvec_8_q4_0"] * 2, "silu_mul"]


def test_a_fourth_product_starts_another_launch() -> None:
    y = normed()
    items = lowered(from_outputs(*(product(y, name) for name in "abcde")))
    assert [k for i in items for k in kernels(i)] == ["rms_norm_q8", *["matvec_joined_q4_0"] * 2]
    all_written(items)


def test_weights_that_are_uploaded_do_not_join() -> None:
    """Their copy stands between: the launch of the first product comes too early for them."""
    y = normed()
    first, second = product(y, "a"), product(y, "b")
    graph = from_outputs(first, second)
    items: list[Item] = []
    resident = sized(GPU, weight("r", f32(1)))

    def leaf(tensor: Tensor) -> Any:
        found = sized(GPU, tensor)
        if tensor.name == "b":
            return type(found)(type(found.buffer)("b", 64, None, staging=True), found.type, found.strides)
        return found

    low = Low("cuda", leaf, items, lambda raw: Memory(0, raw.size), 1, GPU)
    for i, node in enumerate(graph.nodes):
        low.lower(node, i)
    assert resident.buffer.memory is not None
    assert [kernels(i) for i in items] == [["rms_norm_q8"], ["matvec_1_q4_0"], ["matvec_1_q4_0"]]


def test_a_norm_takes_over_the_sum_in_front_of_it() -> None:
    a, b = (ops.scale(input_tensor(n, f32(1, 64)), by=2.0) for n in "ab")
    z = ops.add(a, b)
    y = ops.fused_rms_norm(z, weight("norm", f32(64)), eps=1e-6)
    items = lowered(from_outputs(ops.add(product(y, "a", 64), z)))
    assert [k for i in items for k in kernels(i)] == ["unary", "unary", "rms_norm_q8", "matvec_1_q4_0", "add"]
    assert str(z) in writes(items[2])
    all_written(items)


def test_the_sum_over_experts_takes_their_weights() -> None:
    x, w = (ops.scale(input_tensor(n, f32(1, 4, k)), by=2.0) for n, k in (("x", 64), ("w", 1)))
    scaled = ops.mul(x, w)
    y = ops.multi_add(scaled)
    items = lowered(from_outputs(y))
    assert [k for i in items for k in kernels(i)] == ["unary", "unary", "weighted_sum"]
    all_written(items)
    items = lowered(from_outputs(y, ops.scale(scaled, by=2.0)))  # read later: both are written
    assert [k for i in items for k in kernels(i)] == ["unary", "unary", "weighted_sum", "mul", "unary"]
    all_written(items)
    scaled = ops.mul(x, w)
    other = ops.scale(scaled, by=2.0)
    items = lowered(from_outputs(other, ops.multi_add(scaled)))  # read before
    assert [k for i in items for k in kernels(i)] == ["unary", "unary", "mul", "unary", "weighted_sum"]
    all_written(items)


# ---- which kernels begin while the one before still runs


def launch(n: int) -> Launch:
    """A launch of so many kernels."""
    return Launch(lambda at: [Call("norm", (), f"k{i}", (1,), 32, ()) for i in range(n)], ())


PRODUCT = Product("bf16", 0, 0, 0, 1, 1, 8, 1)


def overlaps(*items: Any, apart: bool = False) -> list[bool]:
    at = At(Nowhere({}, {}), {}, 0, apart=apart)
    made = (call for item in chained(items) if isinstance(item, Launch) for call in item.make(at))
    return [call.overlaps for call in made if isinstance(call, Call)]


def test_kernels_overlap_only_right_behind_kernels() -> None:
    flag = Wait(Flag(0), GPU)
    assert overlaps(launch(1), launch(2), launch(1)) == [False, True, True, True]
    assert overlaps(launch(1), flag, launch(2)) == [False, False, True]
    assert overlaps(launch(1), flag, launch(0), launch(1), launch(1)) == [False, False, True]
    assert overlaps(launch(1), launch(0), launch(1)) == [False, True]
    assert overlaps(launch(1), Launch(lambda at: [PRODUCT], ()), launch(2)) == [False, False, True]


def test_nothing_overlaps_where_events_stand_between() -> None:
    assert not any(overlaps(launch(2), launch(1), apart=True))


def test_launches_are_made_anew_without_what_they_remember() -> None:
    """A program makes its launches for each combination of lengths."""
    items = [launch(1), launch(1)]
    for _ in range(2):
        assert overlaps(*items) == [False, True]


@pytest.mark.parametrize(
    ("arch", "can"), [("sm_80", False), ("sm_90", True), ("sm_90a", True), ("sm_120", True)]
)
def test_which_architectures_can(arch: str, can: bool) -> None:
    assert can_overlap(arch) == can
