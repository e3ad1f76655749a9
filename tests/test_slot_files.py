"""Slots in files: saved, restored by another server of the same model, and what does not fit is said in a sentence."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from serving import GREEDY, opened, run, serving, tokens_of_answer

from graphsched.errors import Error, OptionError
from graphsched.serve.request import Request
from graphsched.serve.slot_files import inside

IDS = tuple(range(10, 110))


@pytest.mark.parametrize("name", [None, "qwen35moe"])
def test_a_restart_goes_on_where_it_was(name: str | None, tmp_path: Path) -> None:
    file = tmp_path / "chat.bin"

    async def before() -> tuple[int, ...]:
        async with serving(opened(name, deterministic=True)) as service:
            said, _ = await tokens_of_answer(service, Request(IDS, 20, GREEDY, ignore_eos=True))
            saved = await service.save(0, file)
            assert (saved.tokens, saved.bytes) == (119, file.stat().st_size)
            more, _ = await tokens_of_answer(service, Request((*IDS, *said, 7), 20, GREEDY, ignore_eos=True))
            return (*said, *more)

    async def after(said: tuple[int, ...]) -> None:
        async with serving(opened(name, deterministic=True)) as service:
            restored = await service.restore(2, file)
            assert (restored.tokens, restored.bytes) == (119, file.stat().st_size)
            assert service.slots()[2].n_past == 119
            again = Request((*IDS, *said[:20], 7), 20, GREEDY, ignore_eos=True)
            more, end = await tokens_of_answer(service, again)
            assert (more, end.timings.cached_tokens) == (said[20:], 119)
            assert await service.erase(2) == 140
            assert service.slots()[2].n_past == 0

    run(after(run(before())))


def test_what_does_not_fit(tmp_path: Path) -> None:
    file = tmp_path / "chat.bin"

    async def refused(words: str, name: str | None = None, path: Path = file, **options: Any) -> None:
        async with serving(opened(name, **options)) as service:
            with pytest.raises(Error, match=words) as found:
                await service.restore(0, path)
            assert "\n" not in str(found.value)
            assert service.slots()[0].n_past == 0
            await tokens_of_answer(service, Request(IDS[:9], 2, GREEDY))

    async def main() -> None:
        async with serving(opened()) as service:
            await tokens_of_answer(service, Request(IDS, 5, GREEDY, ignore_eos=True))
            await service.save(0, file)
        await refused("another model", "qwen35moe")
        await refused("caches of other types", type_k="f32")
        await refused("104 tokens, the context holds 64", n_ctx=64)
        await refused("no such file", path=tmp_path / "none")
        whole = file.read_bytes()
        for damaged in (whole[:-100], whole[:1000], b"", b"x" * 500, _flipped(whole, 2000)):
            file.write_bytes(damaged)
            await refused("is damaged, or no saved slot")

    run(main())


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_a_slot_at_work_is_left_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(opened()) as service:
            events = service.answers(Request(IDS, -1, GREEDY, ignore_eos=True))
            await anext(events)
            for action in (
                service.save(0, tmp_path / "x"),
                service.restore(0, tmp_path / "x"),
                service.erase(0),
            ):
                with pytest.raises(Error, match=r"slot 0 is at work|no such file"):
                    await action
            with pytest.raises(OptionError, match="slots 0 to 3"):
                await service.erase(4)
            await events.aclose()  # type: ignore[attr-defined]
        assert not list(tmp_path.iterdir())

    run(main())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_an_error_and_requests_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(part: Path) -> Any:
        return open("/dev/full", "w+b", buffering=0)

    async def main() -> None:
        async with serving(opened()) as service:
            await tokens_of_answer(service, Request(IDS, 5, GREEDY, ignore_eos=True))
            running = asyncio.create_task(
                tokens_of_answer(service, Request(IDS[5:], 60, GREEDY, ignore_eos=True))
            )
            with monkeypatch.context() as patch:
                patch.setattr("graphsched.gguf.atomic._nameless", full)
                with pytest.raises(Error, match="no space left on device"):
                    await service.save(0, tmp_path / "x")
            said, _ = await running
            assert len(said) == 60
            assert not os.listdir(tmp_path)
            assert (await service.save(0, tmp_path / "x")).tokens == 104

    run(main())


def test_names_of_files() -> None:
    assert inside(Path("/a"), "chat.bin") == Path("/a/chat.bin")
    for name in ("", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "a\0b"):
        with pytest.raises(Error, match="no plain file name"):
            inside(Path("/a"), name)
    with pytest.raises(Error, match="--slot-save-path"):
        inside(None, "chat.bin")
