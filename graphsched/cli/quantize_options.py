"""Arguments and flags of `graphsched quantize` as options."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from graphsched.cli.values import Number
from graphsched.errors import OptionError

if TYPE_CHECKING:
    from graphsched.gguf.given import Given
    from graphsched.quantize.choose import QuantizeOptions, TypeRule
    from graphsched.quantize.imatrix import Importance

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


def type_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    for flag, part in reversed(_PARTS.items()):
        name = part.partition("(")[0]
        command = click.option(f"--{flag}", metavar="TYPE", help=f"type of {name}.weight in all layers")(
            command
        )
    return command


def arguments(model: Path, rest: tuple[str, ...]) -> tuple[Path, str, int | None]:
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


def options_of(
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


def renamed(options: "QuantizeOptions", names: Mapping[str, str]) -> "QuantizeOptions":
    """The options with an importance matrix that calls tensors as the new model does."""
    if options.importance is None or not names:
        return options
    return replace(options, importance=options.importance.renamed(names))


def _rules(values: dict[str, Any]) -> "tuple[TypeRule, ...]":
    """The user's rules: patterns first, then a file's, then the flags that name a kind of tensor."""
    from graphsched.cli.texts import read_text
    from graphsched.quantize.choose import parse_custom

    found = parse_custom("--custom-q", values["custom_q"])
    if (name := values["tensor_type_file"]) is not None:
        found += parse_custom(f"--tensor-type-file {name}:", tuple(read_text(name).split()))
    for flag, part in _PARTS.items():
        if (kind := values[flag.replace("-", "_")]) is not None:
            (rule,) = parse_custom(f"--{flag}", (rf"\.{part}\.weight$={kind}",))
            found += (replace(rule, text=f"--{flag} {kind}"),)
    return found
