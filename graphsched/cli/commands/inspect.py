"""`graphsched inspect`: what is in a model file."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from graphsched.cli import flags
from graphsched.cli.arguments import Command
from graphsched.cli.screen import show

if TYPE_CHECKING:
    from graphsched.gguf.override import Override


@click.command(cls=Command, epilog="Example: graphsched inspect model.gguf --json")
@click.argument("file", type=click.Path(path_type=Path))
@flags.overriding
@click.option("--json", "as_json", is_flag=True, help="as JSON, long arrays shortened")
def command(file: Path, override_kv: "tuple[Override, ...]", as_json: bool) -> None:
    """Show metadata and tensors of a GGUF FILE, or of all its parts if it is split."""
    from graphsched.cli.inspect import render, summary
    from graphsched.gguf.loader import open_model

    with open_model(file, overrides=override_kv) as model:
        data = summary(model)
    if as_json:
        print(json.dumps(data, indent=2, allow_nan=False))
    else:
        show(render(data))
