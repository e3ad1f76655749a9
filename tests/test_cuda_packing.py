"""Weights on their way to a GPU: packed bytes are those of the numpy reference, whole or in pieces that share slots."""

import ctypes
import json
from dataclasses import dataclass
from typing import Any

import bench_repack
import numpy as np
import pytest
from cuda_emu.repacked import repack, tiles
from cuda_emu.values import file_bytes
from numpy.typing import NDArray
from running import model_path

from graphsched.backends.cuda.launch.layout import LAYOUTS
from graphsched.backends.cuda.launch.weights import BLOCKS, packed_bytes
from graphsched.backends.cuda.packing.pieces import Packing, as_it_is, packing
from graphsched.backends.cuda.packing.threads import pack, packed
from graphsched.backends.cuda.stream import upload
from graphsched.backends.cuda.stream.upload import Uploads
from graphsched.errors import ShapeError
from graphsched.gguf.loader import open_model
from graphsched.graph.tensor import TensorType
from graphsched.session.model import DEFAULT_MODEL
from graphsched.types import dtypes

Raw = NDArray[np.uint8]
TERNARY = ("iq1_bn", "iq2_bn")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(21)


def of(kind: str, *shape: int) -> TensorType:
    return TensorType(dtypes.by_name(kind.upper()), shape)


