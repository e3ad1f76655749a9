"""`graphsched perplexity`: windows, estimate, log probabilities on disk, divergence."""

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from running import model_path
from shared import shared

import graphsched
from graphsched.cli import main as cli
from graphsched.errors import Error, LoadError, OptionError
from graphsched.measure import logits_file, perplexity
from graphsched.measure.divergence import Divergence, mean_of, percentiles

Run = Callable[..., tuple[int, str, str]]
TEXT: Final = "Once upon a time there was a little girl. She had a big red ball and a small dog. " * 8


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def with_args(*args: str) -> tuple[int, str, str]:
        code = cli.run(args)
        return code, *capsys.readouterr()

    return with_args


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return str(path)


def made_up(n: int, n_vocab: int, seed: int = 0) -> perplexity.Normalised:
    logits = np.random.default_rng(seed).normal(0, 4, (n, n_vocab)).astype(np.float32)
    return perplexity.normalised(logits)


def log_softmax(logits: Any) -> Any:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))


# ---- windows and estimate ----


def test_windows_are_consecutive_and_whole() -> None:
    windows = perplexity.cut(list(range(23)), 7)
    assert windows.tokens.tolist() == [list(range(7)), list(range(7, 14)), list(range(14, 21))]
    assert (windows.first, windows.n_scored) == (3, 3)
    assert windows.targets(1).tolist() == [11, 12, 13]  # the tokens behind positions 3, 4 and 5
    assert len(perplexity.cut(list(range(23)), 7, at_most=2)) == 2
    assert len(perplexity.cut(list(range(23)), 7, at_most=9)) == 3


@pytest.mark.parametrize(
    ("n", "n_ctx", "sentence"),
    [
        (13, 7, "a.txt: has 13 tokens, 14 are needed for windows of 7; smaller ones are -c N"),
        (100, 2, "-c is 2, windows of 3 tokens or more are needed"),
    ],
)
def test_texts_that_are_too_short(n: int, n_ctx: int, sentence: str) -> None:
    with pytest.raises(OptionError) as caught:
        perplexity.cut(list(range(n)), n_ctx, source="a.txt")
    assert str(caught.value) == sentence


