"""Result rows as they arrive: the markdown of llama-bench, CSV, JSON, JSON lines, SQL."""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

Row = dict[str, Any]
Settings = Sequence[Mapping[str, Any]]  # those of all rows to come


class Column(NamedTuple):
    """A column of numbers: what rows call it, its width, and digits behind the point."""

    name: str
    width: int
    digits: int = 0


_WIDTHS: Final = {"model": 30, "size": 10, "params": 10, "backend": 10, "threads": 7, "test": 15, "t/s": 20}
_LEFT: Final = (
    "model",
    "backend",
    "type_k",
    "type_v",
    "devices",
    "overrides",
    "offload_policy",
    "split_mode",
)
_OWN: Final = ("n_ctx", "n_threads", "backend")  # in a column of their own, or follow from the tests


def markdown(rows: Iterable[Row], settings: Settings) -> None:
    """The table of llama-bench; settings only where they vary or are not the default."""
    shown = differing(settings)
    widths: dict[str, int] = {}
    for row in rows:
        cells = _cells(row, shown)
        if not widths:
            lengths = {n: max(len(_text(s[n])) for s in settings) for n in shown}
            widths = {n: max(len(n), len(c), _WIDTHS.get(n, 0), lengths.get(n, 0)) for n, c in cells.items()}
            print(_line({name: name for name in cells}, widths))
            print("|".join(["", *(_rule(name, width) for name, width in widths.items()), ""]))
        print(_line(cells, widths), flush=True)


def differing(settings: Settings) -> tuple[str, ...]:
    """Settings that are not the same in all rows, or not the default."""
    from graphsched.session.options import SessionOptions
    from graphsched.session.settings import settings as of

    default = of(SessionOptions())
    found = []
    for name in (n for n in settings[0] if n not in _OWN):
        values = {_as_asked(s, name, default) for s in settings}
        if len(values) > 1 or values != {default[name]}:
            found.append(name)
    return tuple(found)


def _as_asked(setting: Mapping[str, Any], name: str, default: Mapping[str, Any]) -> Any:
    """A setting; of a micro-batch the default, if that is only cut to the tokens that a batch and the context have."""
    if name == "n_ubatch":
        most = min(n for n in (default[name], setting["n_batch"], setting["n_ctx"]) if n > 0)
        return default[name] if setting[name] == most else setting[name]
    return setting[name]


def _cells(row: Row, shown: Iterable[str]) -> dict[str, str]:
    return {
        "model": f"{row['model_name']} {row['model_type']}",
        "size": _bytes(row["model_size"]),
        "params": _short(row["model_n_params"]),
        "backend": row["backend"],
        "threads": str(row["n_threads"]),
        **{name: _text(row[name]) for name in shown},
        "test": row["test"],
        "t/s": f"{row['avg_ts']:.2f} ± {row['stddev_ts']:.2f}",
    }


def _text(value: Any) -> str:
    return str(int(value) if isinstance(value, bool) else value).replace("|", "\\|")


def _bytes(n: int) -> str:
    return f"{n / 2**30:.2f} GiB" if n >= 2**30 else f"{n / 2**20:.2f} MiB"


def _short(n: int) -> str:
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if n >= unit:
            return f"{n / unit:.2f} {name}"
    return str(n)


def _line(cells: Mapping[str, str], widths: Mapping[str, int]) -> str:
    padded = (f"{c:<{widths[n]}}" if n in _LEFT else f"{c:>{widths[n]}}" for n, c in cells.items())
    return f"| {' | '.join(padded)} |"


def _rule(name: str, width: int) -> str:
    return f" {'-' * width} " if name in _LEFT else f" {'-' * width}:"


def aligned(rows: Iterable[Row], columns: Mapping[str, Column]) -> None:
    """The table of sweep-bench and batched-bench, which the scripts that plot it read; columns by their titles."""
    for i, row in enumerate(rows):
        if i == 0:
            print("|" + " | ".join(f"{title:>{c.width}}" for title, c in columns.items()) + " |")
            print("|" + "-|-".join("-" * c.width for c in columns.values()) + "-|")
        cells = (f"{row[c.name]:{c.width}.{c.digits}f}" for c in columns.values())
        print("|" + " | ".join(cells) + " |", flush=True)


def comma_separated(rows: Iterable[Row], settings: Settings = ()) -> None:
    """One line per row; the samples are in the JSON only."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    for i, row in enumerate(rows):
        flat = _flat(row)
        if i == 0:
            writer.writerow(flat)
        writer.writerow(flat.values())
        sys.stdout.flush()


def _flat(row: Row) -> Row:
    return {name: value for name, value in row.items() if not isinstance(value, list)}


def json_list(rows: Iterable[Row], settings: Settings = ()) -> None:
    """One list, valid also where an error ends the rows."""
    between = "[\n"
    try:
        for row in rows:
            text = json.dumps(row, indent=2, ensure_ascii=False)
            print(between + "\n".join(f"  {line}" for line in text.splitlines()), end="", flush=True)
            between = ",\n"
    finally:
        if between != "[\n":
            print("\n]", flush=True)


def json_object(data: Row) -> None:
    """Prints one object as indented JSON."""
    print(json.dumps(data, indent=1, ensure_ascii=False))


def json_lines(rows: Iterable[Row], settings: Settings = ()) -> None:
    """One object per line."""
    for row in rows:
        print(json.dumps(row, ensure_ascii=False), flush=True)


def sql(rows: Iterable[Row], settings: Settings = ()) -> None:
    """Statements that make the table `test` and fill it, as llama-bench writes them."""
    for i, row in enumerate(rows):
        flat = _flat(row)
        if i == 0:
            columns = ",\n".join(f"  {name} {_sql_type(value)}" for name, value in flat.items())
            print(f"CREATE TABLE IF NOT EXISTS test (\n{columns}\n);\n")
        values = ", ".join(_sql_value(value) for value in flat.values())
        print(f"INSERT INTO test ({', '.join(flat)}) VALUES ({values});", flush=True)


def _sql_type(value: Any) -> str:
    return "REAL" if isinstance(value, float) else "INTEGER" if isinstance(value, int) else "TEXT"


def _sql_value(value: Any) -> str:
    text = str(int(value) if isinstance(value, bool) else value)
    return text if isinstance(value, int | float) else "'" + text.replace("'", "''") + "'"


WRITERS: Final[Mapping[str, Callable[[Iterable[Row], Settings], None]]] = {
    "md": markdown,
    "csv": comma_separated,
    "json": json_list,
    "jsonl": json_lines,
    "sql": sql,
}
