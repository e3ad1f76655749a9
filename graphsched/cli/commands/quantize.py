"""`graphsched quantize`: a model file with fewer bits per weight."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from graphsched.cli.arguments import Command
from graphsched.cli.screen import Screen
from graphsched.cli.values import Number
from graphsched.errors import OptionError

if TYPE_CHECKING:
    from graphsched.gguf.given import Given
    from graphsched.gguf.loader import ModelFile
    from graphsched.quantize.choose import Choice, QuantizeOptions, TypeRule
    from graphsched.quantize.imatrix import Importance

_MIB = 1 << 20
# ik_llama.cpp's flags for the type of one kind of tensor
_PARTS: Final = {
    "attn-q-type": "attn_q",
    "attn-k-type": "attn_k",
    "attn-v-type": "attn_v",
    "attn-qkv-type": "attn_qkv",
    "attn-output-type": "attn_output",
    "ffn-gate-type": "ffn_gate(_exps)?",
    "ffn-down-type": "ffn_down(_exps)?",
    "ffn-up-type": "ffn_up(_exps)?",
}


def _typed_parts(command: Callable[..., Any]) -> Callable[..., Any]:
    for flag, part in reversed(_PARTS.items()):
        name = part.partition("(")[0]
        command = click.option(f"--{flag}", metavar="TYPE", help=f"type of {name}.weight in all layers")(
            command
        )
    return command


@click.command(cls=Command, epilog="Example: graphsched quantize model-f16.gguf model-q4_k_m.gguf Q4_K_M")
@click.argument("model", metavar="IN", type=click.Path(path_type=Path))
@click.argument("rest", metavar="[OUT] TYPE [NTHREADS]", nargs=-1)
@click.option(
    "--imatrix", type=click.Path(path_type=Path), metavar="FILE", help="importance matrix (.dat or GGUF)"
)
@click.option(
    "--include-weights", multiple=True, metavar="TEXT", help="use it only for tensors with TEXT in the name"
)
@click.option("--exclude-weights", multiple=True, metavar="TEXT", help="do not use it for these")
@click.option("--token-embedding-type", metavar="TYPE", help="type of token_embd.weight")
@click.option(
    "--output-tensor-type", metavar="TYPE", help="type of output.weight, or of a tied token_embd.weight"
)
@click.option(
    "--custom-q",
    "--tensor-type",
    "custom_q",
    multiple=True,
    metavar="REGEX=TYPE,...",
    help="type of the tensors that a pattern finds; the first pattern counts",
)
@click.option(
    "--tensor-type-file", metavar="FILE", help="file of such rules, parted by white space or commas"
)
@_typed_parts
@click.option("--pure", is_flag=True, help="one type for all matrices, no mix")
@click.option("--allow-requantize", is_flag=True, help="also from types that are quantised already")
@click.option("--leave-output-tensor", is_flag=True, help="leave output.weight as it is")
@click.option("--i2s-arm", is_flag=True, help="I2_S in IN has the layout of ARM: 64 weights in 16 bytes")
@click.option("--keep-split", is_flag=True, help="as many parts as IN has, OUT-00001-of-0000N.gguf and so on")
@click.option(
    "--override-kv",
    multiple=True,
    metavar="KEY=TYPE:VALUE",
    help="metadata instead of the file's; repeatable",
)
@click.option("--dry-run", is_flag=True, help="show types and size, write nothing")
@click.option("-v", "--verbose", is_flag=True, help="say what happens to each tensor")
def command(model: Path, rest: tuple[str, ...], imatrix: Path | None, **values: Any) -> None:
    """Quantise the GGUF file IN to OUT (ggml-model-TYPE.gguf beside IN), NTHREADS threads working on it.

    TYPE is F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q2_K_S, Q3_K_S, Q3_K_M, Q3_K_L, Q4_K_S, Q4_K_M,
    Q5_K_S, Q5_K_M, Q6_K, IQ4_NL, IQ4_XS, MXFP4, MXFP4_MOE, TQ1_0, TQ2_0, IQ1_BN, IQ2_BN, IQ2_BN_R4, I2_S, or COPY
    to take all tensors over. Norms, biases and routers stay as they are. Rows that the blocks of a type do not
    divide get one with smaller blocks: Q2_K, Q3_K and TQ become Q4_0, IQ4_XS IQ4_NL, Q4_K Q5_0, Q5_K Q5_1, Q6_K
    Q8_0; where that does not fit either, F16.
    """
    from graphsched.gguf.loader import open_model
    from graphsched.gguf.override import parse_overrides
    from graphsched.quantize.choose import choose
    from graphsched.quantize.model import write
    from graphsched.session.options import usable_cores

    out, type, threads = _arguments(model, rest)
    options, given = _options(type, imatrix, values)
    screen = Screen(verbose=values["verbose"])
    with open_model(model, overrides=parse_overrides(values["override_kv"])) as file:
        choices = choose(file, options)
        _say_what_is_unused(file, choices, options, given, screen)

        def begin(i: int, choice: "Choice") -> None:
            screen.detail(f"[{i + 1:4}/{len(choices):4}] {_line(choice)}")

        def progress(done: int, total: int) -> None:
            screen.progress("quantising, million weights", done // 10**6, total // 10**6)

        try:
            if values["dry_run"]:
                print("\n".join(map(_line, choices)))
            else:
                threads = threads or usable_cores()
                split = values["keep_split"]
                write(
                    file,
                    out,
                    choices,
                    options,
                    threads=threads,
                    keep_split=split,
                    begin=begin,
                    progress=progress,
                )
        finally:
            screen.clear()
        screen.say(_summary(choices))


def _arguments(model: Path, rest: tuple[str, ...]) -> tuple[Path, str, int | None]:
    """OUT, TYPE and NTHREADS; as in llama-quantize OUT may be left out, if what follows IN is the name of a type."""
    from graphsched.quantize.choose import is_mix

    if len(rest) > 3:
        raise click.UsageError(f"got unexpected extra argument ({rest[3]})")
    if rest and is_mix(rest[0]) and not (len(rest) > 1 and is_mix(rest[1])):
        rest = (str(model.with_name(f"ggml-model-{rest[0].upper()}.gguf")), *rest)
    if len(rest) < 2:
        raise click.UsageError(f"missing argument '{'TYPE' if rest else 'OUT'}'")
    threads = None
    if rest[2:]:
        try:
            threads = int(Number(int, 1).convert(rest[2], None, None))
        except click.UsageError as e:
            raise click.UsageError(f"invalid value for '[NTHREADS]': {e.message}") from None
    return Path(rest[0]), rest[1], threads


def _say_what_is_unused(
    file: "ModelFile",
    choices: "tuple[Choice, ...]",
    options: "QuantizeOptions",
    given: "tuple[Given, ...]",
    screen: Screen,
) -> None:
    """One line for what was given and has no effect, one for each gap of the importance matrix."""
    from graphsched.gguf.given import Given, unused
    from graphsched.quantize.choose import rules_used
    from graphsched.quantize.imatrix import coverage

    given = (*given, *rules_used(file, options))
    if options.importance is not None:
        quantised = [c for c in choices if not c.is_copied and c.dtype.block > 1]
        searched = {c.source.name: c.source.shape for c in quantised}
        given = (*given, Given(f"--imatrix {options.importance.file}", len(searched)))
        for note in coverage(options.importance, searched, file.tensors):
            screen.say(note)
    if sentence := unused(given):
        screen.say(sentence)


def _options(
    type: str, imatrix: Path | None, values: dict[str, Any]
) -> "tuple[QuantizeOptions, tuple[Given, ...]]":
    """The options, and what was given about the importance matrix with the entries that it is about."""
    from graphsched.quantize import choose
    from graphsched.quantize.imatrix import read_importance

    def named(flag: str) -> Any:
        text = values[flag.removeprefix("--").replace("-", "_")]
        return None if text is None else choose.parse_type(flag, text)

    include, exclude = values["include_weights"], values["exclude_weights"]
    importance: Importance | None = None
    given: tuple[Given, ...] = ()
    if imatrix is not None:
        importance, given = read_importance(imatrix).only(include, exclude)
    elif include or exclude:
        raise OptionError("--include-weights and --exclude-weights are about an --imatrix, there is none")
    options = choose.QuantizeOptions(
        mix=choose.parse_mix(type),
        token_embedding=named("--token-embedding-type"),
        output_tensor=named("--output-tensor-type"),
        custom=_rules(values),
        is_pure=values["pure"],
        allow_requantize=values["allow_requantize"],
        leave_output=values["leave_output_tensor"],
        is_arm=values["i2s_arm"],
        importance=importance,
    )
    return options, given


def _rules(values: dict[str, Any]) -> "tuple[TypeRule, ...]":
    """The user's rules: patterns first, then a file's, then the flags that name a kind of tensor."""
    from graphsched.cli.commands.run import read_text
    from graphsched.quantize.choose import parse_custom

    found = parse_custom("--custom-q", values["custom_q"])
    if (name := values["tensor_type_file"]) is not None:
        found += parse_custom(f"--tensor-type-file {name}:", tuple(read_text(name).split()))
    for flag, part in _PARTS.items():
        if (kind := values[flag.replace("-", "_")]) is not None:
            (rule,) = parse_custom(f"--{flag}", (rf"\.{part}\.weight$={kind}",))
            found += (replace(rule, text=f"--{flag} {kind}"),)
    return found


def _line(choice: "Choice") -> str:
    """One tensor as llama-quantize lists it, its shape innermost first."""
    from graphsched.gguf.format import shown

    info = choice.source
    dims = ", ".join(f"{d:5}" for d in info.shape[::-1])
    line = f"{shown(info.name):36} - [{dims}], type = {info.dtype.name.lower():>6}, "
    size = f"size = {info.nbytes / _MIB:8.3f} MiB"
    if choice.is_copied:
        return line + size
    new = choice.dtype.tensor_bytes(info.shape)
    why = "" if choice.dtype is choice.wanted else f" (rows of {info.shape[-1]} do not fit {choice.wanted})"
    return f"{line}converting to {choice.dtype.name.lower()}{why}, {size} -> {new / _MIB:8.3f} MiB"


def _summary(choices: "tuple[Choice, ...]") -> str:
    """Size before and after, bits per weight, and how many tensors did not get the type they should."""
    import math

    weights = sum(math.prod(c.source.shape) for c in choices)
    old, new = (
        sum(c.source.nbytes for c in choices),
        sum(c.dtype.tensor_bytes(c.source.shape) for c in choices),
    )
    lines = [
        f"model size  = {old / _MIB:9.2f} MiB ({8 * old / weights:.2f} BPW)",
        f"quant size  = {new / _MIB:9.2f} MiB ({8 * new / weights:.2f} BPW)",
    ]
    if fallbacks := sum(c.dtype is not c.wanted for c in choices):
        lines.append(
            f"{fallbacks} of {len(choices)} tensors have rows that do not fit their type and got another one"
        )
    return "\n".join(lines)
