"""Small GGUF files written piece by piece, so that tests can break any piece."""

import struct
from collections.abc import Sequence
from pathlib import Path

UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = range(13)
SCALARS = {
    UINT8: "<B",
    INT8: "<b",
    UINT16: "<H",
    INT16: "<h",
    UINT32: "<I",
    INT32: "<i",
    FLOAT32: "<f",
    BOOL: "<?",
    UINT64: "<Q",
    INT64: "<q",
    FLOAT64: "<d",
}


def string(text: str | bytes, length: int | None = None) -> bytes:
    """A string; `length` is a false length."""
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def value(kind: int, v: object) -> bytes:
    return string(v) if isinstance(v, str | bytes) else struct.pack(SCALARS[kind], v)


def key(name: str | bytes, kind: int, v: object) -> bytes:
    return string(name) + struct.pack("<I", kind) + value(kind, v)


def array(name: str, kind: int, items: Sequence[object], length: int | None = None) -> bytes:
    n = len(items) if length is None else length
    return string(name) + struct.pack("<IIQ", ARRAY, kind, n) + b"".join(value(kind, v) for v in items)


def tensor(name: str | bytes, dims: Sequence[int], type_id: int, offset: int = 0) -> bytes:
    """A tensor's entry; dimensions innermost first, as in the file."""
    head = string(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
    return head + struct.pack("<IQ", type_id, offset)


def gguf(
    keys: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_keys: int | None = None,
    n_tensors: int | None = None,
    alignment: int = 32,
) -> bytes:
    """A file; `n_keys` and `n_tensors` are false counts."""
    counts = (len(tensors) if n_tensors is None else n_tensors, len(keys) if n_keys is None else n_keys)
    head = magic + struct.pack("<IQQ", version, *counts) + b"".join(keys) + b"".join(tensors)
    return head + b"\0" * (-len(head) % alignment) + data if data else head


def small() -> bytes:
    """A valid file with every kind of metadata and four tensors, less than 1 KB."""
    keys = [
        key("general.architecture", STRING, "llama"),
        key("llama.block_count", UINT32, 1),
        key("llama.rope.freq_base", FLOAT32, 10000.0),
        key("tokenizer.ggml.add_bos_token", BOOL, True),
        array("tokenizer.ggml.tokens", STRING, ["<s>", b"\xff\xfe", "é"]),
        array("tokenizer.ggml.scores", FLOAT32, [0.0, -1.5, 2.0]),
        array("flags", BOOL, [True, False]),
    ]
    tensors = [
        tensor("token_embd.weight", (32, 2), 2),
        tensor("norm.weight", (3,), 0, 64),
        tensor("half.weight", (2, 2), 1, 96),
        tensor("blk.0.ffn_up.weight", (64, 1), 135, 128),
    ]
    parts = (bytes(range(36)), struct.pack("<3f", 1, 2, 3), struct.pack("<4e", 1, 2, 3, 4))
    data = b"".join(p.ljust(n, b"\0") for p, n in zip(parts, (64, 32, 32), strict=True))
    return gguf(keys, tensors, data + struct.pack("<f", 0.5) + b"\x55" * 16)


def write(folder: Path, data: bytes, name: str = "x.gguf") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def split(folder: Path, count: int = 3, **changes: object) -> list[Path]:
    """Parts with one tensor each; `changes` are no_1, count_1, total_0 (false keys) and name_1 (tensor)."""
    paths = []
    for no in range(count):
        keys = [
            key("split.no", UINT16, changes.get(f"no_{no}", no)),
            key("split.count", UINT16, changes.get(f"count_{no}", count)),
            key("split.tensors.count", INT32, changes.get(f"total_{no}", count)),
        ]
        head = [key("general.architecture", STRING, "llama")] if no == 0 else []
        entry = tensor(str(changes.get(f"name_{no}", f"t{no}")), (8,), 0)
        data = gguf(head + keys, [entry], struct.pack("<8f", *[no] * 8))
        paths.append(write(folder, data, f"m-{no + 1:05}-of-{count:05}.gguf"))
    return paths
