"""Importance matrices that are collected: against an independent forward pass, and the command that writes them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_file_tools import types_of
from tiny import files, forward
from tiny.files import encoded_tensor, keys, row, shapes

from graphsched.cli import main as cli
from graphsched.errors import Error
from graphsched.measure.activations import Activations, stored_way
from graphsched.quantize.collected import Collected, added, read_collected, write_importance
from graphsched.quantize.imatrix import read_importance
from graphsched.session.model import DEFAULT_MODEL, open_default_or
from graphsched.session.options import session_options
from graphsched.session.session import Session

Run = Callable[..., tuple[int, str, str]]
TEXT = "Once upon a time there was a little girl named Mia. She loved to play in the park with her dog. " * 12


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def with_args(*args: Any) -> tuple[int, str, str]:
        return cli.run([str(a) for a in args]), *capsys.readouterr()

    return with_args


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


class Recording(forward.Model):
    """The plain forward pass, which adds up the squares in front of each matrix: [matrices, columns], [matrices]."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.sums: dict[str, NDArray[np.float64]] = {}
        self.counts: dict[str, NDArray[np.int64]] = {}

    def note(self, name: str, x: forward.Array, matrix: int = 0) -> None:
        w = self.w[f"{name}.weight"]
        n = len(w) if w.ndim == 3 else 1
        sums = self.sums.setdefault(f"{name}.weight", np.zeros((n, w.shape[-1])))
        counts = self.counts.setdefault(f"{name}.weight", np.zeros(n, np.int64))
        rows = x.reshape(-1, w.shape[-1])
        sums[matrix] += (rows**2).sum(axis=0)
        counts[matrix] += len(rows)

    def linear(self, name: str, x: forward.Array) -> forward.Array:
        self.note(name, x)
        return super().linear(name, x)

    def expert(self, il: int, e: int, x: forward.Array) -> forward.Array:
        gate, up = (self.w[f"blk.{il}.ffn_{n}_exps.weight"][e] @ x for n in ("gate", "up"))
        for n, y in (("gate", x), ("up", x), ("down", forward.silu(gate) * up)):
            self.note(f"blk.{il}.ffn_{n}_exps", y, e)
        return super().expert(il, e, x)


def recorded(name: str) -> Recording:
    tensors = {t: encoded_tensor(name, t, shape)[2] for t, shape in shapes(name).items()}
    stored = {k: float(np.float32(v)) if isinstance(v, float) else v for k, v in keys(name).items()}
    model = Recording(row(name).architecture, stored, tensors)
    model.logits(files.tokens(name))
    return model


def observed(name: str, pieces: int, outputs: bool = False, **options: Any) -> Activations:
    seen = Activations(outputs)
    chosen = session_options(n_ctx=64, type_k="f32", type_v="f32", **options)
    session = Session(open_default_or(files.path(name)), chosen, None, seen)
    for piece in np.array_split(files.tokens(name), pieces):
        session.eval(piece, all_logits=True)
    return seen


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("name", ["llama-F32", "qwen3moe", "phi3", "gemma2"])
def test_activations_of_each_weight(name: str, pieces: int) -> None:
    """Of dense and of chosen matrices, read at once or in pieces, with all fusions."""
    expected, seen = recorded(name), observed(name, pieces)
    assert set(seen.sums) == {n for n in expected.sums if n.startswith("blk.")}
    for weight, sums in seen.sums.items():
        np.testing.assert_array_equal(seen.counts[weight], expected.counts[weight], weight)
        error = ((sums - expected.sums[weight]) ** 2).sum() / (expected.sums[weight] ** 2).sum()
        assert error < 1e-5, weight


def test_a_matrix_for_each_head() -> None:
    """Latent attention that attends to latents: one matrix per head, whose sums are those of its queries."""
    seen = observed("deepseek2-v3", 1, mla=1)
    by_head = [n for n, c in seen.counts.items() if len(c) > 1 and "exps" not in n]
    assert by_head
    for name in by_head:
        assert (seen.counts[name] == len(files.tokens("deepseek2-v3"))).all(), name
        assert (seen.sums[name].sum(axis=1) > 0).all()


