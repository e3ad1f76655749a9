"""Synthetic models: real shapes and types, files that load and run, weights of a sane size, sentences for bad input."""

import os
import stat
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphsched.cli import main as cli
from graphsched.errors import OptionError
from graphsched.gguf.loader import open_model
from graphsched.gguf.write import encode_header
from graphsched.graph.tensor import TensorType, layer_of
from graphsched.session.model import Model
from graphsched.session.options import SessionOptions
from graphsched.session.session import Session
from graphsched.synth import model as synth
from graphsched.synth.blocks import llama_block
from graphsched.synth.layout import Layout
from graphsched.synth.layouts import LAYOUTS
from graphsched.synth.recent import RECENT
from graphsched.synth.types import type_name
from graphsched.synth.weights import check_encodable, chunks
from graphsched.types import dtypes

TINY = Layout(
    "llama",
    "Tiny",
    {
        "block_count": 3,
        "context_length": 64,
        "embedding_length": 256,
        "feed_forward_length": 512,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "vocab_size": 300,
        "rope.dimension_count": 64,
        "rope.freq_base": 10000.0,
        "attention.layer_norm_rms_epsilon": 1e-5,
    },
    llama_block,
)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(LAYOUTS, "tiny", TINY)
    return "tiny"


@pytest.mark.parametrize(
    ("layout", "weights", "tensors"),
    [
        ("llama-1.1b", 1_100_048_384, 201),
        ("llama-8b", 8_030_261_248, 292),
        ("qwen3-30b-a3b", 30_532_122_624, 579),
        ("deepseek-v2-lite", 15_706_484_224, 377),
        ("deepseek-v3", 671_026_419_200, 1086),
        ("maverick", 400_711_848_960, 531),
        ("bitnet-2b", 2_412_820_480, 332),
        ("qwen3.5-35b-a3b", 34_660_610_688, 733),
        ("nemotron-3-nano-30b-a3b", 31_577_940_288, 401),
        ("qwen3-32b", 32_762_123_264, 707),
        ("qwen3-235b-a22b", 235_093_634_560, 1131),
        ("qwen3-coder-480b-a35b", 480_154_875_392, 747),
        ("qwen3-next-80b-a3b", 79_674_391_296, 843),
        ("glm-4.5-air", 106_852_251_264, 780),
        ("glm-4.6", 352_797_829_024, 1736),
        ("gpt-oss-20b", 20_914_757_184, 459),
        ("gpt-oss-120b", 116_829_156_672, 687),
        ("minimax-m2", 228_689_764_864, 809),
        ("kimi-k2", 1_026_408_232_448, 1096),
        ("deepseek-v3.2", 671_877_944_064, 1391),
        ("mistral-small-3.2", 23_572_403_200, 363),
        ("gemma-3-27b", 27_009_346_304, 808),
        ("seed-oss-36b", 36_151_104_512, 771),
        ("hunyuan-a13b", 80_393_183_232, 482),
        ("granite-4.0-h-small", 32_207_337_984, 666),
        ("lfm2-8b-a1b", 8_339_930_560, 256),
    ],
)
def test_layouts_have_the_size_of_the_models(layout: str, weights: int, tensors: int) -> None:
    metadata, types = synth.header(layout)
    # rope_freqs is computed by the converter and no parameter of the model
    assert sum(t.numel for name, t in types.items() if name != "rope_freqs.weight") == weights
    assert len(types) == tensors
    arch = metadata["general.architecture"]
    assert metadata[f"{arch}.block_count"] == 1 + max(map(layer_of, types))


