"""Products by cuBLASLt, on the stand-in driver with a stand-in of the library; no GPU."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from stand_in import (
    ROOT,
    StandIn,
    by_default,
    close,
    fake_cublas,
    gpu_check,
    needs_stand_in,
    on_stand_in,
    run,
)

from graphsched.backends.cuda.families.decode import decode
from graphsched.backends.cuda.launch.call import Call, Product

pytestmark = needs_stand_in


@pytest.fixture(scope="module")
def gpu() -> Iterator[StandIn]:
    """All products on the tensor cores go by the library."""
    with StandIn(GS_FAKE_CUBLAS=fake_cublas(), GRAPHSCHED_CUDA_CUBLAS="9") as made:
        yield made


@pytest.fixture(scope="module")
def own() -> Iterator[StandIn]:
    """A machine without the library."""
    with StandIn() as made:
        yield made


def products(gpu: StandIn) -> int:
    n: int = gpu.ask("cublas")["products"]
    return n


@pytest.mark.parametrize("types", [["Q4_0", "F16"], pytest.param([], marks=pytest.mark.slow)])
def test_products_agree_with_their_references(gpu: StandIn, types: list[str]) -> None:
    before, answer = products(gpu), gpu.ask("cases", ops=["mul_mat"], types=types)
    assert answer["bad"] == []
    assert products(gpu) > before


MODELS = [
    "llama",
    "llama-Q4_0",
    "llama-Q4_K_M",
    "deepseek2-lite",
]


@pytest.mark.parametrize("name", by_default(MODELS, MODELS[:3]))
def test_models(gpu: StandIn, tmp_path: Path, name: str) -> None:
    before = products(gpu)
    close(name, run(gpu, tmp_path, name, 20, first=16))
    assert products(gpu) > before
    assert gpu.ask("cublas")["live"] == 0  # the session is closed


def test_weights_are_decoded_in_parts(gpu: StandIn, tmp_path: Path) -> None:
    """The same bits with room for 64 rows at a time."""
    name, counts, rows = "llama-Q4_0", [products(gpu)], []
    for room in (1 << 27, 64 * 256 * 2):
        gpu.ask("cublas", room=room)
        rows.append(run(gpu, tmp_path, name, 14, first=12))
        counts.append(products(gpu))
    gpu.ask("cublas", room=1 << 27)
    whole, parts = np.diff(counts)
    assert parts > 2 * whole
    np.testing.assert_array_equal(rows[0], rows[1])


def test_uploaded_weights_take_part(gpu: StandIn, tmp_path: Path) -> None:
    name, before = "llama-Q4_0", products(gpu)
    close(name, run(gpu, tmp_path, name, 14, first=12, n_gpu_layers=0, offload_min_batch=1))
    assert products(gpu) > before


@pytest.mark.parametrize("asked", [None, "0", "400"])
def test_never_and_not_yet_change_nothing(own: StandIn, tmp_path: Path, asked: str | None) -> None:
    """The library is turned off, or there are fewer tokens than it takes: the bits of a machine that has none."""
    name, given = "llama-Q4_0", {} if asked is None else {"GRAPHSCHED_CUDA_CUBLAS": asked}
    with StandIn(GS_FAKE_CUBLAS=fake_cublas(), **given) as other:
        rows = [run(process, tmp_path, name, 24, first=20) for process in (own, other)]
        assert products(other) == 0
    np.testing.assert_array_equal(rows[0], rows[1])


def test_a_number_of_tokens_is_needed() -> None:
    """Also where there is no library to use it."""
    main = ROOT / "graphsched" / "__main__.py"
    done = on_stand_in(main, "run", "--device", "CUDA0", "-p", "x", "-n", "1", GRAPHSCHED_CUDA_CUBLAS="many")
    words = "graphsched: GRAPHSCHED_CUDA_CUBLAS is many, a number of tokens is needed, or 0 for never\n"
    assert (done.returncode, done.stderr[-len(words) :]) == (2, words)


PRODUCT = """
import gpu_calls
import numpy as np
from graphsched.backends.cuda import driver
gpu = driver.open_gpu()
s = driver.new_stream(gpu)
m, n, k = 5, 12, 24
rng = np.random.default_rng(1)
x, w = (rng.standard_normal(shape).astype(np.float16) for shape in ((m, k), (n, k)))
at = {}
for name, a in (("x", x), ("w", w), ("y", np.zeros((m, 20), np.float32))):
    at[name] = gpu_calls.allocate(gpu, a.nbytes, s)
    gpu_calls.upload(at[name], a, s)