@pytest.mark.parametrize(("name", "mla"), [("deepseek2-lite", 0), ("deepseek2-v3", 3), ("qwen3moe", 3)])
def test_matrices_of_the_file_are_multiplied(name: str, mla: int) -> None:
    """Not those that latent attention derives from them."""
    model = open_default_or(files.path(name))
    for asked in (0, 1, 3):
        options = stored_way(model, session_options(mla=asked, n_ctx=64))
        assert options.mla == (
            mla if asked == 3 else 1 if name == "deepseek2-v3" else 0 if mla == 0 else asked
        )
    seen = observed(name, 1, mla=mla)
    matrices = {n for n, shape in shapes(name).items() if n.startswith("blk.") and len(shape) > 1}
    assert set(seen.sums) == matrices


def test_the_output_is_left_out_unless_it_is_asked_for() -> None:
    for name, output in (("qwen3moe", "output.weight"), ("llama-F32", "token_embd.weight")):  # one is tied
        plain, whole = observed(name, 1), observed(name, 1, outputs=True)
        assert set(whole.sums) - set(plain.sums) == {output}
        np.testing.assert_allclose(whole.sums[output], recorded(name).sums[output], rtol=1e-3)


@pytest.mark.parametrize("device", ["sim:rtx4090", "sim:2x3090"])
def test_devices_see_the_same(device: str) -> None:
    here, there = observed("qwen3moe", 2), observed("qwen3moe", 2, devices=device, overrides="exps=CPU")
    assert set(here.sums) == set(there.sums)
    for name in here.sums:
        np.testing.assert_array_equal(here.sums[name], there.sums[name], name)


# ---- files ----


def some(
    names: tuple[str, ...], counts: tuple[int, ...] = (4,), chunks: int = 2, file: str = "a"
) -> Collected:
    sums = {n: np.arange(1, 1 + 3 * len(counts), dtype=np.float32).reshape(len(counts), 3) for n in names}
    return Collected(sums, {n: np.array(counts) for n in names}, (file,), chunks, 32)


@pytest.mark.parametrize("is_old", [False, True])
def test_what_is_written_is_read(tmp_path: Path, is_old: bool) -> None:
    write_importance(tmp_path / "i", some(("x", "y")), is_old=is_old)
    found = read_collected(tmp_path / "i", 32)
    assert (found.chunks, found.chunk_size, found.datasets) == (2, 32, ("a",))
    for name in ("x", "y"):
        np.testing.assert_allclose(
            found.sums[name] / found.counts[name][:, None], [[0.25, 0.5, 0.75]], rtol=1e-6
        )
    assert found.counts["x"].tolist() == ([64] if is_old else [4])


def test_files_are_added_up() -> None:
    both = added([("a", some(("x", "y"))), ("b", some(("y", "z"), chunks=3, file="b"))])
    assert (both.chunks, both.datasets) == (5, ("a", "b"))
    assert {n: c.tolist() for n, c in both.counts.items()} == {"x": [4], "y": [8], "z": [4]}
    assert both.sums["y"].tolist() == [[2, 4, 6]]
    # one count for two matrices, as the older form has it
    old = Collected({"e": np.ones((1, 6), np.float32)}, {"e": np.array([10])}, (), 1, 32)
    for pair in ((old, some(("e",), (1, 2))), (some(("e",), (1, 2)), old)):
        total = added([("a", pair[0]), ("b", pair[1])])
        assert total.counts["e"].tolist() == [11, 12]
        assert total.sums["e"].tolist() == [[2, 3, 4], [5, 6, 7]]
    with pytest.raises(Error, match=r"^b: tensor e has 3 values, 6 are needed$"):
        added([("a", some(("e",), (1, 2))), ("b", some(("e",)))])


# ---- the command ----


