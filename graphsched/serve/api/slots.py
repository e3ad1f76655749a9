"""What the slots do; saving, restoring and erasing what they hold: the only files that the interface touches."""

import unicodedata
from pathlib import Path
from typing import Final

from starlette.responses import JSONResponse, Response

from graphsched.serve.api.endpoint import Call, Endpoint
from graphsched.serve.api.failures import Failure, llama_form, not_found, refused, unavailable
from graphsched.serve.api.fields import Field, table
from graphsched.serve.api.kinds import Choice, Text
from graphsched.serve.slot_state import SlotState

_LONGEST: Final = 200  # bytes of a file's name
_NOT_IN_NAMES: Final = frozenset('/\\:*?"<>|')
FIELDS: Final = table(Field("filename", Text(_LONGEST), help="a name in the folder of --slot-save-path"))
ACTION: Final = table(Field("action", Choice(("save", "restore", "erase")), required=True))
BUSY: Final = table(Field("fail_on_no_slot", Text(8), help="503 if no slot is idle"))


async def listed(call: Call) -> Response:
    """All slots."""
    if not call.served.options.slots:
        raise unsupported("the slots are not shown, --slots does")
    found = call.served.service.slots()
    if call.query.get("fail_on_no_slot") and all(slot.is_processing for slot in found):
        raise unavailable("no slot is idle")
    return JSONResponse([_told(slot) for slot in found])


def _told(slot: SlotState) -> dict[str, object]:
    """A slot as llama.cpp tells it, as far as there is the same here."""
    return {
        "id": slot.id,
        "n_ctx": slot.n_ctx,
        "speculative": False,
        "is_processing": slot.is_processing,
        "id_task": slot.name,
        "n_past": slot.n_past,
        "prompt_tokens": slot.prompt_tokens,
        "cached_tokens": slot.cached,
        "predicted_per_second": slot.tokens_per_second,
        "next_token": {"has_next_token": slot.is_processing, "n_decoded": slot.generated_tokens},
    }


def unsupported(what: str) -> Failure:
    """This server was not started for it."""
    return Failure(501, what, kind="not_supported_error", code="not_supported")


async def act(call: Call) -> Response:
    """Saves, restores or erases a slot."""
    service, id = call.served.service, _slot(call)
    if call.query["action"] == "erase":
        return JSONResponse({"id_slot": id, "n_erased": await service.erase(id)})
    path = file_of(service.options.slot_save_path, call.values.get("filename"))
    is_save = call.query["action"] == "save"
    if not is_save and not path.is_file():
        raise not_found(f"there is no saved slot {path.name}")
    found = await (service.save if is_save else service.restore)(id, path)
    n, size, ms = ("n_saved", "n_written", "save_ms") if is_save else ("n_restored", "n_read", "restore_ms")
    told = {"id_slot": id, "filename": path.name, n: found.tokens, size: found.bytes}
    return JSONResponse(told | {"timings": {ms: found.ms}})


def _slot(call: Call) -> int:
    n, text = call.served.service.n_slots, call.path["id_slot"]
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and int(text) < n):
        raise not_found(f"there is no slot {text}, there are slots 0 to {n - 1}")
    return int(text)


def file_of(folder: Path | None, name: str | None) -> Path:
    """The file of a saved slot. Failure without a folder, and for a name that could mean a file elsewhere."""
    if folder is None:
        raise unsupported("slots are not saved, --slot-save-path DIR says where they may be")
    if not name:
        raise refused("filename", "is missing")
    is_plain = not _NOT_IN_NAMES & set(name) and all(unicodedata.category(c)[0] != "C" for c in name)
    if not is_plain or name[0] in ". " or name[-1] in ". " or len(name.encode()) > _LONGEST:
        raise refused("filename", "is no plain name of a file")
    path = folder / name
    if path.is_symlink():
        raise refused("filename", "is a link, which may lead elsewhere")
    return path


ENDPOINTS: Final = (
    Endpoint("GET", ("/slots",), listed, "What the slots do", query=BUSY, form=llama_form),
    Endpoint(
        "POST",
        ("/slots/{id_slot}",),
        act,
        "Saves, restores or erases a slot",
        FIELDS,
        query=ACTION,
        form=llama_form,
        computes=True,
    ),
)
