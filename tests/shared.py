"""Reference files beside the checkout, or in a copied tree: an additional suite, marked `reference`.

Without them the tests that carry the mark are left out, and the summary says so in one line (conftest.py).
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from tiny.files import MODELS, QUANTS

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT / "shared" if (ROOT / "shared").is_dir() else ROOT.parent / "shared"
HERE = SHARED.is_dir()
FILES = {name: f"conformance/{name}-f16" for name in MODELS} | {name: f"quants/{name}" for name in QUANTS}


def shared(name: str) -> Path:
    """A file of the folder, for a test marked `reference`; FileNotFoundError if it has none of that name."""
    path = SHARED / name
    if not path.exists():
        raise FileNotFoundError(f"{name} is not among the reference files in {SHARED}")
    return path


def references(names: Iterable[str]) -> list[Any]:
    """Parameters: the reference file of each tiny model."""
    return [pytest.param(FILES[name], marks=pytest.mark.reference) for name in names]


def with_references(names: Iterable[str]) -> list[Any]:
    """Parameters: tiny models, then the reference files of the same names."""
    return [*names, *references(names)]
