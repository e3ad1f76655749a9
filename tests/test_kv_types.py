"""Types of a KV cache: the bytes of their rows, what they cost, and which heads they take."""

import struct
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from op_runs import raw_of
from running import model_path

from graphsched.cli.main import run as run_command
from graphsched.errors import Error
from graphsched.gguf.loader import open_model
from graphsched.graph.graph import from_outputs
from graphsched.graph.ops import set_rows, view
from graphsched.graph.tensor import TensorType, f32, i32, input_tensor
from graphsched.predict.plan import make_plan
from graphsched.predict.session import session_of
from graphsched.run.device import Setup
from graphsched.run.runtime import open_runtime
from graphsched.session.model import Model
from graphsched.session.options import SessionOptions
from graphsched.types import dtypes
from graphsched.types.devices import HOST
from graphsched.types.layouts import IQ4_NL

Floats = NDArray[np.float32]
ROWS, CELLS, HEADS, WIDTH = 6, 8, 3, 96


def iq4_nl_by_the_book(x: Floats) -> bytes:
    """One block as ggml writes it: the code that is nearest for each value, then the scale by weights of x²."""
    farthest = x[np.abs(x).argmax()]
    inverse = np.float32(1) / (farthest / IQ4_NL[0])
    codes = [int(np.abs(IQ4_NL.astype(np.float64) - v * inverse).argmin()) for v in x]
    values = IQ4_NL[codes].astype(np.float64)
    scale = (x**3 * values).sum() / (x**2 * values**2).sum()
    packed = [low | high << 4 for low, high in zip(codes[:16], codes[16:], strict=True)]
    return np.float16(scale).tobytes() + bytes(packed)


def test_iq4_nl_at_once() -> None:
    x = np.random.default_rng(1).standard_normal((200, 32)).astype(np.float32)
    got = dtypes.IQ4_NL.quantize(x, at_once=True).reshape(len(x), -1)
    for row, block in zip(x, got, strict=True):
        assert block.tobytes() == iq4_nl_by_the_book(row)


def test_iq4_nl_of_nothing_is_zeros() -> None:
    x = np.full((1, 32), 1e-16, np.float32)
    assert not dtypes.IQ4_NL.quantize(x, at_once=True).any()


def test_q8_kv_by_hand() -> None:
    x = np.zeros((1, 32), np.float32)
    x[0, :3] = 2.54, -1.27, 0.011
    raw = dtypes.Q8_KV.quantize(x).tobytes()
    scale, total = struct.unpack("<fi", raw[:8])
    assert scale == np.float32(2.54) / np.float32(127)
    assert (total, list(np.frombuffer(raw[8:12], np.int8))) == (127 - 64 + 1, [127, -64, 1, 0])


def stored(dtype: dtypes.DType, x: Floats, threads: int) -> NDArray[np.uint8]:
    """The bytes of a cache into whose last cells rows were written."""
    runtime = open_runtime("cpu", Setup({}, n_threads=threads))
    cache = input_tensor("cache", TensorType(dtype, (CELLS, HEADS, WIDTH)))
    rows, slots = input_tensor("rows", f32(*x.shape)), input_tensor("slots", i32(len(x)))
    values = {"rows": x, "slots": np.arange(CELLS - len(x), CELLS, dtype=np.int32)}
    executable = runtime.compile(from_outputs(set_rows(cache, rows, slots, dtype=dtype)))
    for leaf, raw in ((leaf, raw_of([leaf], values)[leaf.name]) for leaf in (rows, slots)):
        runtime.input(leaf).reshape(-1).view(np.uint8)[:] = raw
    executable.run({})
    held = runtime.input(cache).reshape(-1).view(np.uint8)
    return np.array(held).reshape(CELLS, -1)[CELLS - len(x) :]


@pytest.mark.target
@pytest.mark.parametrize("dtype", dtypes.KV_TYPES, ids=str)
def test_rows_have_the_bytes_of_the_encoders(dtype: dtypes.DType) -> None:
    """But for ties that two roundings make; with zeros, both ends, and values of equal magnitude."""
    x = np.random.default_rng(3).standard_normal((ROWS, HEADS, WIDTH)).astype(np.float32)
    x[0, 0], x[1, 1, 32:64] = 0, 0
    x[2, 2, 5], x[2, 2, 9] = -7, 7
    x[3, 0, :32] = np.abs(x[3, 0, :32])
    want = dtype.quantize(x, at_once=True).reshape(ROWS, -1)
    got = stored(dtype, x, 1)
    assert (got != want).mean() < 0.002
    np.testing.assert_array_equal(got, stored(dtype, x, 3))


@pytest.mark.parametrize(
    ("kind", "per_head"),
    [("bf16", 128), ("q8_0", 68), ("q4_0", 36), ("q5_1", 48), ("iq4_nl", 36), ("q8_KV", 8 + 64)],
)
def test_bytes_of_a_plan(kind: str, per_head: int) -> None:
    """Heads of 64: two blocks, or a header and a byte each."""
    model, options = Model(open_model(model_path("llama"))), SessionOptions(n_ctx=1024, type_k=kind)
    config: Any = model.config
    assert config.head_dim == 64
    heads = config.n_layer * config.n_head_kv
    kv = session_of(make_plan(model, options, 1, 1, 1)).needs[HOST].kv
    assert kv == 1024 * heads * (per_head + 128)


@pytest.mark.parametrize("kind", ["q5_1", "iq4_nl", "q8_KV"])
def test_heads_that_are_no_blocks(capsys: pytest.CaptureFixture[str], kind: str) -> None:
    config: Any = Model(open_model(model_path("qwen2"))).config
    counts = {name: n * config.head_dim // 16 for name, n in (("", config.n_head), ("_kv", config.n_head_kv))}
    keys = [f"qwen2.attention.head_count{name}=int:{n}" for name, n in counts.items()]
    given = [part for key in (*keys, "qwen2.rope.dimension_count=int:16") for part in ("--override-kv", key)]
    assert run_command(["plan", "-m", str(model_path("qwen2")), "-ctk", kind, *given]) == 2
    sentence = f"KV cache type {kind.upper()} needs rows that divide by 32, blk.0.cache_k has 16"
    assert capsys.readouterr().err == f"graphsched: {sentence}\n"


def test_a_row_with_a_scale_in_front_has_no_other_parts() -> None:
    x = input_tensor("x", TensorType(dtypes.Q8_KV, (4, 2, 96)))
    assert view(x, start=0, stop=32).type.nbytes == 8 * 40
    with pytest.raises(Error, match="the scale of a row is in front of it"):
        view(x, start=32, stop=96)
