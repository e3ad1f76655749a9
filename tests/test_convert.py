"""`graphsched convert`: checkpoints to files whose logits are those of the checkpoint, tokenizers, hostile input."""

import io
import json
import os
import tracemalloc
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import (
    MERGES,
    N_VOCAB,
    Arrays,
    Floats,
    bf16,
    forward,
    state_pickle,
    tokenizer_json,
    write_hugging_face,
    write_safetensors,
    write_tokenizer,
    write_torch,
)
from numpy.typing import NDArray
from running import model_path

import graphsched
from graphsched.cli import main as cli
from graphsched.cli.interactive import Chat
from graphsched.convert import model, recipes, ternary
from graphsched.convert.checkpoint import values
from graphsched.convert.config import HfConfig, rope_factors
from graphsched.convert.names import Family, gguf_name
from graphsched.convert.recipes import permute_rows, unpermute_rows
from graphsched.convert.torch_file import TorchFile
from graphsched.convert.vocab import tokenizer
from graphsched.convert.vocab_files import read_model
from graphsched.convert.write import write
from graphsched.errors import Error
from graphsched.gguf.loader import open_model
from graphsched.text import chat
from graphsched.text.bpe import BYTE_CHARACTERS
from graphsched.text.tokenizer import from_metadata

IDS = [1, 17, 200, 33, 33, 255, 4, 90]
LAYERS, WIDTH, INNER, HEADS, KV = 2, 256, 512, 4, 2
CONFIG: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "intermediate_size": INNER,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV,
    "max_position_embeddings": 128,
    "vocab_size": N_VOCAB,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "hidden_act": "silu",
}
MATRICES = {
    "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.k_proj": (WIDTH * KV // HEADS, WIDTH),
    "self_attn.v_proj": (WIDTH * KV // HEADS, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH),
}
DENSE = {"mlp.gate_proj": (INNER, WIDTH), "mlp.up_proj": (INNER, WIDTH), "mlp.down_proj": (WIDTH, INNER)}
VECTORS = {"input_layernorm": WIDTH, "post_attention_layernorm": WIDTH}
SUB_NORMS = {"self_attn.attn_sub_norm": WIDTH, "mlp.ffn_sub_norm": INNER}


def convert(*args: object) -> int:
    return cli.run(["convert", *map(str, args)])


def drawn(
    matrices: Mapping[str, tuple[int, int]], vectors: Mapping[str, int], biases: tuple[str, ...] = ()
) -> Arrays:
    """Random weights of all layers, rounded to BF16, in float32."""
    rng = np.random.default_rng(6)

    def draw(*shape: int) -> Floats:
        size = 0.5 if len(shape) == 1 else 1 / np.sqrt(shape[-1])
        return ternary.rounded_to_bf16(
            (rng.standard_normal(shape) * size + (len(shape) == 1)).astype(np.float32)
        )

    tensors: Arrays = {"model.embed_tokens.weight": draw(N_VOCAB, WIDTH), "model.norm.weight": draw(WIDTH)}
    for i in range(LAYERS):
        for name, shape in matrices.items():
            tensors[f"model.layers.{i}.{name}.weight"] = draw(*shape)
            if name in biases:
                tensors[f"model.layers.{i}.{name}.bias"] = ternary.rounded_to_bf16(draw(shape[0]) - 1)
        for name, n in vectors.items():
            tensors[f"model.layers.{i}.{name}.weight"] = draw(n)
    return tensors


def nmse(a: Floats, b: Floats) -> float:
    return float(np.sum((a - b) ** 2) / np.sum(b**2))


def logits(path: Path) -> Floats:
    session = graphsched.load(path, n_ctx=64, type_k="f32", type_v="f32")
    return session.eval(IDS, all_logits=True).copy()


# --- Llama and Qwen ---

QWEN3_NORMS = {"self_attn.q_norm": WIDTH // HEADS, "self_attn.k_norm": WIDTH // HEADS}
EXPERTS = {
    f"mlp.experts.{e}.{n}_proj": s
    for e in range(4)
    for n, s in (("gate", (128, 256)), ("up", (128, 256)), ("down", (256, 128)))
}
QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


@pytest.mark.parametrize(
    ("name", "tensors", "more", "out_type", "limit"),
    [
        ("LlamaForCausalLM", drawn(MATRICES | DENSE, VECTORS), {}, "f32", 1e-9),
        (
            "LlamaForCausalLM",
            drawn(MATRICES | DENSE, VECTORS, QKV[:2]),
            {"tie_word_embeddings": True},
            "f16",
            1e-5,
        ),
        ("Qwen2ForCausalLM", drawn(MATRICES | DENSE, VECTORS, QKV), {}, "f32", 1e-9),
        ("Qwen3ForCausalLM", drawn(MATRICES | DENSE, VECTORS | QWEN3_NORMS), {"head_dim": 64}, "f32", 1e-9),
        (
            "Qwen3MoeForCausalLM",
            drawn(MATRICES | EXPERTS | {"mlp.gate": (4, WIDTH)}, VECTORS | QWEN3_NORMS),
            {"head_dim": 64, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 128},
            "q8_0",
            1e-3,
        ),
    ],
)
def test_logits_are_those_of_the_checkpoint(
    tmp_path: Path, name: str, tensors: Arrays, more: dict[str, Any], out_type: str, limit: float
) -> None:
    pytest.importorskip("safetensors")
    config = CONFIG | {"architectures": [name]} | more
    stored: Arrays = {n: bf16(a) for n, a in tensors.items()}
    if not more.get("tie_word_embeddings"):
        tensors = tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"][::-1]}
        stored["lm_head.weight"] = np.ascontiguousarray(stored["model.embed_tokens.weight"][::-1])
    folder = write_hugging_face(tmp_path / "hf", config, stored, parts=3 if "Moe" in name else 1)
    assert convert(folder, tmp_path / "out.gguf", "--outtype", out_type) == 0
    assert nmse(logits(tmp_path / "out.gguf"), forward(config, tensors, IDS)) < limit


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.embed_tokens.weight", ("token_embd.weight", 0)),
        ("model.layers.3.self_attn.k_proj.bias", ("blk.3.attn_k.bias", 0)),
        ("model.layers.3.block_sparse_moe.gate.weight", ("blk.3.ffn_gate_inp.weight", 0)),
        ("model.layers.3.block_sparse_moe.experts.7.w2.weight", ("blk.3.ffn_down_exps.weight", 7)),
        ("model.layers.12.mlp.experts.127.up_proj.weight", ("blk.12.ffn_up_exps.weight", 127)),
        ("model.layers.0.self_attn.inner_attn_ln.weight", ("blk.0.attn_sub_norm.weight", 0)),
        ("model.layers.99999.mlp.gate_proj.weight", None),
        ("model.layers.0.mlp.experts.0.w9.weight", None),
        ("transformer.h.0.attn.weight", None),
    ],
)
def test_names(name: str, expected: tuple[str, int] | None) -> None:
    assert gguf_name(name, Family(arch="llama")) == expected


def test_the_permutation_of_queries_and_keys() -> None:
    """Row j of a head's first half and row j of its second become neighbours."""
    w = np.arange(16).astype(np.float32)[:, None]
    assert permute_rows(w, 2)[:, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]
    assert (unpermute_rows(permute_rows(w, 2), 2) == w).all()


def test_llama3_scaling_becomes_a_tensor() -> None:
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling |= {"original_max_position_embeddings": 8192}
    config = HfConfig(CONFIG | {"rope_scaling": scaling, "head_dim": 128}, "config.json")
    factors = rope_factors(config)
    assert factors is not None
    with open_model(model_path("llama")) as file:
        assert file.tensors["rope_freqs.weight"].shape == (32,)
    wave = 2 * np.pi * 5e5 ** (np.arange(0, 128, 2) / 128)
    assert (factors[wave < 2048] == 1).all()
    assert (factors[wave > 8192] == 8).all()
    between = (wave > 2048) & (wave < 8192)
    assert ((factors[between] > 1) & (factors[between] < 8)).all()
    assert (np.diff(factors) >= 0).all()


# --- BitNet ---


def bitnet() -> tuple[Arrays, Arrays, Arrays]:
    """Master weights, codes with scales, and what both stand for."""
    masters = drawn(MATRICES | DENSE, VECTORS | SUB_NORMS)
    values, codes = dict(masters), dict[str, NDArray[Any]]()
    for name, w in masters.items():
        if w.ndim == 2 and "layers" in name:
            mean = np.abs(w).mean(dtype=np.float64, keepdims=True)
            scale = ternary.rounded_to_bf16(mean.astype(np.float32)).reshape(())
            q = np.clip(np.rint(w / scale), -1, 1)
            values[name], codes[name] = (q * scale).astype(np.float32), q.astype(np.int8)
            codes[f"{name}_scale"] = scale
    return masters, codes, values


def packed(codes: Arrays, masters: Arrays, *, inverted: bool = False) -> Arrays:
    """Hugging Face's file of packed weights."""
    out: Arrays = {}
    for name, w in masters.items():
        if name not in codes:
            out[name] = bf16(w)
            continue
        rows = (codes[name] + 1).astype(np.uint8).reshape(4, -1, w.shape[1])
        out[name] = rows[0] | rows[1] << 2 | rows[2] << 4 | rows[3] << 6
        scale = codes[f"{name}_scale"].reshape(1)
        out[f"{name}_scale"] = (1 / scale).astype(np.float32) if inverted else bf16(scale)
    return out


def for_gpu(codes: Arrays, values: Arrays, masters: Arrays, *, is_packed: bool) -> Arrays:
    """Microsoft's state dict: joined matrices, queries and keys in the order of neighbours."""
    out: Arrays = {"tok_embeddings.weight": bf16(masters["model.embed_tokens.weight"])}
    out["output.weight"] = out["tok_embeddings.weight"]
    out["norm.weight"] = bf16(masters["model.norm.weight"])
    norms = ("attention_norm", "ffn_norm", "attention.attn_sub_norm", "feed_forward.ffn_sub_norm")
    joined = {
        "attention.wqkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "attention.wo": ("self_attn.o_proj",),
        "feed_forward.w13": ("mlp.gate_proj", "mlp.up_proj"),
        "feed_forward.w2": ("mlp.down_proj",),
    }
    for i in range(LAYERS):
        for ours, theirs in zip((*VECTORS, *SUB_NORMS), norms, strict=True):
            out[f"layers.{i}.{theirs}.weight"] = bf16(masters[f"model.layers.{i}.{ours}.weight"])
        for name, parts in joined.items():
            full = [f"model.layers.{i}.{part}.weight" for part in parts]
            rows = [codes[n] if is_packed else values[n] for n in full]
            if len(rows) == 3:
                rows[:2] = [permute_rows(rows[0], HEADS), permute_rows(rows[1], KV)]
            w = np.concatenate(rows)
            out[f"layers.{i}.{name}.weight"] = ternary.pack_tiles(w) if is_packed else bf16(w)
            if is_packed:
                scales = [*(codes[f"{n}_scale"].item() for n in full), 0.0, 0.0, 0.0][:4]
                out[f"layers.{i}.{name}.weight_scale"] = bf16(np.array(scales, np.float32))
    return out


BITNET = CONFIG | {"architectures": ["BitNetForCausalLM"], "hidden_act": "relu2", "tie_word_embeddings": True}


def quantization(linear_class: str, mode: str) -> dict[str, Any]:
    return {
        "quantization_config": {
            "quant_method": "bitnet",
            "linear_class": linear_class,
            "quantization_mode": mode,
        }
    }


@pytest.mark.parametrize("kind", ["packed", "inverted", "bf16", "int2", "fp16"])
def test_bitnet_from_all_its_formats(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    masters, codes, values = bitnet()
    folder, out, small = tmp_path / "b", tmp_path / "out.gguf", tmp_path / "small.gguf"
    if kind in ("int2", "fp16"):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(BITNET))
        write_tokenizer(folder)
        tensors = for_gpu(codes, values, masters, is_packed=kind == "int2")
        write_torch(folder / f"model_state_{kind}.pt", tensors)
    else:
        pytest.importorskip("safetensors")
        old = kind == "inverted"
        tensors = (
            {n: bf16(w) for n, w in masters.items()}
            if kind == "bf16"
            else packed(codes, masters, inverted=old)
        )
        mode = "online" if kind == "bf16" else "offline"
        write_hugging_face(
            folder, BITNET | quantization("bitlinear" if old else "autobitlinear", mode), tensors
        )
    expected = forward(BITNET, values, IDS)
    assert convert(folder, out, "--outtype", "f32") == 0
    assert nmse(logits(out), expected) < 1e-9
    with open_model(out) as file:
        assert file.metadata["general.architecture"] == "bitnet-b1.58"
        assert "output.weight" not in file.tensors
        w = values["model.layers.1.self_attn.k_proj.weight"]
        np.testing.assert_allclose(file.array("blk.1.attn_k.weight"), w, rtol=1e-6)
    # embeddings in 16 bits, so that what differs is the rounding of activations to 8 bits alone
    assert cli.run(["quantize", str(out), str(small), "IQ2_BN", "--output-tensor-type", "f16"]) == 0
    assert nmse(logits(small), expected) < 3e-3
    with open_model(small) as file:
        assert file.tensors["blk.1.attn_k.weight"].dtype.name == "IQ2_BN"
        np.testing.assert_allclose(file.array("blk.1.attn_k.weight"), w, rtol=1e-6)
    assert convert(folder, small, "--outtype", "I2_S") == 0
    with open_model(small) as file:
        assert file.tensors["blk.0.ffn_down.weight"].dtype.name == "I2_S"
        assert file.tensors["token_embd.weight"].dtype.name == "F16"
        np.testing.assert_allclose(file.array("blk.1.attn_k.weight"), w, rtol=1e-6)


def test_heads_of_a_checkpoint_for_gpus_without_a_config(tmp_path: Path) -> None:
    masters, codes, values = bitnet()
    write_tokenizer(tmp_path)
    file = write_torch(tmp_path / "model_state_int2.pt", for_gpu(codes, values, masters, is_packed=True))
    assert convert(file, tmp_path / "out.gguf") == 0
    with open_model(tmp_path / "out.gguf") as model:
        assert model.metadata["bitnet-b1.58.attention.head_count"] == WIDTH // 128
        assert model.metadata["bitnet-b1.58.rope.freq_base"] == 500000.0


def test_chat_of_2b_4t(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint without a template gets the model's own format, and a chat reads it token by token."""
    masters, codes, values = bitnet()
    write_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(
        '{"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}'
    )
    (tmp_path / "config.json").write_text(json.dumps(BITNET))
    write_torch(tmp_path / "model_state_int2.pt", for_gpu(codes, values, masters, is_packed=True))
    assert convert(tmp_path, tmp_path / "out.gguf") == 0
    session = graphsched.load(tmp_path / "out.gguf", n_ctx=128)
    chat = Chat(session, system="Be brief.")
    ids = chat.session.tokenizer.encode_prompt(chat.dialect.render([{"role": "user", "content": " hello "}]))
    assert ids[0] == session.tokenizer.bos
    assert ids.count(session.tokenizer.eot or -1) == 1
    text = "".join(session.tokenizer.piece(i, special=True).decode() for i in ids)
    assert text == "<|begin_of_text|>User: hello<|eot_id|>Assistant: "
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\nwell\n"))
    capsys.readouterr()
    assert (
        cli.run(["run", "-m", str(tmp_path / "out.gguf"), "-i", "-n", "4", "-c", "128", "-q", "--temp", "0"])
        == 0
    )
    assert capsys.readouterr().out.count("\n") >= 2


@pytest.mark.parametrize("kind", ["hugging face", "gpu"])
def test_memory_holds_pieces_of_an_embedding(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "hugging face":
        pytest.importorskip("safetensors")
    monkeypatch.setattr(recipes, "_AT_ONCE", 1 << 16)
    n_vocab = 1 << 15
    embedding = bf16(np.random.default_rng(2).standard_normal((n_vocab, WIDTH)).astype(np.float32))
    masters, codes, values = bitnet()
    config = BITNET | {"vocab_size": n_vocab}
    if kind == "gpu":
        tensors = for_gpu(codes, values, masters, is_packed=True)
        tensors["tok_embeddings.weight"] = tensors["output.weight"] = embedding
        (folder := tmp_path / "b").mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        write_tokenizer(folder)
        write_torch(folder / "model_state_int2.pt", tensors)
    else:
        tensors = {n: bf16(w) for n, w in masters.items()} | {"model.embed_tokens.weight": embedding}
        folder = write_hugging_face(tmp_path / "b", config | quantization("autobitlinear", "online"), tensors)
    made = model.plan(folder, "bf16")
    tracemalloc.start()
    write(made, tmp_path / "out.gguf")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < embedding.nbytes * 1.25  # of a tensor in a .pt file the bytes, of one that is mapped none
    assert kind == "gpu" or peak < embedding.nbytes // 2
    with open_model(tmp_path / "out.gguf") as file:
        raw = np.asarray(file.raw("token_embd.weight")).view(np.uint16).reshape(n_vocab, WIDTH)
        np.testing.assert_array_equal(raw, embedding)


def test_weights_that_are_ternary_already_keep_their_scale() -> None:
    w = np.array([[0.5, 0, -0.5, 0, 0, 0]], np.float32)
    assert (ternary.absmean(w) == w).all()
    assert ternary.absmean(np.array([[1, 0.1, -0.8, 0.1]], np.float32)).tolist() == [[0.5, 0, -0.5, 0]]


def test_tiles_written_out() -> None:
    """The element and its place as the kernel reads them, one by one."""
    rng = np.random.default_rng(1)
    w = rng.integers(-1, 2, (32, 128)).astype(np.int8)
    raw = ternary.pack_tiles(w).reshape(-1).view(np.uint8)
    for n, k in rng.integers(0, (32, 128), (200, 2)):
        column, element = k % 128 // 16, k % 16
        at = n // 16 * 16 * 128 // 4 + k // 128 * 512 + column // 2 * 128
        at += n % 16 // 8 * 64 + column % 2 * 32 + n % 8 * 4 + element % 4
        assert (raw[at] >> (element // 4 * 2) & 3) - 2 == w[n, k]
    assert (ternary.unpack_tiles(raw.view(np.int8).reshape(32, 32)) == w).all()


# --- tokenizers ---


def test_a_byte_level_tokenizer(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    keys = tokenizer(tmp_path, N_VOCAB)
    assert keys["tokenizer.ggml.model"] == "gpt2"
    assert keys["tokenizer.ggml.pre"] == "llama-bpe"
    assert keys["tokenizer.ggml.merges"] == tuple(MERGES)
    assert (keys["tokenizer.ggml.bos_token_id"], keys["tokenizer.ggml.eos_token_id"]) == (261, 263)
    assert keys["tokenizer.ggml.add_bos_token"] is True
    tokens, types = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    assert isinstance(tokens, tuple)
    assert isinstance(types, np.ndarray)
    assert (len(tokens), tokens[261], tokens[-1]) == (N_VOCAB, "<|begin_of_text|>", "[PAD271]")
    assert types[[0, 261, 271]].tolist() == [1, 3, 5]
    own = from_metadata(keys, "x")
    ids = own.encode("hello wé", add_special=False)
    assert ids == [260, 259, *(BYTE_CHARACTERS.index(c) for c in "Ã©")]
    assert own.decode(ids) == "hello wé"
    assert chat.render(own.chat_template, [{"content": "x"}], bos="B", eos="E") == "Bx"


def test_the_same_from_ranks_of_tiktoken(tmp_path: Path) -> None:
    import base64

    words = [bytes([b]) for b in range(256)] + [b"he", b"ll", b"hell", b" w", b"hello"]
    text = "".join(f"{base64.b64encode(word).decode()} {i}\n" for i, word in enumerate(words))
    (tmp_path / "tokenizer.model").write_text(text)
    keys = tokenizer(tmp_path, 600)
    assert keys["tokenizer.ggml.merges"] == tuple(MERGES)
    assert keys["tokenizer.ggml.tokens"][:261] == tuple(tokenizer_json()["model"]["vocab"])  # type: ignore[index]
    assert keys["tokenizer.ggml.tokens"][261] == "<|begin_of_text|>"  # type: ignore[index]
    assert (keys["tokenizer.ggml.bos_token_id"], keys["tokenizer.ggml.eos_token_id"]) == (261, 262)


def test_a_sentencepiece_model(tmp_path: Path) -> None:
    def field(number: int, payload: bytes) -> bytes:
        return bytes([number << 3 | 2, len(payload)]) + payload

    with open_model(model_path("llama-F32")) as file:
        tokens = file.get("tokenizer.ggml.tokens", tuple)
        scores = file.get("tokenizer.ggml.scores", np.ndarray)
        types = file.get("tokenizer.ggml.token_type", np.ndarray)
        own = from_metadata(file.metadata, "x")
    pieces = [
        field(1, field(1, t.encode()) + b"\x15" + np.float32(s).tobytes() + bytes([3 << 3, k]))
        for t, s, k in zip(tokens, scores, types, strict=True)
    ]
    (tmp_path / "tokenizer.model").write_bytes(b"".join(pieces) + field(2, b"\x08\x01"))
    keys = tokenizer(tmp_path, 512)
    assert keys["tokenizer.ggml.tokens"] == tokens
    np.testing.assert_array_equal(keys["tokenizer.ggml.scores"], scores)
    np.testing.assert_array_equal(keys["tokenizer.ggml.token_type"], types)
    # the same as a fast tokenizer, which has ranks of merges instead of scores
    ids = {t: i for i, t in enumerate(tokens)}
    ranked = sorted((t for t in tokens if scores[ids[t]] < 0 and len(t) > 1), key=lambda t: -scores[ids[t]])
    merges = [[t[:i], t[i:]] for t in ranked for i in range(1, len(t)) if t[:i] in ids and t[i:] in ids]
    model = {"type": "BPE", "byte_fallback": True, "unk_token": "<unk>", "vocab": ids, "merges": merges}
    (tmp_path / "tokenizer.model").unlink()
    normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model, "normalizer": normalizer}))
    keys = tokenizer(tmp_path, 512)
    assert keys["tokenizer.ggml.add_space_prefix"] is True
    fast = from_metadata(keys | {"tokenizer.ggml.bos_token_id": 1}, "x")
    text = "Once upon a time, Lily saw a big ball. It was ünder 3 trees."
    assert fast.encode(text) == own.encode(text)


# --- input that is not what it says ---


class Hostile:
    def __reduce__(self) -> Any:
        return os.system, ("touch hostile",)


def pickles() -> dict[str, tuple[bytes, str]]:
    import pickle

    def changed(old: bytes, new: bytes) -> bytes:
        whole = state_pickle({"x": np.zeros((2, 3), np.float32)})
        assert old in whole
        return whole.replace(old, new)

    size, storage = pickle.dumps(6, 2)[2:-1], b"FloatStorage"
    return {
        "code": (pickle.dumps(Hostile()), "asks for posix.system, which no tensor needs; it is not loaded"),
        "a class": (
            changed(storage, b"Tensor"),
            "asks for torch.Tensor, which no tensor needs; it is not loaded",
        ),
        "builtins": (b"\x80\x02cbuiltins\neval\n.", "asks for builtins.eval, which no tensor needs"),
        "beyond": (
            changed(size + b"tQ", pickle.dumps(5, 2)[2:-1] + b"tQ"),
            "a tensor that does not lie within",
        ),
        "negative": (changed(size + b"tQ", pickle.dumps(-6, 2)[2:-1] + b"tQ"), "a storage that cannot be"),
        "cut": (state_pickle({})[:-3], "its pickle is broken, "),
        "memory": (b"\x80\x02}r\x00\x00\x00\x70.", "its pickle remembers more than it has room for"),
        "a list": (pickle.dumps([]), "holds no dictionary of tensors"),
    }


@pytest.mark.parametrize("kind", pickles())
def test_a_hostile_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    raw, sentence = pickles()[kind]
    path = write_torch(tmp_path / "x.pt", {"x": np.zeros((2, 3), np.float32)}, raw)
    with pytest.raises(Error) as e:
        TorchFile(path)
    assert str(e.value).startswith(f"x.pt: {sentence}")
    assert os.listdir() == ["x.pt"]


def test_a_torch_file(tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    file = TorchFile(write_torch(tmp_path / "x.pt", {"a": x, "b": bf16(x), "c": x.astype(np.int8)}))
    assert file.shapes == {"a": (2, 3), "b": (2, 3), "c": (2, 3)}
    assert (file.stored("a") == x).all()
    assert [file.kind(name) for name in "abc"] == ["F32", "BF16", "I8"]
    np.testing.assert_array_equal(values(file, "b"), x)
    np.testing.assert_array_equal(values(file, "c", 1, 2), x[1:])
    transposed = write_torch(tmp_path / "t.pt", {"a": x}, state_pickle({"a": x.T}))
    assert (TorchFile(transposed).stored("a") == x.T).all()
    bomb = write_torch(tmp_path / "z.pt", {"a": x}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(Error, match=r"^z\.pt: data\.pkl is compressed, which torch\.save never does$"):
        TorchFile(bomb)
    short = write_torch(tmp_path / "s.pt", {"a": x[:1]}, state_pickle({"a": x}))
    with pytest.raises(Error, match=r"^s\.pt: tensor a has a storage of another size than it says$"):
        TorchFile(short).stored("a")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "config.json: architecture GPT2LMHeadModel; of the "),
        ({"architectures": 3}, "config.json: no architecture; of the "),
        ({"hidden_size": "x"}, "config.json: key hidden_size is x, a positive integer is needed"),
        (
            {"num_hidden_layers": None},
            "config.json: key num_hidden_layers is missing, a positive integer is ",
        ),
        ({"num_hidden_layers": 3}, "hf: there is nothing that becomes blk.2"),
        ({"num_hidden_layers": 1}, "hf: blk.1.attn_q.weight is behind the last of 1 layers"),
        ({"rope_theta": "a"}, "config.json: key rope_theta is a, a number is needed"),
        ({"vocab_size": 264}, "hf: the embedding is [272, 256], unlike config.json"),
        (
            {"rope_scaling": {"type": "dynamic"}},
            "config.json: rope_scaling: rotary scaling dynamic cannot be ",
        ),
        (
            {"num_attention_heads": 96},
            "hf: tensor model.layers.0.self_attn.q_proj.weight has 256 rows for 96 heads",
        ),
    ],
)
def test_a_config_that_does_not_fit(
    tmp_path: Path, change: dict[str, Any], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("safetensors")
    config = CONFIG | {"architectures": ["LlamaForCausalLM"]} | change
    tensors: Arrays = {n: bf16(a) for n, a in drawn(MATRICES | DENSE, VECTORS).items()}
    write_hugging_face(tmp_path / "hf", config, tensors)
    assert convert(tmp_path / "hf", tmp_path / "out.gguf") == 2
    err = capsys.readouterr().err
    assert err.startswith(f"graphsched: {sentence}")
    assert err.count("\n") == 1
    assert not (tmp_path / "out.gguf").exists()


def test_files_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("safetensors")
    config = CONFIG | {"architectures": ["LlamaForCausalLM"]}
    tensors: Arrays = {n: bf16(a) for n, a in drawn(MATRICES | DENSE, VECTORS).items()}
    folder, out = write_hugging_face(tmp_path / "hf", config, tensors), tmp_path / "out.gguf"
    model, vocab = folder / "model.safetensors", folder / "tokenizer.json"
    whole = model.read_bytes()

    def fails(sentence: str) -> None:
        assert convert(folder, out) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"graphsched: {sentence}")
        assert err.count("\n") == 1

    model.write_bytes(whole[:-1])
    fails("model.safetensors: is no safetensors file, ")
    write_safetensors(model, tensors | {"model.layers.0.extra.weight": tensors["model.norm.weight"]})
    fails("hf: tensor model.layers.0.extra.weight has no place in a llama model")
    infinite = tensors | {"model.norm.weight": np.full(WIDTH, 0x7F80, np.uint16)}
    write_safetensors(model, infinite)
    fails("output_norm.weight: has weights that are not finite")
    model.write_bytes(whole)
    values = tokenizer_json()
    values["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "x"
    vocab.write_text(json.dumps(values))
    fails("tokenizer.json: its pre-tokenizer is none that is known here, --pre NAME says which it is like")
    assert convert(folder, out, "--pre", "qwen2") == 0
    vocab.write_text(json.dumps(tokenizer_json(type="Unigram")))
    fails("tokenizer.json: its model is Unigram, BPE is needed")
    vocab.write_text(json.dumps(tokenizer_json(merges=[["a"]])))
    fails("tokenizer.json: its merges are no pairs")
    vocab.write_text("[" * 100000)
    fails("tokenizer.json: is not JSON, ")
    vocab.unlink()
    fails("hf: there is no tokenizer.json and no tokenizer.model")
    (folder / "tokenizer.model").write_bytes(b"\x0a\xff")
    fails("tokenizer.model: is no vocabulary of SentencePiece or tiktoken")
    model.unlink()
    fails(f"{folder}: there are no safetensors files")


def test_without_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    folder = write_hugging_face(tmp_path / "hf", CONFIG | {"architectures": ["LlamaForCausalLM"]}, {})
    assert convert(folder, tmp_path / "out.gguf") == 2
    needed = "reading safetensors needs the extra: pip install 'graphsched[convert]'"
    assert capsys.readouterr().err == f"graphsched: {needed}\n"


@pytest.mark.parametrize("data", [b"", b"\x0a", b"\x0a\x05abc", b"YQ== 0\n", b"a b c\n", b"\x0a\x02\x12\x00"])
def test_a_broken_vocabulary(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(data)
    with pytest.raises(Error, match=r"^tokenizer\.model: is no vocabulary of SentencePiece or tiktoken$"):
        read_model(path)
