"""What architectures need, as `graphsched models` and docs/architectures.md show it, is what their graphs ask for."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from architectures_page import MEASURED, PAGE, needs, page
from gguf_files import STRING, gguf, key, write
from running import model_path

from graphsched.arch import registry
from graphsched.cli.architectures import recorded
from graphsched.session.needs import Needs, united

Run = Callable[..., tuple[int, str, str]]
OWN = sorted({*registry.names()} - {e.name for e in entry_points(group=registry.GROUP)})


@pytest.mark.parametrize("name", OWN)
def test_record(name: str) -> None:
    """Written by tools/architectures_page.py."""
    assert {k: tuple(v) for k, v in recorded()[name].items()} == asdict(needs(name))


def test_page() -> None:
    assert [*recorded()] == OWN
    record = {name: Needs(**{k: tuple(v) for k, v in row.items()}) for name, row in recorded().items()}
    assert PAGE.read_text(encoding="utf-8").partition(f"\n{MEASURED}")[0] == page(record)


def test_what_one_file_lacks_is_optional() -> None:
    first = Needs(("a", "b"), ("c",), ("ADD",), ("x",))
    second = Needs(("a", "c", "d"), (), ("MUL",), ())
    assert united(first, second) == Needs(("a",), ("b", "c", "d"), ("ADD", "MUL"), ("x",))


def test_models(run: Run) -> None:
    rows = {row["name"]: row for row in json.loads(run("models", "--json")[1])}
    assert [*rows] == registry.names()
    keys = {key["name"]: key["default"] for key in rows["cohere2"]["keys"]}
    assert (keys["cohere2.logit_scale"], keys["cohere2.attention.sliding_window_pattern"]) == (None, "4")
    assert rows["gpt2"]["ops"]["NORM"] == ["cpu", "cuda"]
    assert rows["llada"]["keeps"] == []
    assert rows["mamba"]["keeps"] == ["cache_r and cache_s as a state"]
    shown = run("models", "gpt2")[1]
    assert re.search(
        r"^required keys: gpt2\.block_count, .*gpt2\.attention\.layer_norm_epsilon", shown, re.MULTILINE
    )
    assert re.search(
        r"^tensors: .*\bblk\.N\.attn_qkv\.weight, .*\bposition_embd\.weight", shown, re.MULTILINE
    )


def test_models_of_a_file(run: Run, tmp_path: Path) -> None:
    model = str(model_path("gpt2"))
    assert "gpt2.gguf lacks: nothing\n" in run("models", "-m", model)[1]
    assert run("models", "llama", "-m", model) == (
        2,
        "",
        "graphsched: gpt2.gguf is of architecture gpt2, not llama\n",
    )
    path = write(tmp_path, gguf([key("general.architecture", STRING, "gpt2")]), "bare.gguf")
    lacks = json.loads(run("models", "-m", str(path), "--json")[1])["lacks"]
    assert "gpt2.attention.layer_norm_epsilon" in lacks


def test_unknown_models_are_told_the_nearest(run: Run) -> None:
    assert run("models", "qwen9") == (
        2, "", "graphsched: no such architecture qwen9; nearest are qwen, qwen3, qwen2\n",
    )  # fmt: skip