@pytest.mark.parametrize("rows", [1000, 5])
def test_each_window_stands_alone_and_begins_with_bos(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    session = graphsched.load(n_ctx=32)
    monkeypatch.setattr(perplexity, "_LOGIT_BYTES", rows * 4 * session.model.n_vocab)
    windows = perplexity.cut(session.tokenizer.encode(TEXT), 32)
    for window in (1, 0):
        parts = list(perplexity.window_logits(session, windows, window))
        assert max(len(logits) for logits, _ in parts) <= rows
        assert np.concatenate([t for _, t in parts]).tolist() == windows.targets(window).tolist()
        ids = windows.tokens[window].copy()
        ids[0] = session.tokenizer.bos
        session.reset()
        expected = session.eval(ids, all_logits=True)[16:31]
        np.testing.assert_allclose(np.concatenate([x for x, _ in parts]), expected, atol=2e-2)


def test_log_softmax_and_estimate() -> None:
    p = made_up(50, 300)
    targets = np.arange(50, dtype=np.int32)
    expected = -log_softmax(p.logits)[np.arange(50), targets]
    np.testing.assert_allclose(p.nll(targets), expected, rtol=1e-5)
    estimate = perplexity.Estimate()
    estimate.add(p.nll(targets)[:20])
    estimate.add(p.nll(targets)[20:])
    assert estimate.value == pytest.approx(math.exp(expected.mean()), rel=1e-6)
    spread = expected.std() / math.sqrt(49)
    assert estimate.error == pytest.approx(math.exp(expected.mean()) * spread, rel=1e-5)


def test_a_model_without_usable_logits() -> None:
    session = graphsched.load(n_ctx=16)
    windows = perplexity.cut(session.tokenizer.encode(TEXT), 16)

    class Broken:
        def __getattr__(self, name: str) -> Any:
            return getattr(session, name)

        def eval(self, ids: Any, all_logits: bool = False) -> Any:
            return session.eval(ids, all_logits) * np.nan

    broken: Any = Broken()
    with pytest.raises(Error, match="no usable logits in window 2"):
        list(perplexity.window_logits(broken, windows, 1))


@pytest.mark.reference
def test_perplexity_of_llama_perplexity(run: Run) -> None:
    expected = json.loads(shared("models/stories260K.json").read_text())["perplexity"]
    args = ("-m", str(shared("models/stories260K.gguf")), "-f", str(shared(expected["file"])))
    code, out, _ = run("perplexity", *args, "-c", str(expected["context"]), "--json")
    report = json.loads(out)
    assert code == 0
    assert report["perplexity"] == pytest.approx(expected["F32"], abs=0.003)
    assert (report["n_windows"], report["n_scored"]) == (44, 44 * 127)
    # the running estimate of llama-perplexity on the same files
    assert report["running"][:4] == pytest.approx([2.2894, 2.3735, 2.3850, 2.5200], abs=0.003)
    assert report["error"] == pytest.approx(0.05087, abs=1e-4)


def test_what_is_printed(run: Run, text: str) -> None:
    code, out, err = run("perplexity", "-f", text, "-c", "64", "--chunks", "2")
    assert (code, err) == (0, "")
    running, last = out.splitlines()
    report = json.loads(run("perplexity", "-f", text, "-c", "64", "--chunks", "2", "--json")[1])
    assert running == "".join(f"[{i}]{x:.4f}," for i, x in enumerate(report["running"], 1))
    assert last == f"Final estimate: PPL = {report['perplexity']:.4f} +/- {report['error']:.5f}"
    assert run("perplexity", "-f", text, "-c", "64", "--chunks", "2", "-q") == (0, last + "\n", "")
    assert {"n_ubatch", "type_k", "overrides", "model_name", "version"} <= set(report)


def test_micro_batches_do_not_matter(run: Run, text: str) -> None:
    """Of a float model without experts, whose choice the last bits of a result may turn."""
    args = ("-m", str(model_path("llama-F32")), "-f", text, "-c", "64", "--json", "-ub")
    found = [json.loads(run("perplexity", *args, ub)[1])["perplexity"] for ub in ("64", "16", "5")]
    assert found == pytest.approx([found[0]] * 3, rel=1e-4)


# ---- log probabilities on disk ----


def test_a_row_of_the_file() -> None:
    p = perplexity.normalised(np.array([[0, -1, -20]], np.float32))
    (row,) = logits_file.encoded(p)
    log_sum = math.log(1 + math.exp(-1) + math.exp(-20))
    scale, least = struct.unpack("<ff", row[:4].tobytes())
    assert scale == pytest.approx(16 / 65535)  # 20 below the largest counts as 16
    assert least == pytest.approx(-16 - log_sum)
    assert row[4:].tolist() == [65535, round(15 / scale), 0, 0]  # an odd vocabulary is padded


def test_values_come_back() -> None:
    p = made_up(20, 101)
    found = logits_file.decoded(logits_file.encoded(p), 101)
    expected = log_softmax(p.logits)
    expected = np.maximum(expected, expected.max(axis=1, keepdims=True) - 16)
    np.testing.assert_allclose(found, expected, atol=16 / 65535)


def test_equal_logits_have_no_scale() -> None:
    rows = logits_file.encoded(perplexity.normalised(np.ones((2, 8), np.float32)))
    np.testing.assert_allclose(logits_file.decoded(rows, 8), np.full((2, 8), -math.log(8)), rtol=1e-6)


def test_the_file_is_llama_perplexitys(run: Run, text: str, tmp_path: Path) -> None:
    base = tmp_path / "base.kld"
    args = ("perplexity", "-f", text, "-c", "32", "--kl-divergence-base", str(base))
    assert run(*args)[0] == 0
    session = graphsched.load()
    tokens, n_vocab = session.tokenizer.encode(TEXT), session.model.n_vocab
    n = len(tokens) // 32
    data = base.read_bytes()
    assert data[:8] == b"_logits_"
    assert struct.unpack("<iii", data[8:20]) == (32, n_vocab, n)
    assert np.frombuffer(data, "<i4", n * 32, 20).tolist() == tokens[: n * 32]
    assert len(data) == 20 + 4 * n * 32 + 2 * n * 15 * (4 + n_vocab + n_vocab % 2)
    with logits_file.open_base(base) as saved:
        assert saved.rows(n - 1).shape == (15, 4 + n_vocab + n_vocab % 2)
        assert (saved.rows(0) == saved.rows(0)).all()
        np.testing.assert_allclose(
            np.exp(logits_file.decoded(saved.rows(0), n_vocab)).sum(axis=1), 1, atol=1e-3
        )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda data: b"GGUF" + data[4:],
            "not a file of log probabilities, which --kl-divergence-base makes",
        ),
        (lambda data: data[:8], "window, vocabulary and count are [], which cannot be"),
        (lambda data: data[:12] + bytes(8) + data[20:], "window, vocabulary and count are"),
        (lambda data: data[:-1], "ends after"),
        (lambda data: data[:20] + b"\xff" * 4 + data[24:], "has tokens outside its vocabulary of"),
    ],
)
def test_bad_files(run: Run, text: str, tmp_path: Path, change: Any, sentence: str) -> None:
    base = tmp_path / "base.kld"
    run("perplexity", "-f", text, "-c", "32", "--kl-divergence-base", str(base), "-q")
    base.write_bytes(change(base.read_bytes()))
    with pytest.raises(LoadError) as caught:
        logits_file.open_base(base)
    assert sentence in str(caught.value)
    code, out, err = run("perplexity", "--kl-divergence-base", str(base), "--kl-divergence")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1


