"""Writes what each architecture needs, found from the test suite's models: python tools/architectures_page.py.

Files: graphsched/data/architectures.json, which `graphsched models` reads, and docs/architectures.md.
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
    PAGE.write_text(page(record), encoding="utf-8")


if __name__ == "__main__":
    main(registry.names())
