"""Reference models and logits beside the checkout, or in a copied tree; tests that need them skip without them."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT / "shared" if (ROOT / "shared").is_dir() else ROOT.parent / "shared"


def shared(name: str) -> Path:
    """A file of the shared folder, or a skip with the reason."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"reference file {name} is not beside this checkout")
    return path
