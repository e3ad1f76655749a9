"""Machine descriptions for tests: devices that differ only in their memory."""

import re
from collections.abc import Sequence
from pathlib import Path

SHIPPED = Path(__file__).resolve().parents[1] / "graphsched" / "data" / "machines"

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


def cards(folder: Path, memory: Sequence[int], host: int = 10**12) -> str:
    """The machine with an RTX 4090, with as many of them as sizes of their memory; the name of its file."""
    head, card = (SHIPPED / "rtx4090.toml").read_text().split("[[device]]\n")
    text = re.sub(r"memory_bytes = [\d_]+", f"memory_bytes = {host}", head)
    for size in memory:
        text += "[[device]]\n" + re.sub(r"memory_bytes = [\d_]+", f"memory_bytes = {size}", card)
    path = folder / f"cards{len(list(folder.glob('*.toml')))}.toml"
    path.write_text(text)
    return str(path)
