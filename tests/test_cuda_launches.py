"""What nodes are lowered to on a GPU: which launches a token takes, and that fused ones write what later nodes read."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nowhere import Nowhere
from op_runs import all_cases, draw
from running import model_path

from graphsched.backends.cuda.families.attention import PROMPT_FROM, Heads, chunk_of, partial_floats
from graphsched.backends.cuda.launch.call import Call, Product
from graphsched.backends.cuda.launch.fused import takes_whole
from graphsched.backends.cuda.launch.lowering import At, Launch
from graphsched.backends.cuda.stream.chain import can_overlap, chained
from graphsched.backends.cuda.support import has_kernel
from graphsched.gguf.loader import open_model
from graphsched.graph import ops
from graphsched.graph.graph import Graph, from_outputs
from graphsched.graph.opdef import OPS
from graphsched.graph.rewrites.rules import RULES
from graphsched.graph.tensor import Extent, Pool, Tensor, TensorType, f32, i32, input_tensor, weight
from graphsched.predict.plan import make_plan
from graphsched.run import runtime
from graphsched.run.device import Setup, open_devices
from graphsched.run.operand import Item, sized
from graphsched.run.streams import Flag, Wait
from graphsched.schedule.assign import Assignment, Target
from graphsched.schedule.fuse import fuse_placed
from graphsched.schedule.policy import OffloadPolicy
from graphsched.schedule.scheduler import Schedule, cut
from graphsched.session.model import Model
from graphsched.session.options import SessionOptions
from graphsched.synth.model import write
from graphsched.types.devices import HOST
from graphsched.types.dtypes import by_name

GPU = "CUDA0"


def fused(graph: Graph, uploaded: frozenset[str] = frozenset()) -> Schedule:
    """Every node on a GPU that holds the weights, but for those that are uploaded for the run."""
    placed = Assignment(dict.fromkeys(graph.nodes, GPU), dict.fromkeys(graph.nodes, "test"))
    target = Target(
        devices=(GPU, HOST),
        home=lambda leaf: HOST if leaf.name in uploaded else GPU,
        supports=lambda device, node: device == HOST or has_kernel(node),
        policy=OffloadPolicy(),
        lengths={},
        switches=frozenset(rule.switch for rule in RULES),
    )
    graph, placed, _ = fuse_placed(graph, placed, target)
    return cut(graph, graph.nodes, placed, target)


def lowered(graph: Graph, uploaded: frozenset[str] = frozenset()) -> list[Item]:
    """What a GPU runs, as kernels."""
    devices = open_devices("null", Setup({}, n_threads=1, devices=(GPU,)))
    items, _, _ = runtime.lowered(fused(graph, uploaded), devices, sized)
    return [item for item in items if isinstance(item, Launch)]


def kernels(item: Item, n_tokens: int = 1) -> list[str]:
    assert isinstance(item, Launch)
    at = At(Nowhere({}, {}), {"n_tokens": n_tokens, "n_outputs": n_tokens}, 0)
    return [call.kernel for call in item.make(at)]


@cache
def layer(path: Path, fuses: bool, n_tokens: int = 1, number: int = 1) -> tuple[str, ...]:
    """The kernels of a layer, by default the second."""
    options = SessionOptions(n_ctx=1024, devices=(GPU,))
    with pytest.MonkeyPatch.context() as env:
        env.setenv("GRAPHSCHED_CUDA_FUSION", str(int(fuses)))
        schedule = make_plan(
            Model(open_model(path, header_only=True)), options, n_tokens, 1, n_tokens
        ).schedule
        items, _, _ = runtime.lowered(
            schedule, open_devices("null", Setup({}, n_threads=1, devices=(GPU,))), sized
        )
    graph = schedule.graph
    mine = [
        item
        for item in items
        if isinstance(item, Launch) and graph.names[graph.nodes[item.node]].startswith(f"blk.{number}.")
    ]
    return tuple(k for item in mine for k in kernels(item, n_tokens))


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    folder = tmp_path_factory.mktemp("headers")

    @cache
    def made(layout: str, type: str) -> Path:
        path = folder / f"{layout}-{type}.gguf"
        write(layout, path, type, layers=8, extent="header")
        return path

    return made


# the sum that ends a layer is part of the launch of the norm in front of the next
LLAMA = (
    "rms_norm_q8", "matvec_fused_q4_0", "rope", "set_rows_f16", "attention_f16_f16_128_128_4",
    "attention_merge", "quantize_q8", "matvec_1_q4_0", "rms_norm_q8", "up_gate_q4_0", "quantize_q8",
    "matvec_1_q4_0",
)  # fmt: skip
BITNET = (
    "quantize_token", "w2a8_1", "rope", "set_rows_f16", "attention_f16_f16_128_128_4", "attention_merge",
    "quantize_token", "w2a8_1", "quantize_token", "w2a8_1", "relu2_mul", "quantize_token", "w2a8_1",
)  # fmt: skip


# row of the table in docs/launches.md -> layout, type of weights, layer
MODELS = {
    "Llama 8B Q4_0": ("llama-8b", "Q4_0", 1),
    "Llama 8B F16": ("llama-8b", "F16", 1),
    "Qwen3 30B-A3B Q4_0": ("qwen3-30b-a3b", "Q4_0", 1),
    "DeepSeek V2 Lite IQ4_NL (layer with experts)": ("deepseek-v2-lite", "IQ4_NL", 1),
    "DeepSeek V3 Q4_K (layer with experts)": ("deepseek-v3", "Q4_K", 3),
    "Llama 4 Maverick Q4_K (layer with experts)": ("maverick", "Q4_K", 1),
    "BitNet 2B-4T IQ2_BN": ("bitnet-2b", "IQ2_BN", 1),
}
DOCS = Path(__file__).resolve().parents[1] / "docs" / "launches.md"
TABLE = re.findall(r"^\| (.+?) \| (\d+) \| (\d+) \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)


def test_every_row_of_the_table_is_counted() -> None:
    assert {name for name, _, _ in TABLE} == set(MODELS)


@pytest.mark.parametrize(("name", "apart", "fused"), TABLE)
def test_launches_are_those_of_the_table(
    header: Callable[[str, str], Path], name: str, apart: str, fused: str
) -> None:
    layout, type, number = MODELS[name]
    counts = [len(layer(header(layout, type), on, number=number)) for on in (False, True)]
    assert counts == [int(apart), int(fused)]


def test_launches_of_a_llama_layer(header: Callable[[str, str], Path]) -> None:
    path = header("llama-8b", "Q4_0")
    assert layer(path, True) == LLAMA
    # many tokens: a launch for each matrix
    assert Counter(layer(path, True, 32))["gemm_q8_q4_0"] == 7


def test_launches_of_a_layer_of_halves(header: Callable[[str, str], Path]) -> None:
    fused = layer(header("llama-8b", "F16"), True)
    assert Counter(k.partition("_f16")[0] for k in fused)["matvec_1"] == 2
    assert {"matvec_fused_f16", "up_gate_f16"} < set(fused)


def test_launches_of_a_bitnet_layer(header: Callable[[str, str], Path]) -> None:
    path = header("bitnet-2b", "IQ2_BN")
    assert layer(path, True) == BITNET
    assert Counter(layer(path, True, 32))["w2a8_prompt"] == 4


@pytest.mark.parametrize("name", [n for n in MODELS if not n.startswith(("Llama 8B", "BitNet"))])
def test_choosing_experts_is_one_launch(header: Callable[[str, str], Path], name: str) -> None:
    """Behind the product of the gate, for one token and for many."""
    layout, type, number = MODELS[name]
    _choosing_is_one_launch(header(layout, type), number)


def test_choosing_experts_by_biased_logits_is_one_launch() -> None:
    _choosing_is_one_launch(model_path("gpt-oss"), 0)


def _choosing_is_one_launch(path: Path, number: int) -> None:
    for n_tokens in (1, 32):
        kernels = layer(path, True, n_tokens, number)
        at = kernels.index("route")
        assert kernels[at - 1].startswith(("matvec", "gemm", "add"))  # a bias
        assert kernels.count("route") == 1
        assert not {"soft_max", "top_k", "choose", "divide"} & set(kernels)


# ---- what a fused launch does not write until somebody asks


def product(x: Tensor, name: str, n: int = 64) -> Tensor:
    return ops.mul_mat(weight(name, TensorType(by_name("Q4_0"), (n, int(x.shape[-1])))), x)


def writes(item: Item, *types: TensorType) -> bool:
    """Whether an item writes a result of a type."""
    return {o.type for o in item.writes()} >= {*types}


def all_written(items: list[Item]) -> None:
    """Every planned buffer that a launch reads was written by one before it, or by a copy, named after the device."""
    made: set[Any] = set()
    for item in items:
        wanted = {o.buffer for o in item.reads() if o.buffer.is_planned}
        wanted = {buffer for buffer in wanted if not buffer.name.startswith(f"{GPU}#")}
        assert wanted <= made, [b.name for b in wanted - made]
        made |= {o.buffer for o in item.writes()}


def names(items: list[Item], n_tokens: int = 1) -> list[str]:
    return [k for item in items for k in kernels(item, n_tokens)]


def normed(tokens: int = 1) -> Tensor:
    return ops.fused_rms_norm(input_tensor("x", f32(tokens, 64)), weight("norm", f32(64)), eps=1e-6)


def test_a_norm_writes_floats_only_if_they_are_read() -> None:
    y = normed()
    items = lowered(from_outputs(product(y, "a")))
    assert names(items) == ["rms_norm_q8", "matvec_1_q4_0"]
    assert not writes(items[0], y.type)
    for outputs in ((ops.scale(y, by=2.0), product(y, "a")), (product(y, "a"), ops.scale(y, by=2.0))):
        items = lowered(from_outputs(*outputs))
        assert sorted(names(items)) == ["matvec_1_q4_0", "rms_norm_q8", "unary"]
        assert writes(items[0], y.type)
        all_written(items)
    items = lowered(from_outputs(product(y, "a"), y))  # which a copy brings to the host
    assert writes(items[0], y.type)
    items = lowered(from_outputs(ops.scale(y, by=2.0)))
    assert names(items) == ["rms_norm", "unary"]


def test_a_norm_is_read_through_reshapes_of_the_same_rows() -> None:
    y = normed(3)
    w = weight("w", TensorType(by_name("Q4_0"), (4, 32, 64)))
    x, ids = ops.reshape(y, shape=(3, 1, 64)), input_tensor("ids", i32(3, 2))
    items = lowered(from_outputs(ops.mul_mat_id(w, x, ids)))
    assert names(items, 3) == ["rms_norm_q8", "matvec_id_q4_0"]
    assert not writes(items[0], y.type)
    halves = ops.reshape(y, shape=(3, 2, 32))
    items = lowered(from_outputs(ops.mul_mat_id(w, x, ids), ops.scale(halves, by=2.0)))
    assert writes(items[0], y.type)
    all_written(items)


def test_a_norm_for_both_kinds_of_int8() -> None:
    y = normed()
    tiled = weight("t", TensorType(by_name("IQ2_BN"), (64, 64)))
    items = lowered(from_outputs(product(y, "a"), ops.mul_mat(tiled, y)))
    assert names(items) == ["rms_norm_q8", "quantize_token", "matvec_1_q4_0", "w2a8_1"]
    assert not writes(items[0], y.type)
    all_written(items)


def test_gate_and_up_are_written_only_if_they_are_read() -> None:
    y = normed()
    gate, up = product(y, "gate"), product(y, "up")
    h = ops.fused_mul_unary(gate, up, kind="silu")
    items = lowered(from_outputs(ops.sqr(h)))
    assert names(items) == ["rms_norm_q8", "up_gate_q4_0", "unary"]
    all_written(items)
    for more in (ops.scale(up, by=2.0), gate):
        items = lowered(from_outputs(ops.sqr(h), more))
        assert {"silu_mul", "matvec_1_q4_0"} < set(names(items))
        assert "up_gate_q4_0" not in names(items)
        all_written(items)


def test_the_square_of_a_relu_is_an_activation() -> None:
    y = normed()
    h = ops.sqr(ops.relu(product(y, "gate"))) * product(y, "up")
    assert names(lowered(from_outputs(ops.scale(h, by=2.0)))) == ["rms_norm_q8", "up_gate_q4_0", "unary"]


def test_several_tokens_keep_gate_and_up_apart() -> None:
    y = normed(5)
    h = ops.fused_mul_unary(product(y, "gate"), product(y, "up"), kind="silu")
    assert names(lowered(from_outputs(h)), 5) == ["rms_norm_q8", *["matvec_8_q4_0"] * 2, "silu_mul"]


def test_ternary_gate_and_up_share_a_launch_for_any_number_of_tokens() -> None:
    y = normed(5)
    gate, up = (ops.mul_mat(weight(n, TensorType(by_name("IQ2_BN"), (64, 64))), y) for n in "gu")
    items = lowered(from_outputs(ops.sqr(ops.fused_mul_unary(gate, up, kind="silu"))))
    assert names(items, 5) == ["quantize_token", "w2a8_8", "silu_mul", "unary"]


def test_weights_that_are_uploaded_do_not_share_a_launch() -> None:
    """Their copy stands between."""
    y = normed()
    gate, up = product(y, "gate"), product(y, "up")
    h = ops.sqr(ops.fused_mul_unary(gate, up, kind="silu"))
    items = lowered(from_outputs(h), frozenset({"up"}))
    assert names(items) == ["rms_norm_q8", *["matvec_1_q4_0"] * 2, "silu_mul", "unary"]


def test_a_norm_takes_over_the_sum_in_front_of_it() -> None:
    a, b = (ops.scale(input_tensor(n, f32(1, 64)), by=2.0) for n in "ab")
    z = ops.add(a, b)
    y = ops.fused_rms_norm(z, weight("norm", f32(64)), eps=1e-6)
    items = lowered(from_outputs(ops.add(product(y, "a", 64), z)))
    assert names(items) == ["unary", "unary", "rms_norm_q8", "matvec_1_q4_0", "add"]
    assert writes(items[2], z.type)
    all_written(items)


def test_the_sum_over_experts_takes_their_weights() -> None:
    x, w = (ops.scale(input_tensor(n, f32(1, 4, k)), by=2.0) for n, k in (("x", 64), ("w", 1)))
    scaled = ops.mul(x, w)
    y = ops.multi_add(scaled)
    items = lowered(from_outputs(ops.sqr(y)))
    assert names(items) == ["unary", "unary", "weighted_sum", "unary"]
    all_written(items)
    items = lowered(from_outputs(ops.sqr(y), ops.scale(scaled, by=2.0)))  # the product is read, too
    assert sorted(names(items)) == ["mul", *["unary"] * 4, "weighted_sum"]
    all_written(items)


def test_keys_and_values_go_to_their_caches_in_one_launch() -> None:
    caches = [
        Tensor(TensorType(by_name("F16"), (32, 2, k)), "cache", f"blk.0.cache_{n}")
        for n, k in (("k", 16), ("v", 8))
    ]
    rows = [ops.scale(input_tensor(n, f32(1, 2, k)), by=2.0) for n, k in (("k", 16), ("v", 8))]
    ids = input_tensor("ids", i32(1))
    written = [ops.set_rows(c, x, ids, dtype=c.dtype) for c, x in zip(caches, rows, strict=True)]
    items = lowered(from_outputs(*(ops.sqr(ops.copy_f32(w)) for w in written)))
    assert names(items)[:3] == ["unary", "unary", "set_rows_f16"]
    assert names(items).count("set_rows_f16") == 1
    all_written(items)


def test_one_graph_of_launches_serves_every_length() -> None:
    """Where cells are, and how many, is read by the kernels; any cell of a pool may be read."""
    cells, t = Pool(4096, "n_kv"), Extent(1, "n_tokens")
    cache = Tensor(TensorType(by_name("Q8_0"), (cells, 2, 64)), "cache", "blk.0.cache_k")
    q, where = ops.scale(input_tensor("q", f32(t, 4, 64)), by=1.0), input_tensor("where", i32(t, 3))
    table = input_tensor("table", i32(Extent(128, "n_blocks")))
    items = lowered(from_outputs(ops.flash_attn_ext(q, cache, cache, where, table, scale=0.1)))
    at = At(Nowhere({}, {}), {"n_tokens": 1, "n_kv": 5, "n_blocks": 1}, 0)
    made = {
        c.kernel: c
        for item in items
        if isinstance(item, Launch)
        for c in item.make(at)
        if isinstance(c, Call)
    }
    assert at.asked == {"n_tokens"}
    split = made["attention_q80_q80_64_64_2"]
    assert split.grid == (2, 4096 // 64, 1)
    ids = input_tensor("ids", i32(Extent(4096, "n_own")))
    (item,) = lowered(from_outputs(ops.get_rows(cache, ids)))
    at = At(Nowhere({}, {}), {"n_own": 64, "n_kv": 5}, 0)
    assert isinstance(item, Launch)
    (call,) = item.make(at)
    assert isinstance(call, Call)
    assert call.grid == (64, 2, 1)
    assert 4096 in call.args


def test_prompts_go_to_the_tensor_cores() -> None:
    """Single tokens of many sequences do not: each would read a cache of its own for one row of a tile."""
    cells, t = Pool(4096, "n_kv"), Extent(64, "n_tokens")
    cache = Tensor(TensorType(by_name("F16"), (cells, 2, 64)), "cache", "blk.0.cache_k")
    q, where = ops.scale(input_tensor("q", f32(t, 8, 64)), by=1.0), input_tensor("where", i32(t, 3))
    table = input_tensor("table", i32(Extent(128, "n_blocks")))
    *_, item = lowered(from_outputs(ops.flash_attn_ext(q, cache, cache, where, table, scale=0.1)))
    assert isinstance(item, Launch)

    def first(n_tokens: int, n_sequences: int) -> tuple[str, tuple[int, ...]]:
        at = At(Nowhere({}, {}), {"n_tokens": n_tokens, "n_sequences": n_sequences}, 0)
        call = next(iter(item.make(at)))
        assert isinstance(call, Call)
        return call.kernel, call.grid

    assert first(64, 1) == ("prompt_64_64", (4, 2, 1))
    assert first(64, 9) == ("prompt_64_64", (4, 2, 9))
    assert first(60, 40) == ("prompt_64_64", (4, 2, 17))  # rows of a block are of 17 tokens at most
    assert first(64, 64)[0] == "attention_f16_f16_64_64_4"
    assert first(15, 1)[0] == "attention_f16_f16_64_64_4"


def test_a_few_tokens_are_cut_into_the_same_chunks() -> None:
    """So that the bits of one do not depend on how many others there are. Scratch stays small, for many heads, too."""
    grouped, latent = Heads(32, 8, 128, 128, 0, 0, 0, 0), Heads(128, 1, 576, 512, 0, 0, 0, 0)
    for h in (grouped, latent):
        assert len({chunk_of(h, tokens, 1 << 17) for tokens in range(1, PROMPT_FROM)}) == 1
        assert chunk_of(h, PROMPT_FROM, 1 << 17) > chunk_of(h, 1, 1 << 17)
        assert 4 * partial_floats(h, PROMPT_FROM - 1, 1 << 17) < 100 << 20
    assert chunk_of(grouped, 1, 32768) == 512


def test_what_is_taken_whole_has_a_lowering() -> None:
    """The table that simulated devices ask, and the lowerings, for every case of every fused op."""
    seen = Counter[tuple[str, bool]]()
    for param in all_cases():
        definition, case = param.values
        if definition.compose is None:
            continue
        tensors, _ = draw(case, definition, np.random.default_rng(1))
        node = definition(*tensors, **case.attrs)
        assert takes_whole(node) == has_kernel(node), param.id
        seen[definition.name, has_kernel(node)] += 1
    assert {name for name, has in seen if has} == {d.name for d in OPS.values() if d.compose}
    assert any(not has for _, has in seen)


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


def test_empty_launches_are_left_out() -> None:
    """A run that wants no logits has no rows behind their selection."""
    empty = Launch(lambda at: [Call("norm", (), "k", (0, 2), 32, ()), replace(PRODUCT, m=0)], ())
    assert overlaps(empty, launch(2), empty, launch(1)) == [False, True, True]


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