def by_reference(raw: Raw, type: TensorType) -> Raw:
    rows, k = type.shape[-2:]
    write = tiles if len(type.shape) == 2 and BLOCKS[type.dtype] in TERNARY else repack
    matrices = raw.reshape(type.numel // (rows * k), -1)
    return np.concatenate([write(BLOCKS[type.dtype], m, rows, k) for m in matrices])


def junk(nbytes: int) -> Raw:
    return np.full(nbytes, 0xA5, np.uint8)


def in_pieces(raw: Raw, how: Packing, most: int) -> Raw:
    """Packed piece by piece through staging memory that holds what was there before."""
    how.compile()
    out, slot = junk(how.nbytes), junk(most)
    written = np.zeros(how.nbytes, np.uint8)
    for piece in how.pieces(most):
        how.write(piece, raw.ctypes.data, [slot.ctypes.data + run.staged for run in piece.runs])
        for run in piece.runs:
            size = run.nbytes + run.zeros
            assert run.staged + size <= most
            out[run.at : run.at + size] = slot[run.staged : run.staged + size]
            written[run.at : run.at + size] += 1
    assert (written == 1).all()
    return out


@pytest.mark.target
@pytest.mark.parametrize("kind", LAYOUTS)
def test_bytes_are_those_of_the_reference(kind: str, rng: np.random.Generator) -> None:
    """Odd numbers of rows, one matrix and several; any bytes, also scales that are no numbers if they stay halves."""
    for shape in ((1, 256), (37, 768), (3, 5, 512), (16, 16, 256)):
        type = of(kind, *shape)
        raw = rng.integers(0, 256, type.nbytes, dtype=np.uint8)
        if kind in TERNARY:
            raw = file_bytes(kind, type.numel // shape[-1], shape[-1], rng)
        want = by_reference(raw, type)
        np.testing.assert_array_equal(packed(raw, type), want)
        np.testing.assert_array_equal(in_pieces(raw, packing(type), 6000), want)
        assert packed_bytes(type) == want.size


@pytest.mark.parametrize("kind", [k for k in LAYOUTS if k not in TERNARY])
def test_usual_blocks_and_blocks_of_zeros(kind: str, rng: np.random.Generator) -> None:
    """Codes do not depend on the scale, so that one of 0 is nothing special."""
    type = of(kind, 9, 1024)
    raw = file_bytes(kind, 9, 1024, rng)
    raw.reshape(9, -1)[3] = 0
    np.testing.assert_array_equal(packed(raw, type), by_reference(raw, type))


@pytest.mark.target
@pytest.mark.parametrize("kind", TERNARY)
@pytest.mark.parametrize(("rows", "k"), [(1, 64), (15, 128), (16, 192), (37, 2560), (130, 320)])
def test_tiles(kind: str, rows: int, k: int, rng: np.random.Generator) -> None:
    """What fills up the last tiles is zero weights, in rows and in columns."""
    raw, type = file_bytes(kind, rows, k, rng), of(kind, rows, k)
    want = tiles(kind, raw, rows, k)
    np.testing.assert_array_equal(packed(raw, type), want)
    np.testing.assert_array_equal(in_pieces(raw, packing(type), 24000), want)


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("shape", [(7,), (3, 8), (5, 129), (2, 3, 77), (4, 1)])
def test_rows_of_floats_fill_whole_16_bytes(
    kind: str, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    type = of(kind, *shape)
    raw = rng.integers(0, 256, type.nbytes, dtype=np.uint8)
    want = raw
    if len(shape) > 1:
        lines = raw.reshape(-1, shape[-1] * type.dtype.nbytes)
        want = np.pad(lines, ((0, 0), (0, -lines.shape[1] % 16))).reshape(-1)
    np.testing.assert_array_equal(packed(raw, type), want)
    np.testing.assert_array_equal(in_pieces(raw, packing(type), 1500), want)


QUANTS = [
    "llama-Q4_K_M",
    "llama-Q2_K",
    "llama-TQ2_0",
    "llama-IQ4_NL",
    "llama-IQ3_S",
    "bitnet-iq1_bn",
    "bitnet-25-iq2_bn",
]


@pytest.mark.parametrize("name", QUANTS)
def test_tensors_of_models(name: str) -> None:
    with open_model(model_path(name)) as model:
        found = 0
        for info in model.tensors.values():
            if info.dtype in BLOCKS and len(info.shape) > 1:
                type, raw = TensorType(info.dtype, info.shape), model.raw(info.name)
                np.testing.assert_array_equal(packed(raw, type), by_reference(raw, type))
                found += 1
        del raw
    assert found > 7


def test_what_does_not_fit_is_refused() -> None:
    type = of("q4_0", 1, 32)
    with pytest.raises(ShapeError, match="17 bytes are not 18"):
        packed(np.zeros(17, np.uint8), type)
    with pytest.raises(ShapeError, match="no whole blocks of 32"):
        packing(of("q4_0", 1, 48))
    with pytest.raises(ShapeError, match=r"more than the .* that are staged at once"):
        list(packing(of("f16", 2, 4097)).pieces(4096))


# ---- slots


class Late:
    """A link that copies no earlier than somebody waits for it."""

    def __init__(self) -> None:
        self.queued: list[tuple[int, int, int]] = []
        self.done = 0

    def send(self, to: int, host: int, nbytes: int) -> None:
        self.queued.append((to, host, nbytes))

    def record(self) -> "Event":
        return Event(self, len(self.queued))

    def sync(self) -> None:
        self.until(len(self.queued))

    def until(self, end: int) -> None:
        for to, host, n in self.queued[self.done : end]:
            ctypes.memmove(to, host, n)
        self.done = max(self.done, end)


@dataclass(frozen=True)
class Event:
    link: Late
    end: int

    def sync(self) -> None:
        self.link.until(self.end)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Late:
    monkeypatch.setattr(upload, "SLOT", 20000)
    monkeypatch.setattr(upload, "SLOTS", 3)
    return Late()


TENSORS = [
    of("q4_k", 3, 33, 512),
    of("f32", 100),
    of("iq2_bn", 130, 320),
    of("q8_0", 257, 64),
    of("f16", 9, 33),
]


def test_slots_are_filled_again_only_when_they_were_sent(late: Late, rng: np.random.Generator) -> None:
    """Weights of many pieces, one after the other: no more staging memory than the slots, and the right bytes."""
    allocated: list[int] = []
    uploads = Uploads(late, lambda n: allocated.append(n) or junk(n))  # type: ignore[func-returns-value]
    both: list[tuple[Raw, Raw]] = []
    for type in TENSORS * 3:
        raw = rng.integers(0, 256, type.nbytes, dtype=np.uint8)
        to = junk(packed_bytes(type))
        uploads.send(to.ctypes.data, raw, packing(type))
        both.append((to, packed(raw, type)))
    assert not all(np.array_equal(*pair) for pair in both)  # the last ones are under way
    uploads.settle()
    for got, want in both:
        np.testing.assert_array_equal(got, want)
    assert allocated == [3 * 20000]
    uploads.close()


def test_an_upload_that_ends_early_leaves_no_thread_at_work(late: Late) -> None:
    """Slots may be freed when `close` returns; what was not sent never is."""
    slots = junk(0)

    def allocate(nbytes: int) -> Raw:
        nonlocal slots
        slots = junk(nbytes)
        return slots

    uploads = Uploads(late, allocate)
    type = of("q6_k", 40, 256)
    uploads.send(junk(packed_bytes(type)).ctypes.data, np.zeros(type.nbytes, np.uint8), packing(type))
    uploads.close()
    before = slots.copy()
    pack(as_it_is(4096), junk(4096), junk(4096))  # the threads have nothing older to do
    np.testing.assert_array_equal(slots, before)


def test_constants_stay_as_they_are(late: Late, rng: np.random.Generator) -> None:
    raw = rng.integers(0, 256, 50001, dtype=np.uint8)
    to, uploads = junk(raw.size), Uploads(late, junk)
    uploads.send(to.ctypes.data, raw, as_it_is(raw.size))
    uploads.send(to.ctypes.data, raw[:0], as_it_is(0))
    uploads.settle()
    np.testing.assert_array_equal(to, raw)


def test_a_failure_of_a_thread_is_told(late: Late, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(Packing, "write", fail)
    uploads = Uploads(late, junk)

    def load() -> None:
        uploads.send(0, junk(64), as_it_is(64))
        uploads.settle()

    with pytest.raises(RuntimeError, match="no"):
        load()
    uploads.close()


# ---- tools/bench/bench_repack.py


@pytest.mark.parametrize("flags", [("--type", "Q4_K", "--mb", "1"), ("-m", str(DEFAULT_MODEL), "--cold")])
def test_the_bench_measures(flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_repack.main([*flags, "-r", "2", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert len(rows) == 2
    assert all(row["gb_s"] > 0 and row["gb_cpu_s"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--type", "Q9"), "--type Q9: there are F32, F16"),
        (("-r", "0"), "-r 0: at least one round is needed"),
        (("--type", "Q4_0", "--mb", "0.001"), "--mb: not one row of 4096 weights of Q4_0"),
        (("-m", "nowhere.gguf"), "nowhere.gguf"),
    ],
)
def test_what_the_bench_refuses(
    flags: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench_repack.main(flags) == 2
    assert words in capsys.readouterr().err
