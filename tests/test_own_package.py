"""An architecture and an op that live in another package: the one that docs/adding-a-model.md walks through."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf_files as g
import numpy as np
import pytest
from running import nmse

from graphsched.errors import OptionError
from graphsched.graph.graph import from_outputs
from graphsched.opdef import OPS, Array, Op, UserOp, op
from graphsched.run.device import Setup
from graphsched.run.runtime import open_runtime
from graphsched.tensor import Tensor, TensorType, f32, weight

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "adding-a-model.md"
LAYERS, WIDTH, HIDDEN, VOCAB = 4, 32, 64, 50
RUN = """
import sys, numpy as np, graphsched
tokens = list(range(3, 15))
def logits(**options):
    session = graphsched.load(sys.argv[1], n_ctx=32, **options)
    return np.concatenate([session.eval(tokens, all_logits=True), session.eval([7]), session.eval([8])])
split = logits(devices=("sim:2x3090",), poison=True)
np.savez(sys.argv[2], cpu=logits(), reference=logits(backend="reference"), split=split)
"""


def module() -> str:
    """The guide's module."""
    if not GUIDE.exists():
        pytest.skip("docs/ is not beside the tests")
    section = GUIDE.read_text().partition("## In your own package")[2]
    (source,) = re.findall(r"```python\n(.*?)```", section, re.S)
    return str(source)


def install(folder: Path, entry: str, source: str) -> None:
    """What pip leaves in site-packages."""
    info = folder / "snakenet-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: snakenet\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(f"[graphsched.architectures]\n{entry}\n")
    (folder / "snakenet.py").write_text(source)


def weights() -> dict[str, Any]:
    shapes = {"token_embd": (VOCAB, WIDTH), "output_norm": (WIDTH,)}
    for i in range(LAYERS):
        square = {f"blk.{i}.attn_{k}": (WIDTH, WIDTH) for k in ("q", "k", "v", "output")}
        norms = {f"blk.{i}.{k}": (WIDTH,) for k in ("attn_norm", "ffn_norm")}
        ffn = {"ffn_up": (HIDDEN, WIDTH), "ffn_down": (WIDTH, HIDDEN), "ffn_snake": (HIDDEN,)}
        shapes |= square | norms | {f"blk.{i}.{k}": shape for k, shape in ffn.items()}
    rng = np.random.default_rng(1)
    return {f"{name}.weight": _drawn(rng, shape) for name, shape in shapes.items()}