def test_an_interrupted_file_is_not_there(tmp_path: Path) -> None:
    windows = perplexity.cut(list(range(20)), 8)
    with pytest.raises(KeyError), logits_file.writing(tmp_path / "base.kld", windows, 100):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


# ---- divergence ----


def test_divergence_from_its_definition() -> None:
    p, base = made_up(200, 64, 1), made_up(200, 64, 2)
    targets = np.arange(200, dtype=np.int32) % 64
    divergence = Divergence()
    for part in (slice(0, 120), slice(120, 200)):
        mine = perplexity.normalised(p.logits[part])
        rows = logits_file.encoded(perplexity.normalised(base.logits[part]))
        divergence.add(mine, rows, targets[part])
    log_p, log_base = log_softmax(p.logits), log_softmax(base.logits)
    kld = (np.exp(log_base) * (log_base - log_p)).sum(axis=1)
    at = np.arange(200), targets
    p_diff = np.exp(log_p[at]) - np.exp(log_base[at])
    found = divergence.statistics()
    assert found["n"] == 200
    assert found["kld"][0] == pytest.approx(kld.mean(), rel=1e-3)
    assert found["kld"][1] == pytest.approx(kld.std() / math.sqrt(199), rel=1e-3)
    assert found["kld_percentiles"]["90.0%"] == pytest.approx(np.percentile(kld, 90), rel=1e-3)
    assert found["ppl"][0] == pytest.approx(math.exp(-log_p[at].mean()), rel=1e-4)
    assert found["p_diff"][0] == pytest.approx(p_diff.mean(), abs=1e-4)
    assert found["p_diff_rms"][0] == pytest.approx(math.sqrt((p_diff**2).mean()), rel=1e-3)
    assert found["same_top"][0] == (log_p.argmax(axis=1) == log_base.argmax(axis=1)).mean()
    assert found["correlation"] == pytest.approx(
        np.corrcoef(log_p[at], np.maximum(log_base[at], log_base.max(axis=1) - 16))[0, 1], abs=1e-2
    )


def test_few_values_have_no_error() -> None:
    assert mean_of(np.arange(3.0)) == (1.0, 0.0)
    assert list(percentiles(np.arange(5.0)))[::6] == ["maximum", "50.0%", "minimum"]


