"""`graphsched serve` as a process: its line, its end by signals, and what it says of what it cannot do."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from processes import child

Run = Callable[..., tuple[int, str, str]]
PROGRAM: Final = (sys.executable, "-m", "graphsched", "serve", "--port", "0", "-t", "1")
needs_signals = pytest.mark.skipif(os.name == "nt", reason="this test sends POSIX signals")


@contextmanager
def started(*args: str) -> Iterator[tuple[Any, str, str]]:
    """A server: its process, its address and its line."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with child((*PROGRAM, *args), **pipes) as found:
        process: Any = found
        line = process.stdout.readline()
        assert line.startswith("listening on "), (line, process.stderr.read())
        yield process, line.removeprefix("listening on ").split(": ")[0], line


@needs_signals
def test_a_signal_lets_a_running_request_end() -> None:
    with started("-np", "2", "--alias", "tiny", "-n", "30", "--temp", "0") as (process, url, line):
        assert ": tiny, 2 slots, context 512, weights 2." in line
        body = {"prompt": "Once upon a time", "stream": True, "ignore_eos": True}
        with httpx.stream("POST", f"{url}/completion", json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            assert [text for text in lines if '"stop":true' in text]
        assert process.wait(30) == 0
        assert process.stderr.read() == ""


@needs_signals
def test_a_second_signal_ends_at_once() -> None:
    with started("-c", "100000", "--ignore-eos") as (process, url, _):
        body = {"prompt": "Once upon a time", "stream": True, "n_predict": 90000}
        with httpx.stream("POST", f"{url}/completion", json=body, timeout=60) as answer:
            next(answer.iter_lines())
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGINT)
            assert process.wait(30) in (128 + signal.SIGTERM, 128 + signal.SIGINT)


@needs_signals
def test_requests_that_take_too_long_are_ended() -> None:
    with started("--drain-timeout", "0.2", "-c", "100000", "--ignore-eos") as (process, url, _):
        body = {"prompt": "Once upon a time", "stream": True, "n_predict": 90000}
        with httpx.stream("POST", f"{url}/completion", json=body, timeout=60) as answer:
            next(answer.iter_lines())
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0


def test_a_port_in_use(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, out, err = run("serve", "--port", port)
    assert (code, out) == (2, "")
    assert err == f"graphsched: --port is {port}, on 127.0.0.1: address already in use\n"


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("--port", "70000"), "--port is 70000, an integer from 0 to 65535 is needed"),
        (("--port", "x"), "--port is x, an integer from 0 to 65535 is needed"),
        (("--host", "no such host"), "--host is no such host, no address of this machine"),
        (("--api-key", ""), "--api-key has an empty part, texts are needed"),
        (("--api-key-file", "/nowhere/keys"), "--api-key-file /nowhere/keys: no such file or directory"),
        (("--pooling", "max"), "--pooling is max, one of none, mean, cls, last"),
        (("-m", "/nowhere/x.gguf", "--port", "0"), "/nowhere/x.gguf: no such file or directory"),
        (("-ub", "2", "--port", "0"), "-ub is 2, a step needs a token for each of 4 slots"),
        (("--chat-template", "x"), "--chat-template x: is neither a template nor the name of one"),
        (("--prot", "1"), "no such option --prot"),
    ],
)
def test_bad_flags_are_one_sentence(run: Run, args: tuple[str, ...], sentence: str) -> None:
    code, out, err = run("serve", *args)
    assert (code, out) == (2, "")
    assert err.startswith(f"graphsched: {sentence}")
    assert err.count("\n") == 1


def test_a_file_of_keys_without_any(run: Run, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# none\n")
    code, _, err = run("serve", "--api-key-file", tmp_path / "keys")
    assert (code, err) == (2, f"graphsched: --api-key-file {tmp_path / 'keys'}: has no key\n")


def test_a_missing_extra(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    sentence = "graphsched: the server needs uvicorn, pip install 'graphsched[server]' brings it\n"
    assert run("serve") == (2, "", sentence)


def test_the_alias(run: Run) -> None:
    assert run("server", "--help")[1].partition("\n")[2] == run("serve", "--help")[1].partition("\n")[2]
    assert run("serv")[2] == "graphsched: no such command serv; did you mean serve?\n"


def test_the_core_needs_no_extra() -> None:
    code = (
        "import sys, graphsched.cli.main, graphsched.cli.commands.serve, graphsched.serve.http_options;"
        "print({'starlette', 'uvicorn', 'llguidance', 'anyio'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_who_may_use_it_is_said() -> None:
    with started("--host", "0.0.0.0") as (process, url, _):
        port = url.rpartition(":")[2]
        answer = httpx.get(f"http://127.0.0.1:{port}/health", headers={"Host": "any.example"})
        assert answer.status_code == 200
        process.terminate()
        hint = "hint: whoever reaches 0.0.0.0 may use this server, --api-key KEY keeps others out\n"
        assert process.communicate(timeout=60)[1] == hint