@pytest.mark.parametrize(
    ("layout", "billions"),
    [
        ("qwen3-32b", 32.8),
        ("qwen3-235b-a22b", 235),
        ("qwen3-coder-480b-a35b", 480),
        ("qwen3-next-80b-a3b", 80),
        ("glm-4.5-air", 106),
        ("glm-4.6", 355),
        ("gpt-oss-20b", 20.9),
        ("gpt-oss-120b", 116.8),
        ("minimax-m2", 230),
        ("kimi-k2", 1030),  # counted on its page; "1T" in its name
        ("deepseek-v3.2", 671),
        ("mistral-small-3.2", 23.6),  # the text model of 24.0
        ("gemma-3-27b", 27.0),  # the text model of 27.4
        ("seed-oss-36b", 36),
        ("hunyuan-a13b", 80),
        ("granite-4.0-h-small", 32),
        ("lfm2-8b-a1b", 8.3),
    ],
)
def test_recent_layouts_have_the_published_number_of_parameters(layout: str, billions: float) -> None:
    weights = sum(t.numel for t in synth.header(layout)[1].values())
    assert weights == pytest.approx(billions * 1e9, rel=0.01)


@pytest.mark.parametrize("layout", RECENT)
def test_the_first_layers_have_what_the_architecture_reads_and_nothing_else(
    layout: str, tmp_path: Path
) -> None:
    synth.write(layout, tmp_path / "x", layers=min(6, LAYOUTS[layout].keys["block_count"]), extent="header")
    model = Model(open_model(tmp_path / "x", header_only=True))
    try:
        model.graph(1, 1, 64, SessionOptions(n_ctx=64))
        assert not model.unread
    finally:
        model.file.close()


def counted(layout: str, type: str) -> dict[str, int]:
    return dict(Counter(t.dtype.name for t in synth.header(layout, type)[1].values()))


@pytest.mark.parametrize(
    ("layout", "type", "expected"),
    [
        ("llama-1.1b", "Q4_K_M", {"F32": 45, "Q4_K": 135, "Q6_K": 21}),  # as in the published file
        ("llama-8b", "q4_k_m", {"F32": 66, "Q4_K": 193, "Q6_K": 33}),  # likewise
        ("llama-1.1b", "", {"F32": 45, "Q4_0": 156}),
        ("deepseek-v2-lite", "Q4_K", {"F32": 108, "Q4_K": 242, "Q5_0": 27}),  # rows of 1408 and 10944
        ("deepseek-v3", "IQ4_XS", {"F32": 361, "IQ4_XS": 664, "IQ4_NL": 61}),
        ("llama-1.1b", "IQ4_NL_R4", {"F32": 45, "IQ4_NL_R4": 155, "IQ4_NL": 1}),
        ("bitnet-2b", "", {"F32": 121, "IQ2_BN": 210, "Q6_K": 1}),
        ("bitnet-2b", "I2_S", {"F32": 121, "I2_S": 210, "F16": 1}),
        ("qwen3.5-35b-a3b", "", {"F32": 301, "Q4_0": 432}),
        ("gpt-oss-20b", "", {"F32": 289, "Q8_0": 98, "MXFP4": 72}),  # as in the published file
        ("nemotron-3-nano-30b-a3b", "Q4_K_M", {"F32": 237, "Q4_K": 29, "Q5_0": 110, "Q8_0": 25}),
    ],
)
def test_types_of_a_model(layout: str, type: str, expected: dict[str, int]) -> None:
    assert counted(layout, type) == expected


def test_the_mix_gives_more_bits_to_the_layers_that_llama_cpp_chooses() -> None:
    types = synth.header("llama-1.1b", "Q4_K_M")[1]
    wide = [layer_of(n) for n, t in types.items() if t.dtype is dtypes.Q6_K and "attn_v." in n]
    assert wide == [0, 1, 4, 7, 10, 13, 16, 19, 20, 21]
    assert types["output.weight"].dtype is dtypes.Q6_K