def _drawn(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    if len(shape) == 1:
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    return (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)


def model_file(folder: Path, arrays: Mapping[str, Any]) -> Path:
    keys = [g.key("general.architecture", g.STRING, "snakenet")]
    counts = {"block_count": LAYERS, "embedding_length": WIDTH, "context_length": 64}
    counts |= {"attention.head_count": 4, "attention.head_count_kv": 4}
    keys += [g.key(f"snakenet.{k}", g.UINT32, n) for k, n in counts.items()]
    keys.append(g.key("snakenet.attention.layer_norm_rms_epsilon", g.FLOAT32, 1e-5))
    entries, data = [], b""
    for name, array in arrays.items():
        entries.append(g.tensor(name, array.shape[::-1], 0, len(data)))
        data += array.tobytes()
        data += b"\0" * (-len(data) % 32)
    return g.write(folder, g.gguf(keys, entries, data))


def python(folder: Path, *args: str | Path) -> "subprocess.CompletedProcess[str]":
    """A new interpreter that finds the package."""
    root = str(GUIDE.parents[1])
    paths = os.pathsep.join([str(folder), root, *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": paths}
    return subprocess.run([sys.executable, *args], env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    install(folder, "snakenet = snakenet", module())
    model_file(folder, weights())
    return folder


def answer(site: Path, *args: str) -> Any:
    done = python(site, "-m", "graphsched", *args)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_split_over_two_devices(site: Path) -> None:
    done = python(site, "-c", RUN, site / "x.gguf", site / "logits.npz")
    assert done.returncode == 0, done.stderr
    logits = np.load(site / "logits.npz")
    np.testing.assert_array_equal(logits["split"], logits["cpu"])
    assert nmse(logits["cpu"], logits["reference"]) <= 1e-6
    assert logits["cpu"].std() > 0.1


def test_plan_shows_the_python_step(site: Path) -> None:
    flags = ("--model", str(site / "x.gguf"), "--device", "sim:2x3090")
    plan = answer(site, "plan", *flags, "--json", "--nodes")
    rows = [(split["device"], node) for split in plan["splits"] for node in split["nodes"]]
    assert {split["device"] for split in plan["splits"]} == {"CPU", "sim0", "sim1"}
    own = [(on, node["runs"]) for on, node in rows if node["op"] == "SNAKE"]
    assert own == [("CPU", "python step")] * LAYERS
    assert {node["runs"] for _, node in rows if node["op"] != "SNAKE"} == {"kernel"}
    table = python(site, "-m", "graphsched", "plan", *flags, "--nodes").stdout
    assert "no kernel, a Python step on the host" in " ".join(table.split())


@pytest.mark.parametrize("device", [(), ("--device", "sim:2x3090")], ids=["measured", "predicted"])
def test_profile_shows_the_python_step(site: Path, device: tuple[str, ...]) -> None:
    sizes = ("-p", "8", "-n", "2", "-r", "1", "-c", "32")
    phases = answer(site, "profile", "--model", str(site / "x.gguf"), "--json", *sizes, *device)["phases"]
    assert len(phases) == 2
    for phase in phases:
        (row,) = [r for r in phase["ops"] if r["name"] == "SNAKE (Python)"]
        assert row["device"] == "CPU"
        assert 0 < row["seconds"] < phase["wall"]


def test_ops_lists_it_and_op_takes_it(site: Path) -> None:
    (row,) = [r for r in answer(site, "ops", "--json") if r["number"] == 1000]
    assert (row["name"], row["operands"], list(row["backends"])) == ("SNAKE", ["x", "a"], ["reference"])
    for flag in ("1000,0", "SNAKE=0"):
        plan = answer(
            site, "plan", "--model", str(site / "x.gguf"), "--device", "sim:2x3090", "--json", "-op", flag
        )
        assert plan["policy"] == "SNAKE=0"


@pytest.mark.parametrize(
    ("entry", "source", "sentence"),
    [
        ("other = snakenet", "", "unknown architecture 'snakenet'; nearest are "),
        (
            "snakenet = snakenet",
            "",
            "architecture 'snakenet' (entry point snakenet) is not registered by that module",
        ),
        (
            "snakenet = snakenet",
            "import nowhere_at_all",
            "architecture 'snakenet' (entry point snakenet) cannot be imported: No module named 'nowhere_at_all'",
        ),
    ],
)
def test_a_package_that_does_not_work(tmp_path: Path, entry: str, source: str, sentence: str) -> None:
    install(tmp_path, entry, source)
    done = python(tmp_path, "-m", "graphsched", "plan", "--model", model_file(tmp_path, weights()))
    assert done.returncode != 0
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def declare(number: int, name: str) -> Any:
    def infer(x: Tensor) -> TensorType:
        return x.type

    infer.__name__ = name
    return op(number)(infer)


def test_numbers_of_own_ops() -> None:
    before = dict(OPS)
    made = declare(1234, "mine")
    try:
        assert (made.op, made.op.name, type(made.op)) == (1234, "MINE", UserOp)
        assert declare(1234, "mine").op == 1234  # a reload
        for number, name in ((1234, "other"), (1235, "mine"), (1236, "sqr"), (999, "low"), (Op.SQR + 0, "x")):
            with pytest.raises(OptionError, match=r"op \w+ (has|with) number"):
                declare(int(number), name)
    finally:
        OPS.clear()
        OPS.update(before)


def test_abort_skips_python_steps() -> None:
    """After it sources hold anything, and a reference may stumble over that."""
    weights = {"w": np.ones(4, np.float32).view(np.uint8)}
    calls: list[int] = []
    before = dict(OPS)
    try:
        made = declare(1234, "counted")

        @made.reference  # type: ignore[untyped-decorator]
        def _(x: Array) -> Array:
            calls.append(1)
            return x

        runtime = open_runtime("cpu", Setup(weights))
        executable = runtime.compile(from_outputs(made(weight("w", f32(4)))))
        executable.run({})
        runtime.abort(True)
        executable.run({})
    finally:
        OPS.clear()
        OPS.update(before)
    assert calls == [1]
