"""`graphsched devices`: what this machine can compute on, or why not."""

import json
from dataclasses import asdict
from typing import Any

import click

from graphsched.cli.arguments import Command
from graphsched.cli.screen import show


@click.command(cls=Command, epilog="Example: graphsched devices --json")
@click.option("--json", "as_json", is_flag=True, help="as JSON")
def command(as_json: bool) -> None:
    """List the CPU with its features and threads, and the GPUs with memory, links and versions, or why there are none.

    The names in the first column are those that --device and -ot take.
    """
    found = facts()
    if as_json:
        print(json.dumps(found, indent=2))
        return
    cpu = found["cpu"]
    print(
        f"CPU    {cpu['name']}, {cpu['threads']} threads, {' '.join(cpu['features']) or 'no vector features'}"
    )
    if found["gpus"]:
        show(_table(found["gpus"]))
    else:
        print(f"GPU    none: {found['reason']}")
    print("versions: " + ", ".join(f"{what} {v}" for what, v in found["versions"].items()))


def facts() -> dict[str, Any]:
    """Everything as plain data."""
    from graphsched.run import device
    from graphsched.run.limits import usable_cores

    name, features = device.cpu_facts()
    return {
        "cpu": {"name": name, "threads": usable_cores(), "features": features},
        "gpus": [asdict(g) for g in device.gpus()],
        "reason": device.gpu_reason(),
        "versions": device.versions(),
    }


def _table(gpus: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("device", "model", "memory", "free", "architecture", "multiprocessors", "link"):
        table.add_column(title)
    for g in gpus:
        memory, free = (f"{g[n] / 1e9:.1f} GB" for n in ("memory", "free"))
        where = f"{g['bus']} {g['link']}".strip()
        table.add_row(
            g["name"], g["model"], memory, free, g["architecture"], str(g["multiprocessors"]), where
        )
    return table
