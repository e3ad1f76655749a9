"""Where NVIDIA's disassembler is."""

import shutil
import sys
from pathlib import Path


def disassembler() -> str | None:
    """nvdisasm, on the PATH or in NVIDIA's package."""
    found = (Path(p, "nvidia") for p in sys.path if p)
    return shutil.which("nvdisasm") or next((str(f) for p in found for f in p.glob("*/bin/nvdisasm")), None)
