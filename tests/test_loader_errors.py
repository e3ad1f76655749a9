"""Model files: the sentence that each bad one gives, and that nothing else ever comes out."""

import io
import json
import os
import struct
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import gguf_files as g
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from graphsched.cli.inspect import render, summary
from graphsched.errors import LoadError
from graphsched.gguf.loader import ModelFile, open_model

SMALL = g.small()


def sentence(path: Path, *, header_only: bool = False) -> str:
    with pytest.raises(LoadError) as caught:
        open_model(path, header_only=header_only)
    return str(caught.value)


def with_alignment(n: int) -> bytes:
    return g.gguf([g.key("general.alignment", g.UINT32, n)], [g.tensor("w", (8,), 0)], bytes(32))


def one_tensor(dims: tuple[int, ...], type_id: int, offset: int = 0, data: int = 64) -> bytes:
    return g.gguf([], [g.tensor("w", dims, type_id, offset)], bytes(data))


HUGE = 2**64 - 1
K = g.key("k", g.UINT32, 1)
BAD = {
    "text": (b"hello", "not a GGUF file, it starts with the bytes 68 65 6c 6c"),
    "one byte": (b"G", "not a GGUF file, it starts with the bytes 47"),
    "magic": (g.gguf(magic=b"GGML"), "not a GGUF file, it starts with the bytes 47 47 4d 4c"),
    "only magic": (b"GGUF", "the file ends inside the header, 4 bytes short"),
    "cut header": (g.gguf()[:13], "the file ends inside the header, 3 bytes short"),
    "version 0": (g.gguf(version=0), "GGUF version 0, versions 2 and 3 can be read"),
    "version 1": (g.gguf(version=1), "GGUF version 1, versions 2 and 3 can be read"),
    "version 4": (g.gguf(version=4), "GGUF version 4, versions 2 and 3 can be read"),
    "big endian": (g.gguf(version=3 << 24), "a big-endian GGUF file, only little-endian ones can be read"),
    "keys": (g.gguf([K], n_keys=9), "9 metadata keys do not fit into the 17 bytes behind the header"),
    "huge keys": (
        g.gguf([K], n_keys=HUGE),
        f"{HUGE} metadata keys do not fit into the 17 bytes behind the header",
    ),
    "huge tensors": (
        g.gguf([K], n_tensors=HUGE),
        f"{HUGE} tensors do not fit into the 17 bytes behind the header",
    ),
    "no key": (
        g.gguf([g.key("k" * 20, g.UINT32, 1)], n_keys=2) + bytes(5),
        "the file ends inside the name of metadata key 2 of 2, 3 bytes short",
    ),
    "key name": (
        g.gguf([g.string("k", HUGE) + bytes(8)]),
        f"the file ends inside the name of metadata key 1 of 1, {HUGE - 9} bytes short",
    ),
    "key name bytes": (g.gguf([g.key(b"k\n\xff", g.BOOL, 1)] * 2), r"key k\n\udcff appears twice"),
    "key twice": (g.gguf([K, K]), "key k appears twice"),
    "value type": (
        g.gguf([g.string("k") + struct.pack("<II", 13, 0)]),
        "key k has the unknown value type 13",
    ),
    "cut value": (g.gguf([g.key("k", g.UINT64, 1)])[:-3], "the file ends inside key k, 3 bytes short"),
    "string length": (
        g.gguf([g.string("k") + struct.pack("<I", g.STRING) + g.string("abc", 2**40)]),
        f"the file ends inside key k, {2**40 - 3} bytes short",
    ),
    "array type": (
        g.gguf([g.string("k") + struct.pack("<IIQ", g.ARRAY, 99, 0)]),
        "key k is an array of the unknown value type 99",
    ),
    "array of arrays": (
        g.gguf([g.string("k") + struct.pack("<IIQ", g.ARRAY, g.ARRAY, 0)]),
        "key k is an array of arrays, which cannot be read",
    ),
    "numbers": (
        g.gguf([g.array("k", g.FLOAT32, [1.0], 2**61)]),
        f"the file ends inside key k (an array of {2**61}), {2**63 - 4} bytes short",
    ),
    "strings": (
        g.gguf([g.array("k", g.STRING, ["a"], 2**61)]),
        f"the file ends inside key k (an array of {2**61}), {2**64 - 9} bytes short",
    ),
    "one string": (
        g.gguf([g.array("k", g.STRING, ["a", "b"])])[:-1],
        "the file ends inside key k (an array of 2), 1 byte short",
    ),
    "strings run out": (
        g.gguf([g.array("k", g.STRING, ["abcdefgh", ""])])[:-8],
        "the file ends inside key k (an array of 2), 8 bytes short",
    ),
    "length of a string": (
        g.gguf([g.string("k") + struct.pack("<IIQ", g.ARRAY, g.STRING, 2) + g.string("", HUGE) + bytes(8)]),
        f"the file ends inside key k (an array of 2), {HUGE - 8} bytes short",
    ),
    "alignment 0": (with_alignment(0), "key general.alignment is 0, a power of two from 8 up is needed"),
    "alignment 7": (with_alignment(7), "key general.alignment is 7, a power of two from 8 up is needed"),
    "alignment 24": (with_alignment(24), "key general.alignment is 24, a power of two from 8 up is needed"),
    "alignment 2^31": (
        with_alignment(2**31),
        f"tensor w ends {2**31 + 32 - 128} bytes past the end of the file",
    ),
    "alignment text": (
        g.gguf([g.key("general.alignment", g.STRING, "32")]),
        "key general.alignment is a string, an integer is needed",
    ),
    "no entry": (
        g.gguf([], [g.tensor("w" * 20, (1,), 0)], n_tensors=2) + bytes(5),
        "the file ends inside the name of tensor 2 of 2, 3 bytes short",
    ),
    "cut entry": (
        g.gguf([], [g.tensor("w", (1,), 0)])[:-1],
        "the file ends inside the entry of tensor w, 1 byte short",
    ),
    "tensor twice": (
        g.gguf([], [g.tensor("w", (8,), 0), g.tensor("w", (8,), 0, 32)], bytes(64)),
        "tensor w appears twice",
    ),
    "5 dimensions": (one_tensor((1,) * 5, 0), "tensor w has 5 dimensions, at most 4 are possible"),
    "2^31 dimensions": (
        g.gguf([], [g.string("w") + struct.pack("<I", 2**31) + bytes(64)]),
        "tensor w has 2147483648 dimensions, at most 4 are possible",
    ),
    "dimension 0": (one_tensor((4, 0), 0), "tensor w has a dimension of 0 in its shape [0, 4]"),
    "overflow": (one_tensor((2**32, 2**32), 0), "tensor w: its size or offset overflows 64 bits"),
    "overflow of bytes": (one_tensor((2**62,), 0), "tensor w: its size or offset overflows 64 bits"),
    "overflow of offset": (one_tensor((8,), 0, 2**63), "tensor w: its size or offset overflows 64 bits"),
    "row": (one_tensor((33, 2), 2), "tensor w: Q4_0: a row of 33 is not a multiple of the block length 32"),
    "row of a scalar": (
        one_tensor((), 2),
        "tensor w: Q4_0: a row of 1 is not a multiple of the block length 32",
    ),
    "rows": (one_tensor((32, 6), 202), "tensor w: Q4_0_R8: 6 rows are not a multiple of the group of 8"),
    "type": (one_tensor((32,), 4), "tensor w: type id 4 is unknown"),
    "huge type": (one_tensor((32,), 2**32 - 1), "tensor w: type id 4294967295 is unknown"),
    "offset": (one_tensor((4,), 0, 17), "tensor w: offset 17 is not a multiple of the alignment 32"),
    "overlap": (
        g.gguf([], [g.tensor("b", (8,), 0, 32), g.tensor("a", (9,), 0)], bytes(64)),
        "tensors a and b overlap by 4 bytes",
    ),
    "same place": (
        g.gguf([], [g.tensor("a", (8,), 0), g.tensor("b", (8,), 0)], bytes(64)),
        "tensors a and b overlap by 32 bytes",
    ),
    "cut data": (one_tensor((16,), 0)[:-1], "tensor w ends 1 byte past the end of the file"),
    "no data": (g.gguf([], [g.tensor("w", (16,), 0)]), "tensor w ends 71 bytes past the end of the file"),
    "far away": (one_tensor((8,), 0, 2**40), f"tensor w ends {2**40 - 32} bytes past the end of the file"),
    "tensor name": (
        one_tensor((3,), 2).replace(b"w", b"\x1b"),
        r"tensor \x1b: Q4_0: a row of 3 is not a multiple of the block length 32",
    ),
    "long name": (
        g.gguf([], [g.tensor("w" * 500, (3,), 99)], bytes(32)),
        f"tensor {'w' * 77}...: type id 99 is unknown",
    ),
    "split name": (
        g.gguf([g.key("split.count", g.UINT16, 2)]),
        "is a part of 2 but is not named NAME-00001-of-00002.gguf",
    ),
    "split text": (
        g.gguf([g.key("split.count", g.STRING, "2")]),
        "key split.count is a string, an integer is needed",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_file(tmp_path: Path, name: str) -> None:
    data, expected = BAD[name]
    assert sentence(g.write(tmp_path, data)) == f"x.gguf: {expected}"


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (g.string("k", 2**30)[:8], "the name of metadata key 1 of 1"),
        (g.string("k") + struct.pack("<IQ", g.STRING, 2**30), "key k"),
        (g.array("k", g.UINT8, [], 2**30), f"key k (an array of {2**30})"),
        (g.array("k", g.STRING, [], 2**27), f"key k (an array of {2**27})"),
    ],
)
def test_sparse_file_takes_no_memory(tmp_path: Path, head: bytes, expected: str) -> None:
    path = g.write(tmp_path, g.gguf([head]))
    os.truncate(path, 2**31)
    tracemalloc.start()
    said = sentence(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert said == f"x.gguf: {expected} ends behind the 268435456 bytes that a header may have"
    assert peak < 4_000_000


def test_not_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing, fifo, empty = tmp_path / "missing.gguf", tmp_path / "fifo", g.write(tmp_path, b"", "empty.gguf")
    assert sentence(missing) == f"{missing}: no such file or directory"
    assert sentence(empty / "x") == f"{empty / 'x'}: not a directory"
    assert sentence(tmp_path) == f"{tmp_path}: is a directory, a GGUF file is needed"
    assert sentence(empty) == f"{empty}: the file is empty"
    assert sentence(Path("a\0b")) == "a\\x00b: is not a possible file name"
    if hasattr(os, "mkfifo"):
        os.mkfifo(fifo)
        assert sentence(fifo) == f"{fifo}: is not a regular file"

    def denied(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = g.write(tmp_path, SMALL)
    monkeypatch.setattr(Path, "open", denied)
    assert sentence(path) == f"{path}: permission denied"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"no_1": 2}, "m-00002-of-00003.gguf: key split.no is 2, its place among the parts says 1"),
        ({"count_1": 2}, "m-00002-of-00003.gguf: key split.count is 2, its place among the parts says 3"),
        ({"count_0": 4}, "m-00001-of-00003.gguf: key split.count is 4, the file name says 3"),
        ({"name_2": "t0"}, "m-00003-of-00003.gguf: tensor t0 is also in m-00001-of-00003.gguf"),
        ({"total_0": 5}, "m-00001-of-00003.gguf: key split.tensors.count is 5, the parts hold 3"),
    ],
)
def test_bad_split(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    assert sentence(g.split(tmp_path, **changes)[0]) == expected


def test_missing_and_broken_parts(tmp_path: Path) -> None:
    paths = g.split(tmp_path)
    paths[1].write_bytes(b"GGUF")
    assert sentence(paths[0]) == "m-00002-of-00003.gguf: the file ends inside the header, 4 bytes short"
    paths[1].unlink()
    assert sentence(paths[2]) == "m-00003-of-00003.gguf: part 2 of 3 is missing, m-00002-of-00003.gguf"
    paths[2].write_bytes(SMALL)
    paths[1].write_bytes(SMALL)
    assert sentence(paths[0]) == "m-00002-of-00003.gguf: key split.no is -1, its place among the parts says 1"


def exercise(m: ModelFile) -> None:
    """Everything that commands do with a file that opens."""
    with m:
        for name in m.tensors:
            assert m.raw(name).nbytes == m.tensors[name].nbytes
            with suppress(LoadError):  # a type that can be listed but not dequantised
                assert m.array(name).shape == m.tensors[name].shape
        data = summary(m)
        json.dumps(data, allow_nan=False)
        Console(file=io.StringIO(), width=100).print(render(data))


def survives(path: Path, data: bytes) -> None:
    """Opens or gives one sentence, in little memory."""
    path.write_bytes(data)
    said = f"{path.name}: "
    tracemalloc.start()
    try:
        exercise(open_model(path))
    except LoadError as e:
        said = str(e)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert said.isprintable()
    assert said.startswith(f"{path.name}: ")
    assert peak < 4_000_000


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "x.gguf"


def test_every_truncation(scratch: Path) -> None:
    header = SMALL.index(bytes(range(36)))
    for n in range(len(SMALL)):
        scratch.write_bytes(SMALL[:n])
        assert sentence(scratch).isprintable()
        if n < header - 32:
            assert sentence(scratch, header_only=True).isprintable()
    scratch.write_bytes(SMALL[:header])
    open_model(scratch, header_only=True).close()


@settings(max_examples=250, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_changed_bytes(scratch: Path, changes: list[tuple[int, int]]) -> None:
    data = bytearray(SMALL)
    for at, byte in changes:
        data[at] = byte
    survives(scratch, bytes(data))


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, len(SMALL) - 8), number=st.integers(0, 2**64 - 1), cut=st.integers(0, 40))
def test_changed_counts(scratch: Path, at: int, number: int, cut: int) -> None:
    survives(scratch, (SMALL[:at] + struct.pack("<Q", number) + SMALL[at + 8 :])[: len(SMALL) - cut])


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=300))
def test_random_bytes(scratch: Path, data: bytes) -> None:
    survives(scratch, b"GGUF\3\0\0\0" + data)
