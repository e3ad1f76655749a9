"""`graphsched synth`: a model file with real shapes and made-up weights."""

from pathlib import Path

import click

from graphsched.cli.arguments import Command
from graphsched.cli.screen import Screen


@click.command(cls=Command, epilog="Example: graphsched synth llama-1.1b llama.gguf --type Q4_K_M")
@click.argument("layout")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--type",
    "type_name",
    default="",
    metavar="TYPE",
    help="type of the matrices (default: Q4_0, of BitNet IQ2_BN, of gpt-oss MXFP4_MOE)",
)
@click.option("--layers", type=int, default=0, metavar="N", help="the first N layers only")
@click.option("--sparse", is_flag=True, help="leave a hole for the weights, all zero, which takes no space")
@click.option("--header-only", is_flag=True, help="end the file after the header, which is enough to plan")
@click.option("--force", is_flag=True, help="replace OUT if it exists")
def command(
    layout: str, out: Path, type_name: str, layers: int, sparse: bool, header_only: bool, force: bool
) -> None:
    """Write the GGUF file OUT with the shapes of LAYOUT and made-up weights.

    Layouts: llama-1.1b, llama-8b, qwen3-30b-a3b, deepseek-v2-lite, deepseek-v3, maverick, bitnet-2b,
    qwen3.5-35b-a3b, nemotron-3-nano-30b-a3b, qwen3-32b, qwen3-235b-a22b, qwen3-coder-480b-a35b,
    qwen3-next-80b-a3b, glm-4.5-air, glm-4.6, gpt-oss-20b, gpt-oss-120b, minimax-m2, kimi-k2, deepseek-v3.2,
    mistral-small-3.2, gemma-3-27b, seed-oss-36b, hunyuan-a13b, granite-4.0-h-small, lfm2-8b-a1b.
    """
    from graphsched.synth.model import Extent, write

    if sparse and header_only:
        raise click.UsageError("--sparse and --header-only exclude each other")
    screen = Screen()

    def progress(done: int, total: int) -> None:
        screen.progress("writing, MB", done // 10**6, total // 10**6)

    try:
        extent: Extent = "sparse" if sparse else "header" if header_only else "whole"
        write(layout, out, type_name, layers=layers, extent=extent, force=force, progress=progress)
    finally:
        screen.clear()