blas = driver.Cublas(driver.malloc(driver.CUBLAS_ROOM))
def product(k=k, skip=0, stride=20):
    return blas.prepared("f16", int(at["x"].handle) + skip, int(at["w"].handle), int(at["y"].handle), (m, n, k), stride)
"""


def product(tmp_path: Path, body: str) -> str:
    """`body` after PRODUCT; what it printed."""
    script = tmp_path / "script.py"
    script.write_text(PRODUCT + body)
    done = on_stand_in(script, GS_FAKE_CUBLAS=fake_cublas())
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_rows_of_the_result_may_be_apart(tmp_path: Path) -> None:
    body = """
product()(s)
y = np.empty((m, 20), np.float32)
gpu_calls.download(at["y"], y, s)
want = x.astype(np.float64) @ w.astype(np.float64).T
print(np.abs(y[:, :n] - want).max() < 1e-5, (y[:, n:] == 0).all(), driver.cublas_version())
"""
    assert product(tmp_path, body) == "True True 13.1.0"


@pytest.mark.parametrize("given", ["k=12", "skip=8", "stride=8"])
def test_what_the_library_refuses_is_said(tmp_path: Path, given: str) -> None:
    """Rows that are not whole 16 bytes, x at an odd place, rows of y that overlap."""
    body = f"""
try:
    product({given})
except Exception as e:
    print(type(e).__name__, e)
"""
    want = "KernelError cublasLtMatmulAlgoGetHeuristic: not supported"
    assert product(tmp_path, body) == want


def test_a_graph_makes_a_product_again(tmp_path: Path) -> None:
    body = """
put, y = product(), np.empty((m, 20), np.float32)
put(s)
s.sync()
graph = driver.captured(s, put)
gpu_calls.upload(at["x"], x * 2, s)
driver.replay(graph, s)
gpu_calls.download(at["y"], y, s)
print(np.abs(y[:, :n] - 2 * x.astype(np.float64) @ w.astype(np.float64).T).max() < 1e-4)
driver.discard(graph)
"""
    assert product(tmp_path, body) == "True"


def test_calls() -> None:
    """A decoded part is as many threads as steps; a product is named for what it takes."""
    call = decode("q2_k", 0, 0, 4096, 64, 100, 512)
    assert isinstance(call, Call)
    assert (call.kernel, call.grid, call.args[2:]) == ("decode_q2_k", (7,), (4096, 64, 100, 512))
    assert Product("bf16", 0, 0, 0, 1, 4, 8, 4).kernel == "cublaslt_bf16"


def test_gpu_check_tries_the_library(tmp_path: Path) -> None:
    flags = "--sections", "cublas", "--only", "llama-Q4_0", "--minutes", "9"
    done, result = gpu_check(tmp_path, *flags, GS_FAKE_CUBLAS=fake_cublas())
    assert done.returncode == 0, done.stdout
    assert result["facts"]["cuBLASLt"] == "13.1.0"
    assert len(result["checks"]) >= 4
    assert all(c["passed"] for c in result["checks"])


def test_devices_tells_of_the_library() -> None:
    done = on_stand_in(ROOT / "graphsched" / "__main__.py", "devices", GS_FAKE_CUBLAS=fake_cublas())
    assert "cuBLASLt 13.1.0" in done.stdout
