"""`graphsched convert`: checkpoints of other programs to GGUF."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphsched.cli.arguments import Command
from graphsched.cli.screen import Screen
from graphsched.cli.values import Number

if TYPE_CHECKING:
    from graphsched.convert.recipes import Recipe
    from graphsched.types.dtypes import DType


@click.command(
    cls=Command, epilog="Example: graphsched convert ./bitnet-b1.58-2B-4T bitnet.gguf --outtype i2_s"
)
@click.argument("checkpoint", metavar="IN", type=click.Path(path_type=Path))
@click.argument("out", required=False, type=click.Path(path_type=Path))
@click.option("--outfile", metavar="OUT", type=click.Path(path_type=Path), help="the same as OUT")
@click.option("--outtype", default="auto", metavar="TYPE", help="type of the matrices (default: auto)")
@click.option("--pre", metavar="NAME", help="pre-tokenizer, where tokenizer.json has one that is not known")
@click.option("--vocab-only", is_flag=True, help="only the tokenizer and the keys, no tensors")
@click.option(
    "--split-max-tensors", metavar="N", type=Number(int, 1), help="write parts of at most N tensors"
)
@click.option("--split-max-size", metavar="N(M|G)", help="write parts of at most this size")
@click.option("--dry-run", is_flag=True, help="check everything and show the tensors, write nothing")
@click.option("-v", "--verbose", is_flag=True, help="list the tensors")
def command(checkpoint: Path, out: Path | None, outfile: Path | None, **values: Any) -> None:
    """Convert the checkpoint IN to the GGUF file OUT, tokenizer included.

    IN is a Hugging Face folder (config.json, weights, tokenizer files) of Llama, Mistral, Mixtral, Qwen2, Qwen3,
    Qwen3-MoE or BitNet (packed or master weights), or one of BitNet's checkpoints for GPUs (model_state_int2.pt,
    model_state_fp16.pt) with the tokenizer beside it. Weights are *.safetensors or pytorch_model*.bin, plain or
    quantised as compressed-tensors (int8, int4, fp8) or fp8. All of it is checked before anything is written.

    TYPE is auto (the checkpoint's own), f32, f16, bf16, q8_0, tq1_0, tq2_0, iq1_bn, iq2_bn or i2_s. All other
    types are for graphsched quantize.
    """
    from graphsched.convert.model import plan
    from graphsched.convert.write import write
    from graphsched.gguf.copy import parse_size

    target = _target(out, outfile)
    most, size = values["split_max_tensors"] or 0, values["split_max_size"]
    if most and size:
        raise click.UsageError("there is one limit of a part, --split-max-tensors or --split-max-size")
    size = parse_size("--split-max-size", size) if size else 0
    screen = Screen(verbose=values["verbose"])
    # Everything is read and checked before OUT is touched: a bad checkpoint leaves nothing behind.
    conversion = plan(checkpoint, values["outtype"].lower(), values["pre"], vocab_only=values["vocab_only"])
    for note in conversion.notes:
        screen.say(note)
    if values["dry_run"]:
        print("\n".join(_line(recipe, dtype) for recipe, dtype in conversion.tensors.values()))
        return
    if target is None:
        raise click.UsageError("missing argument 'OUT'")

    def begin(recipe: "Recipe", dtype: "DType") -> None:
        screen.detail(_line(recipe, dtype))

    def progress(done: int, total: int) -> None:
        screen.progress("converting, million weights", done // 10**6, total // 10**6)

    try:
        write(conversion, target, most=most, size=size, begin=begin, progress=progress)
    finally:  # an error is printed on a line of its own, not behind the progress
        screen.clear()


def _target(out: Path | None, outfile: Path | None) -> Path | None:
    if out is not None and outfile is not None:
        raise click.UsageError("there is one output file, OUT or --outfile")
    return out or outfile


def _line(recipe: "Recipe", dtype: "DType") -> str:
    return f"{recipe.name:36} {dtype.name:6} {list(recipe.shape)}"
