"""Reference models and logits that live beside the checkout; tests that need them skip where they are absent."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


def shared(name: str) -> Path:
    """A file of the shared folder, or a skip with the reason."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"reference file {name} is not beside this checkout")
    return path