def test_a_model_is_not_far_from_itself(run: Run, text: str, tmp_path: Path) -> None:
    base = str(tmp_path / "base.kld")
    saved = json.loads(run("perplexity", "-f", text, "-c", "64", "--kl-divergence-base", base, "--json")[1])
    compared = ("perplexity", "--kl-divergence-base", base, "--kl-divergence")
    report = json.loads(run(*compared, "--json")[1])
    assert report["perplexity"] == saved["perplexity"]
    found = report["kl_divergence"]
    assert found["n"] == saved["n_scored"]
    assert found["same_top"][0] > 0.99
    assert abs(found["kld"][0]) < 1e-3
    worse = json.loads(run(*compared, "--json", "-ctk", "q8_0", "-ctv", "q8_0")[1])["kl_divergence"]
    assert worse["kld"][0] > found["kld"][0]


def test_what_a_comparison_prints(run: Run, text: str, tmp_path: Path) -> None:
    base = str(tmp_path / "base.kld")
    run("perplexity", "-f", text, "-c", "32", "--kl-divergence-base", base, "-q")
    code, out, err = run("perplexity", "--kl-divergence-base", base, "--kl-divergence", "--chunks", "3")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split()[:2] == ["chunk", "PPL"]
    assert [line.split()[0] for line in lines[1:4]] == ["1", "2", "3"]
    assert [line for line in lines if line.startswith("=")] == [
        "====== Perplexity statistics ======",
        "====== KL divergence statistics ======",
        "====== Token probability statistics ======",
    ]
    names = [line.partition(":")[0].strip() for line in lines]
    assert {"Mean PPL(Q)", "Mean KLD", "99.9% KLD", "Median KLD", "RMS Δp", "Same top p"} <= set(names)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ("", "a text is needed, -f FILE"),
        ("-f none.txt", "none.txt: no such file or directory"),
        ("-f text.txt -c 200", "text.txt: has N tokens, 400 are needed for windows of 200; smaller ones"),
        ("-f text.txt --chunks 0", "--chunks is 0, an integer from 1 up or -1 (all) is needed"),
        ("-f text.txt -c 2", "-c is 2, windows of 3 tokens or more are needed"),
        ("-f text.txt -c 32 --kl-divergence-base no/base", "no/base: no such file or directory"),
        ("-f text.txt -c 32 --kl-divergence-base .", ".: is not a regular file"),
        ("--kl-divergence", "--kl-divergence needs the base model's file, --kl-divergence-base FILE"),
        ("-f text.txt --kl-divergence --kl-divergence-base b", "-f has no use with --kl-divergence"),
        ("--kl-divergence --kl-divergence-base none", "none: no such file or directory"),
        ("--kl-divergence --kl-divergence-base text.txt", "text.txt: not a file of log probabilities"),
        ("--kl-divergence --kl-divergence-base base -c 16", "-c is 16, base has windows of 32"),
        ("--kl-divergence --kl-divergence-base other", "other: is of a vocabulary of 5, this model has"),
    ],
)
def test_bad_input(
    run: Run, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if "base base" in args:
        run("perplexity", "-f", text, "-c", "32", "--kl-divergence-base", "base", "-q")
    rows = np.zeros((2, 3, 10), "<u2").tobytes()
    header = b"_logits_" + np.array([8, 5, 2], "<i4").tobytes()
    Path("other").write_bytes(header + np.zeros(16, "<i4").tobytes() + rows)
    code, out, err = run("perplexity", *args.split())
    assert (code, out) == (2, "")
    found = err.removeprefix("graphsched: ")
    assert found.startswith(sentence.split(" N ")[0])
    assert err.count("\n") == 1
    assert not list(tmp_path.glob("*.part"))


def test_windows_longer_than_the_training(run: Run, text: str) -> None:
    trained = graphsched.load().model.n_ctx_train
    Path(text).write_text(TEXT * 20)
    code, _, err = run("perplexity", "-f", text, "-c", str(trained + 8), "--chunks", "1")
    assert (code, err) == (
        0,
        f"hint: the model was trained on {trained} tokens, the context has {trained + 8}\n",
    )
