"""The flags -o and --json of the commands whose table has columns of numbers only."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click

from graphsched.cli.tables import WRITERS, Column, Row, aligned
from graphsched.cli.values import OneOf

Function = Callable[..., Any]
Write = Callable[[Iterable[Row]], None]


def output_format(table: str, columns: Mapping[str, Column]) -> Callable[[Function], Function]:
    """A decorator that adds the flags; the command receives `write`, which prints rows. table: the table's name."""
    formats = (table, "csv", "json", "jsonl")
    names, shown = OneOf(*formats), "|".join(formats)

    def add(command: Function) -> Function:
        @click.option(
            "-o",
            "--output-format",
            "output",
            type=names,
            metavar=shown,
            default=table,
            help=f"(default: {table})",
        )
        @click.option("--json", "as_json", is_flag=True, help="the same as -o json")
        @functools.wraps(command)
        def with_output(output: str, as_json: bool, **values: Any) -> Any:
            def write(rows: Iterable[Row]) -> None:
                kind = "json" if as_json else output
                aligned(rows, columns) if kind == table else WRITERS[kind](rows, ())

            return command(write=write, **values)

        return with_output

    return add
