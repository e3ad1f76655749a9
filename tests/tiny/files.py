"""Files of the table's models, and their logits: `reference(name)` makes both when a test first asks for them.

The values of a tensor depend on its model's and its own name only, so that one row can change alone.
"""

import atexit
import tempfile
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gguf_files as g
import numpy as np
from numpy.typing import NDArray

from tiny import early_forward, family_forward, forward, recurrent_forward, special_forward
from tiny.early import EARLY
from tiny.family import FAMILY
from tiny.quants import QUANT_ROWS, TERNARY, encoded, role_of, type_of
from tiny.recurrent import RECURRENT
from tiny.special import SPECIAL
from tiny.table import ROWS, SEEDS, SHORT, SMALL, Row, V

ALL = ROWS | QUANT_ROWS | {"llama-F32": SMALL} | FAMILY | EARLY | RECURRENT | SPECIAL | SHORT
MODELS = list(ROWS)
SHORT_MODELS = [{"deepseek2-lite": "deepseek2-short"}.get(name, name) for name in MODELS]
QUANTS = list(QUANT_ROWS)
N_PROMPT, N_TOKENS = 24, 32
BARE = "xielu."  # keys that have no architecture in front
TYPE_IDS = {
    "F32": 0,
    "F16": 1,
    "Q4_0": 2,
    "Q5_1": 7,
    "Q8_0": 8,
    "Q2_K": 10,
    "Q3_K": 11,
    "Q4_K": 12,
    "Q6_K": 14,
}
TYPE_IDS |= {"IQ4_NL": 20, "IQ3_S": 21, "BF16": 30, "TQ2_0": 35} | TERNARY
FILE_TYPES = {
    "BF16": 32,
    "IQ3_S": 26,
    "IQ4_NL": 25,
    "Q2_K": 10,
    "Q4_0": 2,
    "Q4_K_M": 15,
    "Q5_1": 9,
    "Q6_K": 18,
}
FILE_TYPES |= {"F32": 0, "Q8_0": 7, "TQ2_0": 37, "iq1_bn": 136, "iq2_bn": 137}


@dataclass(frozen=True)
class Reference:
    """Logits [32, 512] after each of `tokens`; the first n_prompt are the prompt."""

    model: Path
    tokens: NDArray[np.int32]
    logits: NDArray[np.float32]
    n_prompt: int


