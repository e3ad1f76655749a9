"""Machine descriptions for tests: devices that differ only in their memory."""

from collections.abc import Sequence
from pathlib import Path

PROCESSOR = """name = "{name}"
memory_bytes = {memory}
bandwidth = 50e9
launch_us = 1
rates = {{ f32 = 1e12, f16 = 1e12, bf16 = 1e12, int8 = 2e12 }}
"""
LINK = "link = { up = 12e9, down = 13e9, latency_us = 10 }\n"


def machine_file(folder: Path, memory: Sequence[int], host: int = 10**12) -> str:
    """A described machine whose devices have so many bytes each; the name of its file."""
    parts = ['name = "made"\n[host]\n' + PROCESSOR.format(name="cpu", memory=host)]
    parts += ["[[device]]\n" + PROCESSOR.format(name="gpu", memory=size) + LINK for size in memory]
    path = folder / f"m{len(list(folder.glob('*.toml')))}.toml"
    path.write_text("".join(parts))
    return str(path)
