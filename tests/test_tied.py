"""One matrix as embedding and output, stored once or twice: one copy where both are, another where only one is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import ONE, logits_in_pieces, reference

from graphsched.arch.stored import EMBEDDING, OUTPUT
from graphsched.gguf.loader import open_model
from graphsched.gguf.write import aligned, encode_header
from graphsched.graph.tensor import TensorType
from graphsched.predict.plan import make_plan
from graphsched.schedule.placement import PlacementOptions as P
from graphsched.session.model import Model
from graphsched.session.options import SessionOptions

TIED = ["qwen2", "qwen3", "gemma2", "gemma3", "bitnet"]
PLACES: dict[str, dict[str, Any]] = {
    "host": {},
    "output on the device": {"devices": ONE},
    "both on the device": {"devices": ONE, "placement": P(overrides=("token_embd=sim0",))},
    "output overridden": {"devices": ONE, "placement": P(overrides=("output=CPU",))},
    "embedding only": {"devices": ONE, "placement": P(overrides=("token_embd=sim0", "output=CPU"))},
}
COPIES = {"host": (0, 1), "output on the device": (1, 1), "both on the device": (1, 0)}
COPIES |= {"output overridden": (0, 1), "embedding only": (1, 1)}  # on the device, on the host


def stored_twice(tied: Path, path: Path) -> Path:
    """A tied model's file with the embedding once more, as output.weight."""
    file = open_model(tied)
    types = {t.name: TensorType(t.dtype, t.shape) for t in file.tensors.values()}
    types[OUTPUT] = types[EMBEDDING]
    raw = {name: bytes(file.raw(EMBEDDING if name == OUTPUT else name)) for name in types}
    data = b"".join(part.ljust(aligned(len(part)), b"\0") for part in raw.values())
    path.write_bytes(encode_header(dict(file.metadata), types) + data)
    return path


def bytes_of_matrix(path: Path, options: dict[str, Any]) -> tuple[int, int]:
    """Bytes of embedding and output that the plan counts on the device and on the host, in matrices."""
    model = Model(open_model(path))
    plan = make_plan(model, SessionOptions(n_ctx=64, **options), 1, 1, 1)
    held = [on for leaf, on in plan.resident() if leaf.name in (EMBEDDING, OUTPUT)]
    return held.count("sim0"), held.count("CPU")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", TIED)
def test_same_bits_and_no_copy_too_many(name: str, place: str, tmp_path: Path) -> None:
    ref = reference(name)
    twice = stored_twice(ref.model, tmp_path / "twice.gguf")
    expected = logits_in_pieces(ref.model, ref.tokens, 24)
    for path in (ref.model, twice):
        got = logits_in_pieces(path, ref.tokens, 24, poison=True, **PLACES[place])
        np.testing.assert_array_equal(got, expected)
        assert bytes_of_matrix(path, PLACES[place]) == COPIES[place]


def test_another_output_is_not_taken_for_the_embedding() -> None:
    model = Model(open_model(reference("llama").model))
    assert model.weights.stored_as(OUTPUT) == OUTPUT
