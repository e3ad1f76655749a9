"""A server whose answers are scripts: parts of answers as they are, without a model that would have to say them."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import anthropic
import httpx
import openai
import pytest
from http_servers import running

from graphsched.serve.api import turns
from graphsched.serve.app.make import make_app
from graphsched.serve.http_options import ServerOptions
from graphsched.serve.load import Counters
from graphsched.serve.request import Done, Event, Piece, Reason, Request, RequestTimings
from graphsched.session.model import open_default_or
from graphsched.text.answer_stream import Delta

TIMINGS = RequestTimings(1.0, 7, 4, 30.0, 2, 20.0)


class Script:
    """A service that says what it is told to, and notes what it was asked. said: of each piece, its parts."""

    def __init__(self) -> None:
        self.model = open_default_or(None)
        self.tokenizer, self.n_ctx, self.n_slots = self.model.tokenizer, 1024, 4
        self.said: Sequence[Sequence[Delta] | Exception] = ()
        self.reason: Reason = "eog"
        self.stopped_by = ""
        self.asked: list[Request] = []

    async def answers(self, request: Request) -> AsyncGenerator[Event, None]:
        self.asked.append(request)
        for i, parts in enumerate(self.said):
            if isinstance(parts, Exception):
                raise parts
            yield Piece(0, str(i), (403,))
        yield Done(0, self.reason, TIMINGS, self.stopped_by)

    def slots(self) -> list[Any]:
        """None."""
        return []

    def recent(self) -> tuple[Any, ...]:
        """None."""
        return ()

    def counters(self) -> Counters:
        """Nothing was counted."""
        return Counters(0, 0, 0.0, 0, 0.0, 0, 0, 0, 0, 0.0)

    def stream(self) -> Any:
        """What takes an answer apart: a piece is the number of its parts."""
        return SimpleNamespace(push=lambda text: self.said[int(text)], finish=list)


@contextmanager
def scripted(**options: Any) -> Iterator[SimpleNamespace]:
    """A server with a script: the script, clients for HTTP, Anthropic's and OpenAI's, and what was rendered."""
    script, rendered = Script(), list[list[dict[str, Any]]]()
    service: Any = script
    app = make_app(service, ServerOptions(alias="tiny", **options))
    render = turns.prompt_of

    def noted(served: Any, asked: Any, *more: Any, **named: Any) -> str:
        rendered.append([dict(m) for m in asked.messages])
        return render(served, asked, *more, **named)

    with (
        pytest.MonkeyPatch.context() as patch,
        running(app) as url,
        httpx.Client(base_url=url, timeout=30) as http,
        anthropic.Anthropic(base_url=url, api_key="k", max_retries=0, timeout=30) as claude,
        openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0, timeout=30) as client,
    ):
        patch.setattr(turns.Turn, "stream", lambda turn: script.stream())
        patch.setattr(turns, "prompt_of", noted)
        yield SimpleNamespace(
            url=url, script=script, http=http, anthropic=claude, openai=client, rendered=rendered
        )
