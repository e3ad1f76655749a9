"""Ternary products are exact: sums of integers, the same bits for any batch, thread count, layout and kernel class."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from running import model_path, nmse

import graphsched
from graphsched.backends.cpu.formats.forms import FORMS
from graphsched.backends.cpu.formats.rows import BLOCK_TYPES
from graphsched.cli import main as cli
from graphsched.graph import ops
from graphsched.graph.graph import from_outputs
from graphsched.graph.tensor import Tensor, TensorType, f32, i32, input_tensor, weight
from graphsched.run.device import Setup
from graphsched.run.runtime import open_runtime
from graphsched.schedule.placement import PlacementOptions
from graphsched.types import dtypes
from graphsched.types.dtypes import DType

Floats = NDArray[np.float32]
TERNARY = tuple(t for t in BLOCK_TYPES if FORMS[t.id].ternary)
TYPES = pytest.mark.parametrize("dtype", [*TERNARY, dtypes.I2_S], ids=str)


def test_which_types_are_ternary() -> None:
    assert {t.name for t in TERNARY} == {"IQ2_BN", "IQ1_BN", "TQ2_0", "TQ1_0"}


def width(dtype: DType) -> int:
    """Not a multiple of 256 where a row may be so."""
    return {256: 768, 128: 896, 64: 832}[dtype.block]


def trits(rng: np.random.Generator, *shape: int) -> Floats:
    """-s, 0 and s, s being another in each block of 256."""
    values = rng.integers(-1, 2, shape).astype(np.float32)
    values[..., 0] = 1
    scales = rng.uniform(0.1, 3, (*shape[:-1], 1)).astype(np.float32)
    return values * np.ldexp(scales, np.arange(shape[-1]) // 256 % 3).astype(np.float32)


def weights(dtype: DType, rng: np.random.Generator, *shape: int) -> tuple[TensorType, NDArray[np.uint8]]:
    values = trits(rng, *shape)
    if dtype.row_header:  # one scale a row
        values = np.sign(values) * np.abs(values).max(axis=-1, keepdims=True)
    if dtype == dtypes.I2_S:  # one scale in all
        values = np.sign(values) * np.float32(0.37)
    return TensorType(dtype, shape), dtype.quantize(values)


def run(node: Tensor, values: dict[str, Any], threads: int = 1, device: str = "cpu") -> Floats:
    leaves = {leaf.name: leaf for leaf in node.sources}
    raw = {name: v for name, v in values.items() if leaves[name].kind == "weight"}
    runtime = open_runtime(device, Setup(raw, n_threads=threads))
    for name, leaf in leaves.items():
        if leaf.kind == "input":
            runtime.input(leaf)[:] = values[name]
    executable = runtime.compile(from_outputs(node))
    executable.run({})
    return np.array(executable.outputs[0])


def product(type: TensorType, w: NDArray[np.uint8], x: Floats, threads: int = 1) -> Floats:
    node = ops.mul_mat(weight("w", type), input_tensor("x", f32(*x.shape)))
    return run(node, {"w": w, "x": x}, threads)


def expected(type: TensorType, w: NDArray[np.uint8], x: Floats) -> Floats:
    """y = (Σ float(Σ q · code) · s) · d in float32, one term per scale of weights, in order."""
    (n, k), dtype = type.shape, type.dtype
    d = np.abs(x).max(axis=-1, keepdims=True) / np.float32(127)
    with np.errstate(divide="ignore"):
        q = np.rint(x * np.where(d > 0, np.float32(1) / d, np.float32(0))).astype(np.int64)
    group = 256 if dtype.block == 256 else k
    values = dtype.dequantize(w, (n, k)).reshape(n, k // group, group)
    s = np.abs(values).max(axis=-1)
    codes = np.sign(values).astype(np.int64)
    y = np.zeros((len(x), n), np.float64)
    for g in range(k // group):
        sums = q[:, group * g : group * (g + 1)] @ codes[:, g].T
        term = sums.astype(np.float32).astype(np.float64) * s[:, g].astype(np.float64)  # exact in float64
        y = (term + y).astype(np.float32).astype(np.float64)  # rounded once, as fma does
    return y.astype(np.float32) * d


@pytest.mark.target
@pytest.mark.parametrize("n", [1, 21, 33])
@TYPES
def test_a_row_does_not_depend_on_its_batch(dtype: DType, n: int) -> None:
    rng = np.random.default_rng(n)
    type, w = weights(dtype, rng, n, width(dtype))
    x = (rng.standard_normal((512, width(dtype))) * rng.uniform(0.01, 9, (512, 1))).astype(np.float32)
    x[3] = 0
    want = expected(type, w, x)
    for tokens, threads in ((1, 1), (1, 3), (2, 2), (7, 1), (8, 3), (32, 2), (33, 1), (33, 3), (512, 2)):
        got = product(type, w, x[:tokens], threads)
        np.testing.assert_array_equal(got, want[:tokens], err_msg=f"{tokens} tokens, {threads} threads")
    for t in range(1, 9):
        np.testing.assert_array_equal(product(type, w, x[t : t + 1]), want[t : t + 1])


EXPERTS, ROWS, USED = 3, 21, 2


def by_expert(dtype: DType, tokens: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Values and leaves of products by expert; ids outside the range are among them."""
    rng = np.random.default_rng(6)
    (type, up), (_, gate) = (weights(dtype, rng, EXPERTS, ROWS, width(dtype)) for _ in range(2))
    ids = rng.integers(-1, EXPERTS + 1, (64, USED)).astype(np.int32)[:tokens]
    x = rng.standard_normal((64, 1, width(dtype))).astype(np.float32)[:tokens]
    leaves = {
        "up": weight("up", type),
        "gate": weight("gate", type),
        "x": input_tensor("x", f32(*x.shape)),
        "ids": input_tensor("ids", i32(*ids.shape)),
    }
    return {"up": up, "gate": gate, "x": x, "ids": ids}, leaves


