"""The options of the server's interface over HTTP. Imports nothing slow, `--help` reads them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from graphsched.errors import OptionError
from graphsched.option import Options, Parsed, option, texts

_SECONDS: Final = 1e6


def _listed(given: Any) -> tuple[str, ...]:
    """Texts apart by commas, of several flags."""
    found = tuple(part.strip() for text in texts(given) for part in str(text).split(","))
    if not all(found):
        raise OptionError("has an empty part, texts are needed")
    return found


def _file(given: Any) -> Path | None:
    return None if given is None else Path(given)


def _shown(given: Path | None) -> str:
    return "" if given is None else str(given)


def _hidden(given: tuple[str, ...]) -> str:
    return ",".join("*" for _ in given)


@dataclass(frozen=True, kw_only=True)
class ServerOptions(Options):
    """Where the server listens, who may use it, and what it offers.

    api_key: keys, none for everybody. alias: names of the model, the first of which answers have. timeout: seconds that
    a client may take for its request, and for reading a part of an answer. body_limit: MiB. cors: origins of pages that
    may use it from elsewhere, * for all.
    """

    host: str = option(
        "--host",
        "127.0.0.1",
        values=Parsed("HOST", str),
        help="address to listen on; 0.0.0.0 is all, with --api-key",
    )
    port: int = option("--port", 8080, low=0, high=65535, help="port, 0 for any free one")
    api_key: Annotated[Any, tuple[str, ...]] = option(
        "--api-key",
        (),
        values=Parsed("KEY", _listed, _hidden),
        help="keys of which clients need one, apart by commas; repeatable",
        shown="none",
        many="all",
    )
    api_key_file: Annotated[Any, Path | None] = option(
        "--api-key-file",
        None,
        values=Parsed("FILE", _file, _shown),
        help="a file of keys, one a line",
        shown="",
    )
    alias: Annotated[Any, tuple[str, ...]] = option(
        "-a --alias",
        (),
        values=Parsed("NAME", _listed, ",".join),
        help="names of the model, apart by commas",
        shown="its file's name",
        many="all",
    )
    cors: Annotated[Any, tuple[str, ...]] = option(
        "--cors --cors-origins",
        (),
        values=Parsed("ORIGIN", _listed, ",".join),
        help="origins whose pages may use the server, * for all; repeatable",
        shown="none",
        many="all",
    )
    timeout: float = option(
        "-to --timeout",
        3600.0,
        low=0.001,
        high=_SECONDS,
        help="seconds that a client may take to send a request, and to read a part of the answer",
        shown="3600",
    )
    sse_ping_interval: float = option(
        "--sse-ping-interval",
        30.0,
        low=-1,
        high=_SECONDS,
        needed="a number of seconds from 0 up, or -1 (never)",
        help="seconds of silence in a stream before a ping, 0 and -1 for none",
        shown="30",
    )
    drain_timeout: float = option(
        "--drain-timeout",
        30.0,
        low=0,
        high=_SECONDS,
        help="seconds that running requests have after SIGTERM or Ctrl-C",
        shown="30",
    )
    body_limit: int = option("--body-limit", 16, low=1, high=4096, help="MiB that a request may have")
    metrics: bool = option("--metrics", False, off="--no-metrics", help="/metrics for Prometheus")
    slots: bool = option("--slots", True, off="--no-slots", help="/slots tells what the slots do")
    ui: bool = option("--ui", True, off="--no-ui --no-webui", help="a page at /")

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys. OptionError for a file that cannot be read or has none."""
        return self.api_key + (() if self.api_key_file is None else _keys_of(self.api_key_file))


def _keys_of(path: Path) -> tuple[str, ...]:
    """The keys of a file: its lines but for empty ones and those that begin with #."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as e:
        raise OptionError(f"{path}: {(e.strerror or str(e)).lower()}", "api_key_file") from None
    except ValueError:
        raise OptionError(f"{path}: is no text", "api_key_file") from None
    found = tuple(line for line in lines if line and not line.startswith("#"))
    if not found:
        raise OptionError(f"{path}: has no key", "api_key_file")
    return found
