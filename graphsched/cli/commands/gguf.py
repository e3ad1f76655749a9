"""`graphsched gguf`: model files split, merged and with other metadata; their tensors stay as they are."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from graphsched.cli.arguments import Command, no_such
from graphsched.cli.screen import Screen
from graphsched.cli.values import Number
from graphsched.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from graphsched.gguf.format import MetaValue
    from graphsched.gguf.loader import ModelFile
    from graphsched.gguf.override import Override

_PATH = click.Path(path_type=Path)


class _Group(click.Group):
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands:
            raise click.UsageError(
                no_such("command", f"gguf {args[0]}", [f"gguf {c}" for c in self.commands])
            )
        return super().resolve_command(ctx, args)


@click.group(cls=_Group, epilog="Example: graphsched gguf split model.gguf model --split-max-size 4G")
def command() -> None:
    """Split, merge or edit GGUF files. Tensors are copied as they are."""


@command.command(cls=Command, epilog="Example: graphsched gguf split model.gguf model --split-max-size 4G")
@click.argument("model", metavar="IN", type=_PATH)
@click.argument("out", metavar="OUT", type=_PATH)
@click.option(
    "--split-max-tensors", metavar="N", type=Number(int, 1), help="tensors of a part (default: 128)"
)
@click.option(
    "--split-max-size", metavar="N(M|G)", help="largest size of a part, instead of a number of tensors"
)
@click.option("--no-tensor-first-split", is_flag=True, help="the first part has metadata only")
@click.option("--dry-run", is_flag=True, help="show the parts, write nothing")
def split(
    model: Path,
    out: Path,
    split_max_tensors: int | None,
    split_max_size: str | None,
    no_tensor_first_split: bool,
    dry_run: bool,
) -> None:
    """Split IN into OUT-00001-of-0000N.gguf and so on."""
    from graphsched.gguf import copy
    from graphsched.gguf.loader import open_model

    if split_max_tensors and split_max_size:
        raise OptionError("there is one limit of a part, --split-max-tensors or --split-max-size")
    size = copy.parse_size("--split-max-size", split_max_size) if split_max_size else 0
    most = 0 if size else split_max_tensors or 128
    with open_model(model) as file:
        groups = copy.groups_of(
            file.tensors.values(), most=most, size=size, empty_first=no_tensor_first_split
        )
        for no, group in enumerate(groups):
            nbytes = sum(t.nbytes for t in group)
            print(f"{copy.shard_path(out, no, len(groups))}: {len(group)} tensors, {nbytes / 1e6:.1f} MB")
        if not dry_run:
            screen = Screen()
            copy.split(file, out, groups, lambda done, total: screen.progress("writing, parts", done, total))


@command.command(cls=Command, epilog="Example: graphsched gguf merge model-00001-of-00003.gguf model.gguf")
@click.argument("model", metavar="IN", type=_PATH)
@click.argument("out", metavar="OUT", type=_PATH)
@click.option("--dry-run", is_flag=True, help="show what would be written, write nothing")
def merge(model: Path, out: Path, dry_run: bool) -> None:
    """Merge the parts of which IN is any one into OUT."""
    from graphsched.gguf import copy
    from graphsched.gguf.loader import open_model

    with open_model(model) as file:
        copy.check_not_read(file, [out])
        tensors = list(file.tensors.values())
        size = sum(t.nbytes for t in tensors) / 1e6
        print(f"{out}: {len(tensors)} tensors of {len(file.parts)} parts, {size:.1f} MB")
        if not dry_run:
            _write(file, out, copy.kept_metadata(file))


@command.command(
    "set", cls=Command, epilog="Example: graphsched gguf set a.gguf b.gguf tokenizer.ggml.pre=str:qwen2"
)
@click.argument("model", metavar="IN", type=_PATH)
@click.argument("out", metavar="OUT", type=_PATH)
@click.argument("rules", metavar="[KEY=TYPE:VALUE]...", nargs=-1)
@click.option("--remove", multiple=True, metavar="KEY", help="leave a key out; repeatable")
@click.option("--chat-template-file", metavar="FILE", type=_PATH, help="the text of tokenizer.chat_template")
@click.option("--force", is_flag=True, help="OUT may exist, and may be IN")
@click.option("--dry-run", is_flag=True, help="show the changes, write nothing")
def set_(
    model: Path,
    out: Path,
    rules: tuple[str, ...],
    remove: tuple[str, ...],
    chat_template_file: Path | None,
    force: bool,
    dry_run: bool,
) -> None:
    """Write OUT with the tensors of IN and other metadata; TYPE is int, float, bool or str.

    A number keeps the type that its key has in IN, where that can hold it.
    """
    from graphsched.gguf import copy
    from graphsched.gguf.loader import open_model

    sets = [*_sets(rules), *_template(chat_template_file)]
    if not sets and not remove:
        raise OptionError("there is nothing to change, KEY=TYPE:VALUE or --remove KEY says what")
    with open_model(model) as file:
        metadata, lines = copy.changed_metadata(file, sets, remove)
        print("\n".join(lines))
        if dry_run:
            return
        if out.exists() and not force:
            raise OptionError(f"{out}: exists already, --force replaces it")
        _write(file, out, metadata)


def _sets(rules: tuple[str, ...]) -> "tuple[Override, ...]":
    from graphsched.gguf.override import parse_overrides

    return parse_overrides(rules, "gguf set")


def _template(path: Path | None) -> "list[Override]":
    from graphsched.cli.texts import read_text
    from graphsched.gguf.override import Override

    if path is None:
        return []
    key = "tokenizer.chat_template"
    return [Override(key, read_text(str(path)), f"{key}=str:{path}")]


def _write(file: "ModelFile", out: Path, metadata: "Mapping[str, MetaValue | bytes]") -> None:
    from graphsched.gguf.copy import write_copy

    screen = Screen()

    def progress(done: int, total: int) -> None:
        screen.progress("writing, MB", done // 10**6, total // 10**6)

    try:
        write_copy(file, out, metadata, list(file.tensors.values()), progress)
    finally:
        screen.clear()
