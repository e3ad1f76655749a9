"""`graphsched tokenize`: the tokens of a text, as a model file's vocabulary has them."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from graphsched.cli import flags
from graphsched.cli.arguments import Command
from graphsched.cli.texts import is_piped, read_text
from graphsched.cli.tokens import listed, pieces
from graphsched.cli.values import FileName
from graphsched.errors import OptionError

if TYPE_CHECKING:
    from graphsched.gguf.override import Override
    from graphsched.text.tokenizer import Tokenizer


@click.command(cls=Command, epilog="Example: graphsched tokenize -m model.gguf -p 'Once upon a time' --ids")
@click.option("-m", "--model", type=FileName(), help="GGUF file (default: the embedded model)")
@click.option("-p", "--prompt", metavar="TEXT", help="the text")
@click.option("-f", "--file", metavar="FILE", help="read the text from a file, - being standard input")
@click.option("--stdin", "from_stdin", is_flag=True, help="read the text from standard input")
@click.option("--ids", is_flag=True, help="only the ids, as a list")
@click.option("--json", "as_json", is_flag=True, help="ids and texts as JSON")
@click.option("--show-count", is_flag=True, help="also say how many there are")
@click.option("--no-bos", is_flag=True, help="no token that begins a text")
@click.option("--no-parse-special", is_flag=True, help="texts of control tokens are ordinary text")
@flags.overriding
def command(
    model: Path | None,
    prompt: str | None,
    file: str | None,
    from_stdin: bool,
    ids: bool,
    as_json: bool,
    show_count: bool,
    no_bos: bool,
    no_parse_special: bool,
    override_kv: "tuple[Override, ...]",
) -> None:
    """Show the tokens of a text: each id and what it stands for, a line each."""
    from graphsched.gguf.given import unused
    from graphsched.gguf.loader import open_model
    from graphsched.session.model import DEFAULT_MODEL
    from graphsched.text.tokenizer import from_metadata

    text = _text(prompt, "-" if from_stdin else file)
    # The header has the vocabulary: no weights are needed.
    with open_model(model or DEFAULT_MODEL, header_only=True, overrides=override_kv) as opened:
        tokenizer = from_metadata(opened.metadata, opened.path.name)
        notes = [*tokenizer.notes, unused(opened.overrides())]
    tokens = tokenizer.encode(text, add_special=not no_bos, parse_special=not no_parse_special)
    if tokenizer.begins_twice(tokens):
        notes.append(
            "the text begins with its own BOS, and so there are two; --no-bos leaves the other one out"
        )
    for note in filter(None, notes):  # not on stdout, which scripts parse
        print(note, file=sys.stderr)
    print(_shown(tokenizer, tokens, ids=ids, as_json=as_json))
    if show_count:
        print(f"Total number of tokens: {len(tokens)}")


def _text(prompt: str | None, file: str | None) -> str:
    if prompt is None and file is None and is_piped():
        file = "-"
    if (prompt is None) == (file is None):
        raise OptionError("there is one text, -p, -f or --stdin")
    return read_text(file) if file is not None else prompt or ""


def _shown(tokenizer: "Tokenizer", tokens: list[int], *, ids: bool, as_json: bool) -> str:
    if as_json:
        rows = [{"id": i, "text": text} for i, text in zip(tokens, pieces(tokenizer, tokens), strict=True)]
        return json.dumps(rows, ensure_ascii=False)
    return json.dumps(tokens) if ids else listed(tokenizer, tokens)
