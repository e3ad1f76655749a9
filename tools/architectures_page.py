"""Writes what each architecture needs, found from the test suite's models: python tools/architectures_page.py.

Files: graphsched/data/architectures.json, which `graphsched models` reads, and docs/architectures.md. Where reference
files are there, its distances from another engine's logits are measured anew, else they stay.
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
from running import EXACT, logits_in_pieces, nmse  # noqa: E402
from shared import SHARED  # noqa: E402
from tiny import files  # noqa: E402

from graphsched.arch import registry  # noqa: E402
from graphsched.cli.architectures import RECORD  # noqa: E402
from graphsched.gguf.loader import open_model  # noqa: E402
from graphsched.session.model import Model  # noqa: E402
from graphsched.session.needs import Needs, needs_of, united  # noqa: E402

PAGE: Final = ROOT / "docs" / "architectures.md"
TOP: Final = """# Architectures

By their names in GGUF. Each is a file in `models/`, with a tiny model in the test suite whose logits are compared with
those of an independent forward pass. "Ops" are those that the graph of Llama does not have. `graphsched models NAME`
shows all that one needs. Written by `tools/architectures_page.py`.

| name | what | kept of a sequence | ops | lines |
|---|---|---|---|---|
"""


MEASURED: Final = "## Distance from llama.cpp"
UNDER: Final = f"""
{MEASURED}

NMSE of the logits, prompt of 24 tokens and 8 single ones apart, of the numpy reference with caches in float32. What is
near 1e-7 is GELU, which llama.cpp takes from a table of halves. The tests in `tests/test_tiny.py` have the limits.

| file | architecture | prompt | single tokens |
|---|---|---|---|
"""


def distances(folders: Iterable[Path]) -> str:
    """The table of all reference files whose architecture is known."""
    known, lines = {*registry.names()}, []
    for path in sorted(path for folder in folders for path in folder.glob("*.gguf")):
        with open_model(path) as file:
            architecture = str(file.metadata["general.architecture"])
        if architecture in known:
            data = np.load(path.with_suffix(".npz"))
            n, tokens, logits = int(data["n_prompt"]), data["tokens"], data["logits"]
            got = logits_in_pieces(path, tokens, n, backend="reference", **EXACT)
            prompt, single = nmse(got[:n], logits[:n]), nmse(got[n:], logits[n:])
            lines.append(f"| {path.stem} | `{architecture}` | {prompt:.0e} | {single:.0e} |\n")
    return UNDER + "".join(lines)


def models_of(architecture: str) -> list[str]:
    """The tiny models of an architecture in float types, which all have one graph."""
    named = {n: files.row(n).architecture for n in files.ALL if n not in files.QUANTS}
    return [name for name, found in named.items() if found == architecture]


def needs(architecture: str) -> Needs:
    """What its tiny models need together."""
    return reduce(united, (needs_of(Model(open_model(files.path(n)))) for n in models_of(architecture)))


def as_json(record: dict[str, Needs]) -> str:
    """The record as text."""
    return json.dumps({name: asdict(n) for name, n in record.items()}, indent=1) + "\n"


def page(record: dict[str, Needs]) -> str:
    """docs/architectures.md."""
    plain = {*record["llama"].ops}
    return TOP + "".join(_line(name, needs, plain) for name, needs in record.items())


def _line(name: str, needs: Needs, plain: set[str]) -> str:
    architecture = registry.get(name, name)
    module = sys.modules[architecture.build.__module__]
    lines = len(Path(str(module.__file__)).read_text(encoding="utf-8").splitlines())
    what = (module.__doc__ or "").strip().partition("\n")[0]
    more = ", ".join(f"`{op}`" for op in needs.ops if op not in plain)
    return f"| `{name}` | {what} | {'; '.join(needs.keeps) or 'nothing'} | {more} | {lines} |\n"


def main(names: Iterable[str]) -> None:
    record = {name: needs(name) for name in names}
    RECORD.write_text(as_json(record), encoding="utf-8")
    folders = [SHARED / name for name in ("arch_models", "llama_cpp_archs")]
    _, mark, there = PAGE.read_text(encoding="utf-8").partition(f"\n{MEASURED}")
    below = distances(folders) if folders[0].is_dir() else mark + there
    PAGE.write_text(page(record) + below, encoding="utf-8")


if __name__ == "__main__":
    main(registry.names())
