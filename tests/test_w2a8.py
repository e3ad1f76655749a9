"""W2A8: what pack() writes, rows of several matrices with their scales, the same bits for any grid and batch."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_emu.emulator import EmulatedTarget
from cuda_emu.values import Array, Out, normal
from cuda_emu.w2a8s import SHAPES, expected, matrix, product_case, quantised_tokens
from needs import needs_gxx

from graphsched.backends.cuda import driver
from graphsched.backends.cuda.families import w2a8
from graphsched.backends.cuda.launch import ternary_tiles
from graphsched.errors import ShapeError


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(8)


def test_a_tile_is_laid_out_as_the_kernel_says(rng: np.random.Generator) -> None:
    weights = rng.integers(-1, 2, (40, 260)).astype(np.int8)
    packed = ternary_tiles.pack(weights)
    assert packed.nbytes == ternary_tiles.nbytes(40, 260) == 48 * 384 // 4
    for row, column in rng.integers(0, (40, 260), (400, 2)).tolist():
        r, c = row % 16, column % 128
        lane, word = r % 8 * 4 + c % 64 // 16, c // 64 * 2 + r // 8
        at = (row // 16 * 3 + column // 128) * 512 + lane * 16 + word * 4 + c % 4
        assert (int(packed[at]) >> (2 * (c % 16 // 4)) & 3) - 1 == weights[row, column]


@pytest.mark.parametrize(("rows", "k"), [(1, 4), (16, 128), (37, 516), (640, 2560)])
def test_unpack_inverts_pack(rows: int, k: int, rng: np.random.Generator) -> None:
    weights = rng.integers(-1, 2, (rows, k)).astype(np.int8)
    assert np.array_equal(ternary_tiles.unpack(ternary_tiles.pack(weights), rows, k), weights)


def test_each_matrix_of_wqkv_has_its_own_scale() -> None:
    scales = ternary_tiles.row_scales(3840, ((2560, 1.0), (640, 2.0), (640, 3.0)))
    assert [scales[i] for i in (0, 1280, 2559, 2560, 3199, 3200, 3839)] == [1, 1, 1, 2, 2, 3, 3]
    guessed = np.array([1.0, 2.0, 3.0])[np.arange(3840) // (3840 // 3)]  # an index by equal thirds
    assert (guessed != scales).sum() == 1280 + 640  # half of q gets k's scale, and k gets v's


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ternary_tiles.row_scales(10, ((4, 1.0), (5, 1.0))), "4 \\+ 5 rows are not 10"),
        (lambda: ternary_tiles.row_scales(4, ((4, 1.0), (0, 1.0))), "4 \\+ 0 rows are not 4"),
        (lambda: ternary_tiles.pack(np.full((16, 128), 2, np.int8)), "must be a matrix of -1, 0 and 1"),
        (lambda: w2a8.product(0, 0, 0, 0, 0, 1, 8, 130), "k = 130 must be a multiple of 4"),
        (lambda: w2a8.product(0, 0, 0, 0, 0, 1, 8, 1 << 18), "at most 131072"),
    ],
)
def test_what_is_refused(make: Any, words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        make()


@needs_gxx
def test_bits_do_not_depend_on_grid_split_or_batch(rng: np.random.Generator) -> None:
    rows, k, tokens = 72, 1024, 33
    weights, scales = matrix(rows, k, (40, 32), rng)
    q, ds = quantised_tokens(normal(rng, tokens, k))
    packed, want = ternary_tiles.pack(weights), expected(weights, scales, q, ds)

    def run(first: int, n: int, seed: int, split: int | None) -> Array:
        y = Out(n, rows)
        batch = q[first : first + n].copy(), ds[first : first + n].copy()
        EmulatedTarget(seed).run(w2a8.product(packed, scales, *batch, y, n, rows, k, split=split))
        return y.array

    for n in (1, 2, 3, 4, 6, 8, 11, 16, 17, 33):
        for split in (1, 2, 8):
            first = int(rng.integers(tokens - n + 1))
            got = run(first, n, seed=n * 8 + split, split=split)
            assert np.array_equal(got.view(np.uint32), want[first : first + n].view(np.uint32)), (n, split)


@needs_gxx
def test_largest_sums_are_exact() -> None:
    """Every product has the same sign: the sum is 127 · k."""
    rows, k = 16, ternary_tiles.MOST
    q, y = np.full((1, k), 127, np.int8), Out(1, rows)
    ds = np.array([[1.0, 127.0 * k]], np.float32)
    ones = np.ones(rows, np.float32)
    EmulatedTarget().run(
        w2a8.product(ternary_tiles.pack(np.ones((rows, k), np.int8)), ones, q, ds, y, 1, rows, k)
    )
    assert (y.array == 127 * k).all()


@needs_gxx
@pytest.mark.slow
@pytest.mark.parametrize("tokens", [1, 16])
@pytest.mark.parametrize("shape", SHAPES, ids=[f"{n}x{k}" for n, k, _ in SHAPES])
def test_full_shapes(shape: tuple[int, int, tuple[int, ...]], tokens: int, rng: np.random.Generator) -> None:
    rows, k, parts = shape
    got, want, _ = product_case(k, parts, tokens)(EmulatedTarget(3), rng)
    assert got.shape == (tokens, rows)
    assert np.array_equal(got, want)


# ---- tools/bench/bench_w2a8.py


def bench(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).resolve().parents[1] / "tools" / "bench" / "bench_w2a8.py"
    command = [sys.executable, str(script), *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **env})


@pytest.mark.skipif(driver.probe() is None, reason="a GPU can be used here")
@needs_gxx
def test_bench_without_a_card_checks_on_the_emulator() -> None:
    done = bench()
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(
        r"No timings, because no GPU can be used: .*\.\n(\d+) of \1 W2A8 checks passed on the emulator\n",
        done.stdout,
    )


@pytest.mark.skipif(driver.probe() is None, reason="a GPU can be used here")
def test_bench_without_card_or_compiler_checks_in_numpy(tmp_path: Path) -> None:
    done = bench("--small", PATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "2 of 2 shapes are exact in numpy" in done.stdout
