"""Which devices a session gets: names of --device, GPUs by default, and what `graphsched devices` lists."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from graphsched.cli import main as cli
from graphsched.cli.opening import with_gpus
from graphsched.errors import OptionError
from graphsched.gguf.loader import open_model
from graphsched.predict.plan import make_plan
from graphsched.run import device
from graphsched.run.device import GpuFacts, device_names
from graphsched.session.model import Model
from graphsched.session.options import SessionOptions
from graphsched.synth import model as synth

GPUS = [
    GpuFacts(f"CUDA{i}", "H200", 141 * 10**9, 140 * 10**9, "sm_90", 132, 3, "0000:01:00.0", "")
    for i in (0, 1)
]


@pytest.mark.parametrize(
    ("specs", "names"),
    [
        ((), ()),
        (("none",), ()),
        (("CUDA0",), ("CUDA0",)),
        (("cuda1", "CUDA0"), ("CUDA1", "CUDA0")),
        (("sim:2x3090", "CUDA1"), ("sim1",)),
        (("cuda1", "CUDA0", "sim:2x3090"), ("sim1", "sim0")),
        (("sim:rtx4090", "sim:rtx4090", "none"), ("sim0", "sim1")),
    ],
)
def test_names_of_devices(specs: tuple[str, ...], names: tuple[str, ...]) -> None:
    assert device_names(specs) == names


@pytest.mark.parametrize(
    ("specs", "words"), [(("CUDA0", "cuda0"), "names CUDA0 twice"), (("npu0",), "no machine npu0")]
)
def test_what_is_no_device(specs: tuple[str, ...], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        device_names(specs)


def test_all_gpus_are_used_where_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "gpu_reason", lambda: None)
    monkeypatch.setattr(device, "gpus", lambda: GPUS)
    assert with_gpus(SessionOptions())[0].devices == ("CUDA0", "CUDA1")
    for options in (SessionOptions(devices=("none",)), SessionOptions(backend="reference")):
        assert with_gpus(options) == (options, None)


def test_without_a_gpu_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "gpu_reason", lambda: "no NVIDIA driver")
    options = SessionOptions()
    assert with_gpus(options) == (options, "no NVIDIA driver")


def listed(*args: str) -> str:
    done = CliRunner().invoke(cli.cli, ["devices", *args], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_the_list_says_why_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "gpu_reason", lambda: "no NVIDIA driver (libcuda.so.1 was not found)")
    assert "GPU    none: no NVIDIA driver (libcuda.so.1 was not found)" in listed()
    found = json.loads(listed("--json"))
    assert found["gpus"] == []
    assert found["cpu"]["threads"] > 0


def test_the_list_has_every_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "gpus", lambda: GPUS)
    monkeypatch.setattr(device, "versions", lambda: {"driver": "13.0"})
    assert all(word in listed() for word in ("CUDA0", "CUDA1", "141.0 GB", "sm_90", "driver 13.0"))


@pytest.mark.parametrize("n_tokens", [1, 512])
@pytest.mark.parametrize("layout", synth.names())
def test_real_layouts_run_on_a_gpu_as_one_split(tmp_path: Path, layout: str, n_tokens: int) -> None:
    """All but the embedding's rows, which the host looks up."""
    path = tmp_path / "header.gguf"
    synth.write(layout, path, layers=8, extent="header")  # all others are like some of these
    model = Model(open_model(path, header_only=True))
    plan = make_plan(model, SessionOptions(n_ctx=4096, devices=("CUDA0",)), n_tokens, 1, n_tokens)
    assert [(s.device, len(s.nodes) > 1) for s in plan.schedule.splits] == [("CPU", False), ("CUDA0", True)]