@pytest.mark.parametrize("layout", synth.names())
def test_a_header_loads_with_a_tokenizer_of_the_right_size(layout: str, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    synth.write(layout, path, extent="header")
    metadata, types = synth.header(layout)
    with open_model(path, header_only=True) as file:
        assert {n: TensorType(t.dtype, t.shape) for n, t in file.tensors.items()} == types
        for key, value in metadata.items():
            assert np.all(file.metadata[key] == (pytest.approx(value) if isinstance(value, float) else value))
        tokens = file.get("tokenizer.ggml.tokens", tuple)
        assert len(set(tokens)) == len(tokens) == types["token_embd.weight"].shape[0]


@pytest.mark.parametrize("type", ["Q4_0", "Q8_0", "F16", "Q4_K_M", "IQ2_BN"])
def test_a_file_runs_and_its_logits_are_of_size_1(tiny: str, type: str, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    synth.write(tiny, path, type)
    model = Model(open_model(path))
    assert model.tokenizer.decode(model.tokenizer.encode("ab é")) == "ab é"
    try:
        session = Session(model, SessionOptions(backend="reference", n_ctx=16))
        logits = session.eval([1, 270, 280, 290], all_logits=True)
    finally:
        model.file.close()
    assert np.isfinite(logits).all()
    assert 0.5 < logits.std() < 2
    assert np.abs(logits).max() < 6 * logits.std()
    assert np.corrcoef(logits[1], logits[3])[0, 1] < 0.9  # the tokens are told apart


SMALL_HYBRID: dict[str, Any] = {
    "embedding_length": 256,
    "vocab_size": 300,
    "attention.head_count": 4,
    "attention.key_length": 64,
    "attention.value_length": 64,
    "rope.dimension_count": 64,
    "expert_count": 8,
    "expert_used_count": 2,
    "expert_feed_forward_length": 64,
    "expert_shared_feed_forward_length": 96,
    "ssm.inner_size": 256,
    "ssm.state_size": 32,
    "ssm.time_step_rank": 8,
    "ssm.group_count": 4,
}


@pytest.mark.parametrize(("name", "layers"), [("qwen3.5-35b-a3b", 4), ("nemotron-3-nano-30b-a3b", 6)])
def test_the_first_layers_of_a_hybrid_run(
    name: str, layers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All kinds of its layers are among them."""
    whole = LAYOUTS[name]
    monkeypatch.setitem(LAYOUTS, "small", replace(whole, keys={**whole.keys, **SMALL_HYBRID}))
    synth.write("small", tmp_path / "x", "Q8_0", layers=layers)
    model = Model(open_model(tmp_path / "x"))
    assert model.config.n_layer == layers
    session = Session(model, SessionOptions(backend="reference", n_ctx=64))
    logits = session.eval(list(range(1, 40)), all_logits=True)
    session.close()
    assert not model.unread
    assert 0.3 < logits.std() < 3
    assert 0.5 < logits[-4:].std() / logits[:4].std() < 2  # what the state keeps does not grow


@pytest.mark.parametrize("layers", [-1, 41])
def test_more_layers_than_a_layout_has(layers: int) -> None:
    with pytest.raises(OptionError) as e:
        synth.header("qwen3.5-35b-a3b", layers=layers)
    assert str(e.value) == f"{layers} layers, the layout has 40: a number from 1 to that is needed"


def encodable() -> list[dtypes.DType]:
    found = []
    for t in dtypes.all_types():
        try:
            check_encodable(t)
            found.append(t)
        except OptionError:
            pass
    return [t for t in found if t.name not in ("I8", "I16", "I32", "I64")]


@pytest.mark.parametrize("dtype", encodable(), ids=str)
def test_weights_of_every_type_have_mean_0_and_the_size_for_their_inputs(dtype: dtypes.DType) -> None:
    type = TensorType(dtype, (96, 1024))
    raw = np.concatenate([c.reshape(-1) for c in chunks("blk.0.attn_q.weight", type, 2, is_tied=False)])
    w = dtype.dequantize(raw, type.shape)
    assert abs(w.std() * 32 - 1) < 0.05
    assert abs(w.mean() * 32) < 0.05
    assert np.abs(np.corrcoef(w) - np.eye(96)).max() < 0.5  # rows differ


def test_at_least_these_types_can_be_made_up() -> None:
    names = {t.name for t in encodable()}
    assert names >= {
        "F32",
        "F16",
        "BF16",
        "Q4_0",
        "Q4_1",
        "Q5_0",
        "Q5_1",
        "Q8_0",
        "IQ4_NL",
        "IQ4_XS",
        "MXFP4",
    }
    assert names >= {"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ1_BN", "IQ2_BN", "IQ2_BN_R4", "I2_S", "TQ2_0"}
    assert names >= {"Q4_0_R8", "Q8_0_R8", "IQ4_NL_R4", "Q5_0_R4", "Q6_0_R4", "IQ3_S", "IQ2_XXS", "Q6_0"}


def test_a_file_is_the_same_every_time(tiny: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        synth.write(tiny, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_a_sparse_file_has_its_full_size_and_takes_no_space(tiny: str, tmp_path: Path) -> None:
    whole, sparse = tmp_path / "whole", tmp_path / "sparse"
    synth.write(tiny, whole)
    synth.write(tiny, sparse, extent="sparse")
    assert sparse.stat().st_size == whole.stat().st_size
    assert sparse.stat().st_blocks * 512 < 100_000 < whole.stat().st_blocks * 512
    with open_model(sparse) as file:
        assert not file.raw("output.weight").any()


def test_writing_takes_little_memory_and_tells_how_far_it_is(tiny: str, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    wide = Layout("llama", "Wide", {**TINY.keys, "vocab_size": 30_000}, llama_block)
    LAYOUTS["tiny"] = wide
    synth.write(tiny, tmp_path / "warm", "F32")  # makes the pool of noise
    tracemalloc.start()
    synth.write(tiny, tmp_path / "x", "F32", progress=lambda done, total: told.append((done, total)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    size = (tmp_path / "x").stat().st_size
    assert size > 60e6 > 2 * peak
    assert told[0][0] == 0
    assert told[-1][0] == told[-1][1] > 60e6
    assert told == sorted(told)


def test_header_values_of_all_kinds_are_read_back(tmp_path: Path) -> None:
    metadata: dict[str, Any] = {
        "int": 7,
        "large": 1 << 40,
        "negative": -3,
        "float": 0.5,
        "true": True,
        "text": "é\udcff",
        "texts": ("a", "", "▁"),
        "floats": np.array([1, 2.5], np.float32),
        "ints": np.array([-1, 2], np.int64),
        "bools": np.array([True, False]),
    }
    types = {"w": TensorType(dtypes.F16, (2, 3, 8)), "v": TensorType(dtypes.F32, (1,))}
    path = tmp_path / "x.gguf"
    path.write_bytes(encode_header(metadata, types))
    with open_model(path, header_only=True) as file:
        for key, value in metadata.items():
            same = (
                np.array_equal
                if isinstance(value, np.ndarray)
                else lambda a, b: a == b and type(a) is type(b)
            )
            assert same(file.metadata[key], value), key
        assert {n: TensorType(t.dtype, t.shape) for n, t in file.tensors.items()} == types


class TestErrors:
    @pytest.mark.parametrize(
        ("layout", "type", "sentence"),
        [
            (
                "llama-7b",
                "",
                f"no layout llama-7b; there are llama-1.1b, llama-8b, {', '.join(synth.names()[2:])}",
            ),
            ("llama-8b", "Q4_K_X", "no type Q4_K_X for weights; did you mean Q4_K_M?"),
            ("llama-8b", "q4", "no type q4 for weights; did you mean Q4_K?"),
            (
                "llama-8b",
                "?",
                "no type ? for weights; there are such as F16, Q4_0, Q4_K_M, IQ4_NL, IQ2_BN",
            ),
            ("llama-8b", "I32", "no type I32 for weights; did you mean F32?"),
            ("llama-8b", "Q8_K", "no type Q8_K for weights; did you mean Q8_0?"),
            (
                "llama-8b",
                "IQ4_KS",
                "there are no made-up weights of type IQ4_KS; --sparse and --header-only need none",
            ),
        ],
    )
    def test_unknown_layouts_and_types(self, layout: str, type: str, sentence: str, tmp_path: Path) -> None:
        with pytest.raises(OptionError) as e:
            synth.write(layout, tmp_path / "x", type)
        assert str(e.value) == sentence
        assert not os.listdir(tmp_path)

    def test_a_type_without_made_up_weights_can_be_planned(self, tmp_path: Path) -> None:
        synth.write("llama-1.1b", tmp_path / "x", "IQ4_KS", extent="sparse")
        with open_model(tmp_path / "x") as file:
            assert file.tensors["blk.0.attn_q.weight"].dtype.name == "IQ4_KS"

    def test_an_existing_file_stays_unless_forced(self, tiny: str, tmp_path: Path) -> None:
        path = tmp_path / "x"
        path.write_bytes(b"precious")
        with pytest.raises(OptionError) as e:
            synth.write(tiny, path)
        assert str(e.value) == f"{path}: exists, --force replaces it"
        assert path.read_bytes() == b"precious"
        synth.write(tiny, path, force=True)
        assert path.read_bytes()[:4] == b"GGUF"

    def test_places_where_no_file_can_be(self, tiny: str, tmp_path: Path) -> None:
        missing = tmp_path / "no" / "x"
        for path, sentence in (
            (tmp_path, f"{tmp_path}: is not a regular file"),
            (missing, f"{missing}: no such file or directory"),
            (Path("a\0b"), r"a\x00b: is not a possible file name"),
        ):
            with pytest.raises(OptionError) as e:
                synth.write(tiny, path, force=True)
            assert str(e.value) == sentence

    @pytest.mark.skipif(not Path("/dev/null").exists(), reason="no /dev/null")
    def test_a_device_is_never_replaced(self, tiny: str) -> None:
        with pytest.raises(OptionError, match=r"^/dev/null: is not a regular file$"):
            synth.write(tiny, Path("/dev/null"), force=True)
        assert stat.S_ISCHR(os.stat("/dev/null").st_mode)

    def test_a_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("", (), {"free": 5 * 10**9}))
        with pytest.raises(OptionError) as e:
            synth.write("deepseek-v3", tmp_path / "x")
        assert str(e.value) == f"{tmp_path / 'x'}: 377.8 GB do not fit into 5.0 GB, --sparse takes none"

    def test_an_interrupted_write_leaves_nothing(self, tiny: str, tmp_path: Path) -> None:
        def interrupt(done: int, total: int) -> None:
            if done:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            synth.write(tiny, tmp_path / "x", progress=interrupt)
        assert not os.listdir(tmp_path)


def test_names_of_types_in_any_case() -> None:
    assert [type_name(t) for t in ("q4_0", "Q4_K_m", "iq2_bn")] == ["Q4_0", "Q4_K_M", "IQ2_BN"]


class TestCommand:
    def run(self, *args: object) -> int:
        return cli.run(["synth", *map(str, args)])

    def test_writes(self, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.run("tiny", tmp_path / "x", "--type", "Q8_0") == 0
        assert capsys.readouterr() == ("", "")
        with open_model(tmp_path / "x") as file:
            assert file.tensors["output.weight"].dtype is dtypes.Q8_0

    @pytest.mark.parametrize(
        ("args", "sentence"),
        [
            (["llama-1.1b"], "missing argument 'OUT'"),
            (["tony", "x"], "no layout tony; there are "),
            (["tiny", "x", "--sparse", "--header-only"], "--sparse and --header-only exclude each other"),
            (["tiny", "x", "--type", "Q5"], "no type Q5 for weights; did you mean "),
            (["tiny", "no/x"], "no/x: no such file or directory"),
        ],
    )
    def test_a_bad_command_line_is_one_sentence_and_exit_2(
        self, tiny: str, args: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.run(*args) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"graphsched: {sentence}")
        assert err.count("\n") == 1

    def test_the_help_lists_all_layouts(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.run("--help") == 0
        text = " ".join(capsys.readouterr().out.split())
        assert f"Layouts: {', '.join(synth.names())}." in text
