"""NVIDIA's disassembler: where it is, and what it says of a cubin."""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from graphsched.errors import OptionError


def disassembler() -> str | None:
    """nvdisasm, on the PATH or in NVIDIA's package."""
    found = (Path(p, "nvidia") for p in sys.path if p)
    return shutil.which("nvdisasm") or next((str(f) for p in found for f in p.glob("*/bin/nvdisasm")), None)


def disassembled(cubin: bytes) -> dict[str, str]:
    """The instructions of each kernel of a cubin, as text; OptionError where there is no nvdisasm."""
    program = disassembler()
    if program is None:
        raise OptionError("nvdisasm is not installed (pip install nvidia-cuda-nvdisasm)")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as f:
        f.write(cubin)
        f.flush()
        text = subprocess.run([program, "-c", f.name], capture_output=True, text=True, check=True).stdout
    bodies = re.split(r"\.text\.(\w+):\n", text)[1:]
    return dict(zip(bodies[::2], bodies[1::2], strict=True))