def id_product(dtype: DType, tokens: int, threads: int = 1) -> Floats:
    values, leaf = by_expert(dtype, tokens)
    return run(
        ops.mul_mat_id(leaf["up"], leaf["x"], leaf["ids"]),
        {name: values[name] for name in ("up", "x", "ids")},
        threads,
    )


def up_gate(dtype: DType, tokens: int, threads: int = 1) -> Floats:
    values, leaf = by_expert(dtype, tokens)
    node = ops.moe_fused_up_gate(leaf["up"], leaf["gate"], leaf["x"], leaf["ids"], kind="silu")
    return run(node, values, threads)


@pytest.mark.parametrize("product", [id_product, up_gate])
@pytest.mark.parametrize("dtype", TERNARY, ids=str)
def test_nor_do_experts(dtype: DType, product: Callable[..., Floats]) -> None:
    every = product(dtype, 64, 3)
    for tokens, threads in ((1, 1), (1, 2), (2, 1), (7, 2), (33, 1)):
        np.testing.assert_array_equal(product(dtype, tokens, threads), every[:tokens])
    values, _ = by_expert(dtype, 64)
    if product is id_product:
        for e in range(EXPERTS):
            type, raw = TensorType(dtype, (ROWS, width(dtype))), values["up"].reshape(EXPERTS, -1)[e]
            want = expected(type, raw, values["x"][:, 0])
            mine = values["ids"] == e
            np.testing.assert_array_equal(every[mine], want[np.nonzero(mine)[0]])
    assert not every[(values["ids"] < 0) | (values["ids"] >= EXPERTS)].any()


def test_sums_of_the_widest_rows() -> None:
    """All codes and activations at their largest: 16 bits, and 24 bits of wrapped lanes, would not hold the sums."""
    k = 1 << 17
    values = np.ones((3, k), np.float32)
    values[1], values[2, ::2] = -1, -1
    x = np.ones((2, k), np.float32)
    x[1] *= -2
    for dtype in (dtypes.IQ2_BN, dtypes.IQ1_BN):
        type, w = TensorType(dtype, values.shape), dtype.quantize(values)
        want = expected(type, w, x)
        np.testing.assert_allclose(want, x @ values.T, rtol=1e-6)
        for rows in (x, x[:1]):
            np.testing.assert_array_equal(product(type, w, rows), want[: len(rows)])


# --- whole models ---

IDS = [1, *np.random.default_rng(0).integers(3, 200, 62).tolist()]


@pytest.fixture(scope="module", params=["bitnet", "bitnet-25", "bitnet-b1.58"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model all of whose matrices are IQ2_BN, embedding and output too."""
    out = tmp_path_factory.mktemp("ternary") / f"{request.param}.gguf"
    source = model_path(request.param)
    assert cli.run(["quantize", str(source), str(out), "IQ2_BN", "--pure"]) == 0
    return out


def logits(model: Path, **options: Any) -> Floats:
    session = graphsched.load(model, n_ctx=128, **options)
    rows = np.array(session.eval(IDS, all_logits=True))
    session.close()
    return rows


def test_a_prompt_does_not_depend_on_how_it_is_cut(model: Path) -> None:
    whole = logits(model)
    for n_ubatch, threads in ((7, 1), (32, 3)):
        np.testing.assert_array_equal(logits(model, n_ubatch=n_ubatch, n_threads=threads), whole)
    np.testing.assert_array_equal(logits(model, rtr="on"), whole)
    one_by_one = logits(model, n_ubatch=1)
    # Attention of a single token adds up in another order, but not over a single cell: there nothing is left to differ.
    np.testing.assert_array_equal(one_by_one[0], whole[0])
    assert nmse(one_by_one, whole) < 1e-9


def test_nor_on_where_it_runs(model: Path) -> None:
    options = {"devices": ("sim:rtx4090",), "offload_min_batch": 1, "poison": True}
    part = PlacementOptions(overrides=("blk.0=CPU",))
    for n_ubatch in (1, 32):
        host = logits(model, n_ubatch=n_ubatch)
        np.testing.assert_array_equal(logits(model, n_ubatch=n_ubatch, placement=part, **options), host)
