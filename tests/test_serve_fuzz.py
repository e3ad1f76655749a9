"""Requests of every shape to every endpoint, made from the OpenAPI document: none is a bug, none hangs."""

from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest
import schemathesis
from http_servers import Running, serving_http
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

SECONDS: Final = 20  # that a request may take, tokens being few
QUIET: Final = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
FEW: Final = 2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("slots")
    chat = {"chat_template": "chatml"}
    options = {"metrics": True}
    with serving_http(server=options, service={"slot_save_path": folder}, chat=chat, n_ctx=64) as found:
        yield found


def fuzz(server: Running, examples: int) -> None:
    """Sends examples to each operation, right and wrong ones."""
    document = server.http.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    operations: list[Any] = [found.ok() for found in schema.get_all_operations()]  # type: ignore[union-attr]
    assert len(operations) >= 20
    seen: set[int] = set()
    for operation in operations:
        takes = operation.body or operation.query
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)[: 2 if takes else 1]:
            strategy = operation.as_strategy(generation_mode=mode)

            @settings(
                max_examples=examples, phases=[Phase.generate], suppress_health_check=QUIET, database=None
            )
            @given(case=strategy)
            def send(case: Any) -> None:
                seen.add(sent(server, case))

            send()
    assert {200, 400} <= seen
    assert server.http.get("/health").json() == {"status": "ok"}


def sent(server: Running, case: Any) -> int:
    """The status of a case, whose response is checked."""
    answer = case.call(base_url=server.url, timeout=SECONDS)
    assert answer.status_code < 500 or answer.status_code in (501, 503), (case.as_curl_command(), answer.text)
    if answer.status_code >= 400 and case.method != "HEAD":
        assert isinstance(answer.json()["error"], dict)
    return int(answer.status_code)


def test_a_few_requests_of_every_shape(server: Running) -> None:
    fuzz(server, FEW)


@pytest.mark.slow
def test_many_requests_of_every_shape(server: Running) -> None:
    fuzz(server, 200)


JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60, suppress_health_check=[*QUIET, HealthCheck.function_scoped_fixture], database=None)
@given(name=st.integers(0, 1000), value=JSON)
def test_any_value_in_any_field(server: Running, name: int, value: Any) -> None:
    """A good request with one field of any kind."""
    path, good = [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}),
        ("/completion", {"prompt": "Hi", "n_predict": 2}),
        ("/v1/completions", {"prompt": "Hi", "max_tokens": 2}),
    ][name % 3]
    document = httpx.get(f"{server.url}/openapi.json").json()
    fields = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"][
        "properties"
    ]
    field = sorted(fields)[name % len(fields)]
    answer = server.http.post(path, json=good | {field: value})
    assert answer.status_code in (200, 400, 501), (field, value, answer.text)
