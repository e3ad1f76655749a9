"""`graphsched convert`: checkpoints of other programs to GGUF."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from graphsched.cli.commands.arguments import Command
from graphsched.cli.commands.screen import Screen

if TYPE_CHECKING:
    from graphsched.convert.recipes import Recipe
    from graphsched.types.dtypes import DType


@click.command(
    cls=Command, epilog="Example: graphsched convert ./bitnet-b1.58-2B-4T bitnet.gguf --outtype i2_s"
)
@click.argument("checkpoint", metavar="IN", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--outtype", default="auto", metavar="TYPE", help="type of the matrices (default: auto)")
@click.option("--pre", metavar="NAME", help="pre-tokenizer, where tokenizer.json has one that is not known")
@click.option("-v", "--verbose", is_flag=True, help="list the tensors")
def command(checkpoint: Path, out: Path, outtype: str, pre: str | None, verbose: bool) -> None:
    """Convert the checkpoint IN to the GGUF file OUT, tokenizer included.

    IN is a Hugging Face folder (config.json, *.safetensors, tokenizer files) of Llama, Mistral, Mixtral, Qwen2,
    Qwen3, Qwen3-MoE or BitNet (packed or master weights), or one of BitNet's checkpoints for GPUs
    (model_state_int2.pt, model_state_fp16.pt) with the tokenizer beside it.

    TYPE is auto (the checkpoint's own), f32, f16, bf16, q8_0, tq1_0, tq2_0, iq1_bn, iq2_bn or i2_s. All other
    types are for graphsched quantize.
    """
    from graphsched.convert.model import plan, write

    screen = Screen(verbose=verbose)

    def begin(recipe: "Recipe", dtype: "DType") -> None:
        screen.detail(f"{recipe.name:36} {dtype.name:6} {list(recipe.shape)}")

    def progress(done: int, total: int) -> None:
        screen.progress("converting, million weights", done // 10**6, total // 10**6)

    try:
        write(plan(checkpoint, outtype.lower(), pre), out, begin=begin, progress=progress)
    finally:
        screen.clear()
