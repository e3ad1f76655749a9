"""`graphsched models`: the architectures, what each needs, and what is missing."""

import json
from pathlib import Path

import click

from graphsched.cli.arguments import Command
from graphsched.cli.screen import show


@click.command(cls=Command, epilog="Example: graphsched models cohere2")
@click.argument("name", required=False)
@click.option("-m", "--model", "file", type=click.Path(path_type=Path), help="what this file has of it")
@click.option("--json", "as_json", is_flag=True, help="as JSON")
def command(name: str | None, file: Path | None, as_json: bool) -> None:
    """List the architectures; of NAME, or of the one of a file, all that it needs.

    That is keys, tensors, ops with the devices that have kernels for them, and what is kept of a sequence. Ops
    without a kernel run on the host. Tensors and ops are those of the test suite's models; of a file they are its own.
    """
    from graphsched.cli import architectures

    if name is None and file is None:
        rows = architectures.every()
        print(json.dumps(rows, indent=2)) if as_json else show(architectures.listed(rows))
        return
    found = architectures.of_file(file, name) if file else architectures.of_name(str(name))
    print(json.dumps(found, indent=2) if as_json else architectures.described(found))