def test_a_matrix_that_quantize_reads(run: Run, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "i.gguf"
    code, said, err = run("imatrix", "-f", text, "-c", "32", "--chunks", "3", "-o", out)
    assert (code, err) == (0, "")
    estimates, last = said.splitlines()
    assert [piece[:3] for piece in estimates.split(",")[:3]] == ["[1]", "[2]", "[3]"]
    assert last == f"{out}: 32 tensors, 3 chunks"
    found = read_importance(out)
    assert (found.chunks, found.datasets, len(found.values)) == (3, str(text), 32)
    assert "output.weight" not in found.values
    quantised = tmp_path / "q.gguf"
    done = run("quantize", "--imatrix", out, "--allow-requantize", DEFAULT_MODEL, quantised, "Q4_0")
    assert done[0] == 0
    assert "has no values" not in done[2]
    assert types_of(quantised)["blk.0.attn_q.weight"] == "Q4_0"


def test_estimates_are_those_of_perplexity(run: Run, text: Path, tmp_path: Path) -> None:
    said = run("imatrix", "-f", text, "-c", "32", "--chunks", "3", "-ub", "8", "-o", tmp_path / "i")[1]
    other = run("perplexity", "-f", text, "-c", "32", "--chunks", "3", "-ub", "8")[1]
    numbers = [[float(p.split("]")[1]) for p in s.splitlines()[0].split(",")[:3]] for s in (said, other)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-3)


@pytest.mark.parametrize(
    ("args", "is_old"),
    [
        (("-o", "i.gguf"), False),
        (("-o", "i.dat"), True),
        (("-o", "i.dat", "--output-format", "gguf"), False),
        (("-o", "i", "--output-format", "dat"), True),
    ],
)
def test_both_forms(
    run: Run, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], is_old: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("imatrix", "-f", text, "-c", "16", "--chunks", "1", "-q", *args)
    assert (code, out) == (0, "")
    assert (Path(args[1]).read_bytes()[:4] == b"GGUF") != is_old
    assert len(read_importance(Path(args[1])).values) == 32


def test_pieces_can_be_read_apart_and_added(run: Run, text: Path, tmp_path: Path) -> None:
    def read(name: str, *args: Any) -> Collected:
        assert run("imatrix", "-f", text, "-c", "16", "-o", tmp_path / name, "-q", *args)[0] == 0
        return read_collected(tmp_path / name, 16)

    whole = read("whole", "--chunks", "4", "--process-output")
    assert "output.weight" in whole.sums or "token_embd.weight" in whole.sums
    read("first", "--chunks", "2", "--process-output")
    both = read(
        "both",
        "--chunks",
        "2",
        "--from-chunk",
        "2",
        "--process-output",
        "--in-file",
        tmp_path / "first",
        "--no-ppl",
    )
    assert run("imatrix", "--in-file", tmp_path / "both", "-o", tmp_path / "copy")[0] == 0
    for other in (both, read_collected(tmp_path / "copy", 16)):
        assert other.chunks == whole.chunks == 4
        for name, sums in whole.sums.items():
            np.testing.assert_allclose(other.sums[name], sums, rtol=1e-5)
            np.testing.assert_array_equal(other.counts[name], whole.counts[name])


def test_what_was_read_is_not_lost(
    run: Run, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is written in between; what comes to its end by an error leaves that."""
    done = []
    plain = Activations.take

    def take(self: Activations, values: Any) -> None:
        done.append(1)
        if len(done) > 5:
            raise KeyboardInterrupt
        plain(self, values)

    monkeypatch.setattr(Activations, "take", take)
    out = tmp_path / "i"
    code, _, _ = run("imatrix", "-f", text, "-c", "16", "-ofreq", "2", "-o", out, "-q")
    assert code == 130
    assert read_importance(out).chunks == 4
    assert {p.name for p in tmp_path.iterdir()} == {"i", "text.txt"}


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ("", "a text is needed, -f FILE, or importance matrices to add up, --in-file FILE"),
        ("-f none.txt", "none.txt: no such file or directory"),
        ("-f short.txt", "short.txt: has "),
        ("-f text.txt -c 2", "-c is 2, windows of 3 tokens or more are needed"),
        ("-f text.txt -c 16 --from-chunk 99999", "text.txt: has 0 tokens"),
        ("-f text.txt -o none/i.gguf", "none/i.gguf: no such file or directory"),
        ("-f text.txt -o .", ".: is not a regular file"),
        ("-f text.txt --output-format x", "--output-format is x, one of gguf, dat is needed"),
        ("-f text.txt --chunks 0", "--chunks is 0, an integer from 1 up or -1 (all) is needed"),
        ("-f text.txt -ofreq 0", "-ofreq is 0, an integer from 1 up is needed"),
        ("--in-file none", "none: no such file or directory"),
        ("--in-file text.txt", "text.txt: is no importance matrix, or is cut short"),
        ("--in-file model.gguf", "model.gguf: is a GGUF file, but no importance matrix"),
    ],
)
def test_bad_input(
    run: Run, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short.txt").write_text("Once")
    Path("model.gguf").write_bytes(DEFAULT_MODEL.read_bytes())
    code, out, err = run("imatrix", *args.split())
    assert (code, out) == (2, "")
    assert err.startswith(f"graphsched: {sentence}")
    assert err.count("\n") == 1
    assert not Path("imatrix.gguf").exists()