def row(name: str) -> Row:
    return ALL[name]


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Every tensor of a model [out, in]."""
    model = row(name)
    matrix = (V, model.n_embd)
    final = {f"{model.final}.weight": (model.n_embd,)} if model.final else {}
    whole = {"token_embd.weight": matrix, **final, **model.more}
    layers = {f"blk.{il}.{t}": s for il in range(model.layers) for t, s in model.layer(il).items()}
    return whole | ({"output.weight": matrix} if model.head else {}) | layers


def keys(name: str) -> dict[str, Any]:
    """Keys of the model without their prefix."""
    model = row(name)
    given = {"context_length": 512, "embedding_length": model.n_embd, "block_count": model.layers}
    return given | model.keys | {"vocab_size": V}


@cache
def folder() -> Path:
    """Where this process keeps its models, until it ends."""
    made = tempfile.TemporaryDirectory(prefix="graphsched-tiny-")
    atexit.register(made.cleanup)
    return Path(made.name)


@cache
def path(name: str) -> Path:
    """A model's file."""
    tensors = {t: encoded_tensor(name, t, shape) for t, shape in shapes(name).items()}
    entries, data = [], bytearray()
    for tensor, (type, raw, _) in tensors.items():
        entries.append(g.tensor(tensor, shapes(name)[tensor][::-1], TYPE_IDS[type], len(data)))
        data += raw.tobytes().ljust(-(-raw.size // 32) * 32, b"\0")
    return g.write(folder(), g.gguf(metadata(name), entries, bytes(data)), f"{name}.gguf")


@cache
def reference(name: str) -> Reference:
    """A model, and what a plain float64 forward pass over its file's values gives."""
    tensors = {t: encoded_tensor(name, t, shape)[2] for t, shape in shapes(name).items()}
    stored = {k: float(np.float32(v)) if isinstance(v, float) else v for k, v in keys(name).items()}
    logits = plain(row(name).architecture, stored, tensors).logits(tokens(name))
    return Reference(path(name), tokens(name), logits.astype(np.float32), N_PROMPT)


def plain(architecture: str, keys: forward.Keys, tensors: forward.Tensors) -> forward.Model:
    """The plain forward pass of an architecture."""
    for module in (family_forward, early_forward, recurrent_forward, special_forward):
        if architecture in module.RULES:
            return module.Model(architecture, keys, tensors)
    return forward.Model(architecture, keys, tensors)


def tokens(name: str) -> NDArray[np.int32]:
    """Random ones, 32."""
    return np.random.default_rng(seed(name)).integers(3, V, N_TOKENS).astype(np.int32)


def seed(model: str, tensor: str = "") -> list[int]:
    return [SEEDS.get(model, 0), zlib.crc32(model.encode()), zlib.crc32(tensor.encode())]


def encoded_tensor(
    model: str, name: str, shape: tuple[int, ...]
) -> tuple[str, NDArray[np.uint8], NDArray[np.float64]]:
    """Its type, bytes, and the values that they stand for."""
    rng = np.random.default_rng(seed(model, name))
    type = "F32" if model in FAMILY | EARLY | RECURRENT | SPECIAL else type_of(model, name, shape)
    made = drawn(model, name, shape, rng)
    if model in ("deepseek2-lite", *SHORT):
        by_code(role_of(name), made)
    raw, values = encoded(type, made.reshape(-1, shape[-1]), rng)
    return type, raw, values.reshape(shape)


def drawn(model: str, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """Values of a tensor, of the size at which each formula shows in the logits."""
    role = role_of(name)
    noise = rng.standard_normal(shape)
    if role in ("rope_freqs.weight", "rope_factors_short.weight"):
        return np.linspace(1, 8, shape[0])
    if role in ("attn_sinks.weight", "attn_q_norm.weight", "attn_k_norm.weight"):
        return 1 + (1.0 if "sinks" in role else 0.3) * noise
    if role == "ssm_a":  # bailingmoe3 keeps it positive
        return np.exp(noise) * (1 if row(model).architecture == "bailingmoe3" else -1)
    if role.endswith(
        (
            "norm",
            "act.scales",
            "ssm_d",
            "norm.weight",
            ".scale",
            "norm_1.weight",
            "norm_2.weight",
            "output_scale.weight",
        )
    ):
        return 1 + 0.1 * noise
    if role.endswith(".bias") or role == "exp_probs_b":
        return 0.3 * noise
    size = deviation(model, role) / np.sqrt(shape[-1])
    if "bitnet" in model and role not in ("token_embd.weight", "output.weight"):
        return size * rng.integers(-1, 2, shape)
    return size * noise


def by_code(role: str, w: NDArray[np.float64]) -> None:
    """Routers look at eight dimensions only, signs by token that no layer writes to.

    Of 26 routers in a row some would be nearly undecided, whatever the seed.
    """
    if role == "token_embd.weight":
        w[:, :8] = np.sign(w[:, :8])
    elif role.startswith(("attn_output", "ffn_down")):
        w[..., :8, :] = 0
    elif role == "ffn_gate_inp.weight":
        w[:, 8:] = 0
        w *= 4


def deviation(model: str, role: str) -> float:
    """Of a product with a row of size 1."""
    if role == "token_embd.weight":
        return 8.0 if row(model).head else 1.2  # a tied head reads it, too
    if role == "ffn_gate_inp.weight":
        return 2.0
    if row(model).architecture == "gpt-oss" and role in ("ffn_gate_exps.weight", "ffn_up_exps.weight"):
        return 3.6  # beyond what it clamps
    return 1.6 if role in ("attn_q.weight", "attn_k.weight") else 1.2


# --- metadata ---


def metadata(name: str) -> list[bytes]:
    """Keys as bytes: architecture, vocabulary, the model's own, what kind of file it is."""
    architecture = row(name).architecture
    given = keys(name).items()
    own = [one(key if key.startswith(BARE) else f"{architecture}.{key}", value) for key, value in given]
    file_type = FILE_TYPES.get(name.rpartition("-")[2], 1)
    last = [one("general.quantization_version", 2), one("general.file_type", file_type)]
    return [one("general.architecture", architecture), *vocabulary(), *own, *last]


def one(key: str, value: Any) -> bytes:
    kinds = {bool: g.BOOL, int: g.UINT32, float: g.FLOAT32, str: g.STRING}
    if isinstance(value, list):
        return g.array(key, kinds[type(value[0])], value)
    return g.key(key, kinds[type(value)], value)


@cache
def vocabulary() -> tuple[bytes, ...]:
    """A vocabulary of 512: control tokens, all bytes, pairs of letters at a word's start and within, letters."""
    letters = "etaoinshrdlucmwfgypbvk"
    pairs = [f"{start}{letter}" for start in ("\u2581", *letters[:5]) for letter in letters]
    alone = [chr(c) for c in range(33, 127)]
    pieces = [*pairs, "\u2581", *alone]
    pieces += [f"{a}{b}{c}" for a in "hst" for b in "aeiou" for c in letters[:5]][: 253 - len(pieces)]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *pieces]
    types = [2, 3, 3, *[6] * 256, *[1] * len(pieces)]
    assert len(tokens) == V
    name = "tokenizer.ggml."
    return (
        one(f"{name}model", "llama"),
        g.array(f"{name}tokens", g.STRING, tokens),
        g.array(f"{name}scores", g.FLOAT32, [*[0.0] * 259, *(-float(i) for i in range(len(pieces)))]),
        g.array(f"{name}token_type", g.INT32, types),
        one(f"{name}bos_token_id", 1),
        one(f"{name}eos_token_id", 2),
        one(f"{name}unknown_token_id", 0),
        one(f"{name}add_bos_token", True),
        one(f"{name}add_eos_token", False),
    )
