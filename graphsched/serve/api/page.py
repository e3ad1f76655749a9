"""The page at `/`, what it shows of the server, and the profile of the last seconds."""

import asyncio
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any, Final

from starlette.responses import HTMLResponse, JSONResponse, Response

from graphsched.report.profile_page import html_page
from graphsched.serve.api.endpoint import Call, Endpoint
from graphsched.serve.api.failures import llama_form, refused
from graphsched.serve.api.fields import Field, table
from graphsched.serve.api.kinds import Choice, Text
from graphsched.serve.api.slots import unsupported

PAGE: Final = Path(__file__).resolve().parents[2] / "data" / "serve.html"
N_RECENT: Final = 12
LONGEST: Final = 60.0  # seconds of a profile
# What the page may do: nothing but ask this server. Scripts and styles are in it.
_MAY: Final = "; ".join(
    (
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        "script-src 'unsafe-inline'",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS: Final = {
    "Content-Security-Policy": _MAY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
ASKED: Final = table(
    Field("seconds", Text(16), help="how far back, 5 if nothing is said"),
    Field("format", Choice(("html", "json")), help="a page, or its numbers"),
)


async def page(call: Call) -> Response:
    """A chat, and a live view of the slots. It has no data of the server but the model's name."""
    if not call.served.options.ui:
        raise unsupported("there is no page, --ui shows one")
    title = escape(f"graphsched: {call.served.name}")
    text = await asyncio.to_thread(PAGE.read_text, "utf-8")
    return HTMLResponse(text.replace("__TITLE__", title), headers=HEADERS)


async def live(call: Call) -> Response:
    """What the page shows: slots, sums since the server began, and the last requests, the latest first."""
    _check(call)
    service = call.served.service
    return JSONResponse(
        {
            "model": call.served.name,
            "slots": [asdict(slot) for slot in service.slots()],
            "counters": asdict(service.counters()),
            "recent": [asdict(record) for record in reversed(service.recent()[-N_RECENT:])],
        }
    )


async def profile(call: Call) -> Response:
    """Where the time of the last seconds went: the page of `graphsched profile`, or its numbers."""
    _check(call)
    seconds, service = _seconds(call.query.get("seconds", "5")), call.served.service
    found = await asyncio.to_thread(service.profile, seconds)
    if call.query.get("format") == "json":
        return JSONResponse(found.data)
    return HTMLResponse(await asyncio.to_thread(html_page, found.phases, found.data), headers=HEADERS)


def _check(call: Call) -> None:
    if not call.served.options.slots:
        raise unsupported("the slots are not shown, --slots does")


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found <= LONGEST:
        raise refused("seconds", f"is {text or 'empty'}, a number above 0 up to {LONGEST:g} is needed")
    return found


def _own(path: str, answer: Any, summary: str, **more: Any) -> Endpoint:
    return Endpoint("GET", (path,), answer, summary, form=llama_form, **more)


ENDPOINTS: Final = (
    _own("/", page, "A page with a chat and a view of the slots", is_public=True),
    _own("/live", live, "What the page shows"),
    _own("/profile", profile, "Where the time of the last seconds went", query=ASKED),
)
