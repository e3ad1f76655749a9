"""The page at `/` in a headless browser, and the profile of the last seconds."""

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from chromium import Browser, browsing
from http_servers import Running, serving_http
from needs import needs_chromium
from scripted import scripted

from graphsched.serve.api.page import PAGE
from graphsched.text.answer_stream import CallArguments, CallBegins
from graphsched.text.spoken import Text, Thought


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving_http(server={"alias": "stories & more"}, deterministic=True) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as found:
        yield found


class Links(HTMLParser):
    """What a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [str(value) for name, value in attrs if name in ("src", "href", "action")]


def test_the_page_is_one_file_that_loads_nothing(server: Running) -> None:
    links = Links()
    links.feed(PAGE.read_text("utf-8"))
    assert links.found == ["data:,"]
    answer = server.http.get("/")
    assert "<title>graphsched: stories &amp; more</title>" in answer.text
    allowed = answer.headers["content-security-policy"]
    assert "default-src 'none'" in allowed
    assert "connect-src 'self'" in allowed


def test_what_the_page_shows(server: Running) -> None:
    done = server.http.post("/completion", json={"prompt": "Once upon a time", "n_predict": 9}).json()
    live = server.http.get("/live").json()
    assert [slot["id"] for slot in live["slots"]] == [0, 1, 2, 3]
    last = live["recent"][0]
    assert (last["reason"], last["timings"]["generated_tokens"]) == ("limit", 9)
    assert last["timings"]["prompt_tokens"] == done["tokens_evaluated"]
    assert live["counters"]["generated_tokens"] >= 9


def test_the_profile_of_the_last_seconds(server: Running) -> None:
    server.http.post("/completion", json={"prompt": "One day", "n_predict": 20})
    data = server.http.get("/profile", params={"seconds": 30, "format": "json"}).json()
    (phase,) = data["phases"]
    assert phase["tokens"] >= 20
    owned = sum(row["seconds"] for row in phase["overhead"])
    assert owned == pytest.approx(phase["wall"], rel=1e-6)
    page = server.http.get("/profile", params={"seconds": 30}).text
    text = page.partition('<script type="application/json" id="data">')[2].partition("</script>")[0]
    assert json.loads(text)["profile"]["phases"][0]["ops"]


def test_copies_of_sequences_are_in_the_profile() -> None:
    with serving_http("qwen35moe") as server:  # its answers fork a state
        asked: Any = {"model": "x", "prompt": "One day", "n": 3, "max_tokens": 4}
        server.openai.completions.create(**asked)
        answer = server.http.get("/profile", params={"seconds": 30, "format": "json"})
        assert answer.status_code == 200
        assert answer.json()["phases"][0]["tokens"] > 12


@pytest.mark.parametrize("seconds", ["0", "-1", "x", "nan", "1e9", "", "61"])
def test_how_far_back_is_bounded(server: Running, seconds: str) -> None:
    answer = server.http.get("/profile", params={"seconds": seconds})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("seconds is ")


def test_a_server_without_a_page() -> None:
    with scripted(ui=False, slots=False) as server:
        for path in ("/", "/live", "/profile"):
            assert server.http.get(path).status_code == 501


def test_a_key_is_needed_for_all_but_the_page() -> None:
    with scripted(api_key=("k",)) as server:
        found = [server.http.get(path).status_code for path in ("/", "/live", "/profile")]
        assert found == [200, 401, 401]


def say(browser: Browser, text: str) -> None:
    browser.eval(f"at('text').value = {json.dumps(text)}; at('form').requestSubmit()")


def said(browser: Browser) -> Any:
    return browser.eval("[...document.querySelectorAll('.assistant .said')].map(e => e.textContent)")


@needs_chromium
def test_a_chat_in_a_browser(server: Running, browser: Browser) -> None:
    browser.open(f"{server.url}/")
    browser.until("document.body.dataset.live")
    browser.eval("at('f_max_tokens').value = '12'; at('system').value = 'Be kind.'")
    say(browser, "Tell me about Lily.")
    browser.until("document.body.dataset.answers == 1")
    messages: list[Any] = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Tell me about Lily."},
    ]
    first = server.openai.chat.completions.create(model="x", messages=messages, max_tokens=12)
    assert said(browser) == [first.choices[0].message.content]
    say(browser, "And then?")
    browser.until("document.body.dataset.answers == 2")
    assert "12 tokens" in browser.eval("document.querySelectorAll('.assistant')[1].lastChild.textContent")
    browser.until("document.querySelectorAll('#recent .parts').length >= 2")
    assert browser.eval("document.querySelectorAll('#slots tr').length") == 5
    browser.eval("at('owners').click()")
    browser.until("at('owned').textContent.includes('host: sampling')")
    assert {url.startswith((server.url, "data:")) for url in browser.requested} == {True}


@needs_chromium
def test_stopping_an_answer_frees_its_slot(server: Running, browser: Browser) -> None:
    browser.open(f"{server.url}/")
    browser.until("document.body.dataset.live")
    browser.eval("at('f_max_tokens').value = '400'")
    say(browser, "Tell me about Tom.")
    browser.until("document.querySelector('.assistant .said').textContent.length > 10")
    browser.eval("at('stop').click()")
    browser.until("document.querySelector('.assistant').lastChild.textContent == 'stopped'")
    browser.until(
        "[...document.querySelectorAll('#slots tr')].every(row => !row.textContent.includes('generates'))"
    )


@needs_chromium
def test_thoughts_calls_keys_and_errors_in_a_browser(browser: Browser) -> None:
    with scripted(api_key=("secret",)) as server:
        server.script.said = [
            [Thought("Hm.")],
            [Text("Look:\n```py\nx = 1\n```\nso")],
            [CallBegins(0, "c", "weather"), CallArguments(0, "{}")],
        ]
        browser.open(f"{server.url}/")
        browser.until("at('ask').style.display == 'flex'")
        browser.eval("at('key').value = 'secret'; at('give').click()")
        say(browser, "Hi")
        browser.until("document.body.dataset.answers == 1")
        assert said(browser) == ["Look:\nx = 1\nso\nweather {}\n"]
        found = "document.querySelector('.assistant details')"
        assert browser.eval(f"[{found}.open, {found}.hidden, {found}.textContent]") == [
            False,
            False,
            "thoughtsHm.",
        ]
        browser.eval("at('f_top_p').value = '2'")
        say(browser, "Hi")
        browser.until("document.querySelector('.error')")
        assert "top_p is 2" in browser.eval("document.querySelector('.error').textContent")
        assert browser.eval("sessionStorage.getItem(KEY) + localStorage.length") == "secret0"
