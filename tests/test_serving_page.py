"""docs/serving.md: its code runs against a server, and its table has every endpoint."""

import io
import json
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Final

import pytest
from http_servers import Running, serving_http

from graphsched.serve.app.make import ENDPOINTS

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "serving.md"
URL: Final = "http://127.0.0.1:8080"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("slots")
    with serving_http(service={"slot_save_path": folder}, server={"metrics": True}) as found:
        yield found


def blocks(kind: str) -> list[str]:
    found = re.findall(rf"^```{kind}\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert found
    return list(found)


def test_the_code_runs(server: Running) -> None:
    names: dict[str, Any] = {}
    with redirect_stdout(io.StringIO()) as out:
        for text in blocks("python"):
            exec(text.replace(URL, server.url), names)
    names["client"].close()
    names["claude"].close()
    chat = names["chat"].choices[0].message.content
    assert chat
    assert out.getvalue() == f"{chat}\n{chat}\n{chat}"


def test_what_curl_sends_is_answered(server: Running) -> None:
    lines = [line for text in blocks("sh") for line in text.replace("\\\n", "").splitlines()]
    assert len(lines) == 3
    for line in lines:
        url, body = re.search(rf"{URL}(\S+?)'? ", line), re.search(r"-d '(.*)'", line)
        assert url is not None
        assert body is not None
        answer = server.http.post(url[1], json=json.loads(body[1]))
        assert answer.status_code == 200, (line, answer.text)


def test_the_table_has_every_endpoint() -> None:
    table = PAGE.read_text("utf-8").partition("## Endpoints")[2].partition("\n## ")[0]
    for path in (path for endpoint in ENDPOINTS for path in endpoint.paths):
        assert re.search(rf"[`/ ]{re.escape(path.replace(':path', '')).lstrip('/')}[`?]", table), path


def test_all_metrics_are_named(server: Running) -> None:
    names = re.findall(r"^# TYPE graphsched:(\w+)", server.http.get("/metrics").text, re.MULTILINE)
    text = PAGE.read_text("utf-8")
    assert [name for name in names if f"`{name}`" not in text] == []
