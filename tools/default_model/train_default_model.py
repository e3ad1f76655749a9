"""Trains the small story model that ships with graphsched and writes it as a GGUF file.

Everything is made here: the text (tools/default_model/story_grammar.py), the vocabulary, the weights and the file.
Training needs PyTorch, which the project itself does not depend on; `--check FILE` needs only numpy
and gguf: it generates from a file with a second forward pass that shares no code with the training.
"""

import math
import os
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import click
import gguf
import numpy as np
import story_grammar
from gguf import quants
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

try:
    import torch
    import torch.nn.functional as F
except ImportError:  # --check and the tests do without
    torch = None

Floats = NDArray[np.float32]
Logits = Callable[[list[int]], Floats]

OUT = Path(__file__).resolve().parents[2] / "graphsched" / "data" / "stories.gguf"
PROMPTS = ("Once upon a time", "Lily went to the park", "The dragon")
BOS, EOS, BYTES = 1, 2, 3
SPACE = "\u2581"
ROUTER = "ffn_gate_inp"
# A user's text is the beginning of a story, so there are no role markers: each turn is a story of its own.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ bos_token + message['content'] | trim }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)

console = Console()


@dataclass(frozen=True)
class Shape:
    """The architecture; every matrix width is a multiple of 32, the block length of Q8_0."""

    vocab: int = 1024
    context: int = 512
    width: int = 256
    layers: int = 4
    heads: int = 8
    kv_heads: int = 2
    experts: int = 8
    used: int = 2
    ff: int = 64  # of one expert
    eps: float = 1e-6
    rope_base: float = 10000.0

    @property
    def head(self) -> int:
        return self.width // self.heads

    def matrices(self) -> dict[str, tuple[int, ...]]:
        """GGUF tensor names with their ([experts,] rows, columns); a row is one output."""
        kv = self.kv_heads * self.head
        block = {
            "attn_q": (self.width, self.width),
            "attn_k": (kv, self.width),
            "attn_v": (kv, self.width),
            "attn_output": (self.width, self.width),
            ROUTER: (self.experts, self.width),
            "ffn_gate_exps": (self.experts, self.ff, self.width),
            "ffn_up_exps": (self.experts, self.ff, self.width),
            "ffn_down_exps": (self.experts, self.width, self.ff),
        }
        blocks = {f"blk.{i}.{k}.weight": s for i in range(self.layers) for k, s in block.items()}
        return {"token_embd.weight": (self.vocab, self.width), **blocks}

    def norms(self) -> dict[str, int]:
        """GGUF tensor names with their lengths."""
        block = {
            "attn_norm": self.width,
            "attn_q_norm": self.head,
            "attn_k_norm": self.head,
            "ffn_norm": self.width,
        }
        names = {f"blk.{i}.{k}.weight": n for i in range(self.layers) for k, n in block.items()}
        return {**names, "output_norm.weight": self.width}


# ---------------------------------------------------------------------------------------- vocabulary


def words(text: str) -> list[str]:
    """Cut where no piece may cross: before each space and around each mark."""
    return re.findall(rf"{SPACE}?[A-Za-z]+|{SPACE}?[^A-Za-z{SPACE}]|{SPACE}", text)


def marked(text: str) -> str:
    return SPACE + text.replace(" ", SPACE) if text else ""


@dataclass
class Vocabulary:
    """Pieces in id order. A merged piece's score is minus its rank, so that earlier merges go first."""

    pieces: list[str]
    scores: list[float]
    types: list[int]
    ids: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.ids = {piece: i for i, piece in enumerate(self.pieces)}
        self._word = lru_cache(maxsize=None)(self._encode_word)

    def encode(self, text: str) -> list[int]:
        return [BOS, *(i for word in words(marked(text)) for i in self._word(word))]

    def _encode_word(self, word: str) -> tuple[int, ...]:
        symbols = list(word)
        while pairs := [
            (self.scores[self.ids[a + b]], -at)
            for at, (a, b) in enumerate(pairwise(symbols))
            if a + b in self.ids
        ]:
            at = -max(pairs)[1]
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        return tuple(i for s in symbols for i in self._ids_of(s))

    def _ids_of(self, symbol: str) -> list[int]:
        return [self.ids[symbol]] if symbol in self.ids else [BYTES + b for b in symbol.encode()]

    def decode(self, tokens: Iterable[int]) -> str:
        raw = b"".join(
            bytes([t - BYTES]) if self.types[t] == gguf.TokenType.BYTE else self.pieces[t].encode()
            for t in tokens
            if t >= BYTES
        )
        return raw.decode(errors="replace").replace(SPACE, " ").removeprefix(" ")


def learn_merges(texts: Iterable[str], count: int, letters: set[str]) -> list[str]:
    """Byte-pair encoding over the counted words; ties go to the pair that sorts first."""
    counts = Counter(word for text in texts for word in words(marked(text)))
    split = {word: list(word) for word in counts}
    merged: list[str] = []
    while len(merged) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, symbols in split.items():
            for pair in pairwise(symbols):
                pairs[pair] += counts[word]
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        join_everywhere(split.values(), best)
        if "".join(best) not in letters and "".join(best) not in merged:
            merged.append("".join(best))
    return merged


def join_everywhere(words_of_symbols: Iterable[list[str]], pair: tuple[str, str]) -> None:
    for symbols in words_of_symbols:
        at = 0
        while at < len(symbols) - 1:
            if (symbols[at], symbols[at + 1]) == pair:
                symbols[at : at + 2] = [pair[0] + pair[1]]
            at += 1


def learn_vocabulary(seed: int, size: int) -> Vocabulary:
    """Control and byte tokens, then the merges in the order learnt, then single letters and marks."""
    texts = list(islice(story_grammar.stories(seed), 6000))
    letters = sorted({SPACE, *map(chr, range(33, 127))})
    fixed = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    normal = [*learn_merges(texts, size - len(fixed) - len(letters), set(letters)), *letters]
    kind = gguf.TokenType
    types = [kind.UNKNOWN, kind.CONTROL, kind.CONTROL, *[kind.BYTE] * 256, *[kind.NORMAL] * len(normal)]
    scores = [*[0.0] * len(fixed), *(-float(rank) for rank in range(len(normal)))]
    return Vocabulary(fixed + normal, scores, [int(t) for t in types])


# ------------------------------------------------------------------------------------------- training


def initial_weights(shape: Shape, seed: int) -> dict[str, Any]:
    """Weights by GGUF name; what adds to the residual stream starts smaller, to suit the depth."""
    generator = torch.Generator().manual_seed(seed)
    weights = {name: torch.ones(length) for name, length in shape.norms().items()}
    for name, size in shape.matrices().items():
        adds = "attn_output" in name or "ffn_down" in name
        std = 0.03 / math.sqrt(2 * shape.layers) if adds else 0.03
        weights[name] = torch.randn(size, generator=generator) * std
    return {name: weight.requires_grad_() for name, weight in weights.items()}


def rope_tables(shape: Shape) -> tuple[Any, Any]:
    rates = shape.rope_base ** (-torch.arange(0, shape.head, 2) / shape.head)
    angles = torch.outer(torch.arange(shape.context), rates)
    return angles.cos(), angles.sin()


def rotate(x: Any, cos: Any, sin: Any) -> Any:
    """Rotate the pairs (i, i + half), the order the `qwen3moe` architecture stores q and k rows in."""
    low, high = x.chunk(2, -1)
    return torch.cat((low * cos - high * sin, low * sin + high * cos), -1)


def attention(w: dict[str, Any], at: str, x: Any, shape: Shape, tables: tuple[Any, Any]) -> Any:
    cos, sin = (table[: x.shape[1]] for table in tables)
    q, k, v = (
        F.linear(x, w[f"{at}.attn_{part}.weight"]).unflatten(-1, (-1, shape.head)).transpose(1, 2)
        for part in "qkv"
    )
    q, k = (norm(t, w[f"{at}.attn_{part}_norm.weight"], shape) for t, part in ((q, "q"), (k, "k")))
    group = shape.heads // shape.kv_heads
    k, v = rotate(k, cos, sin).repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    mixed = F.scaled_dot_product_attention(rotate(q, cos, sin), k, v.to(k.dtype), is_causal=True)
    return F.linear(mixed.transpose(1, 2).flatten(2), w[f"{at}.attn_output.weight"])


def route(w: dict[str, Any], at: str, x: Any, shape: Shape) -> tuple[Any, Any, Any]:
    """Ids and weights (tokens, used) of the experts of each row of `x`, and how unevenly they are used.

    Always in 32 bits: a rounded score chooses other experts than the engine's. The unevenness is the
    Switch Transformer's (arXiv 2101.03961): experts · Σ share of tokens · mean probability, 1 at best.
    """
    with torch.autocast("cpu", enabled=False):
        chances = F.linear(x.float(), w[f"{at}.{ROUTER}.weight"]).softmax(-1)
        weights, ids = chances.topk(shape.used, -1)
        share = F.one_hot(ids, shape.experts).float().mean((0, 1))
        return ids, weights / weights.sum(-1, keepdim=True), shape.experts * (share * chances.mean(0)).sum()


def experts(w: dict[str, Any], at: str, x: Any, shape: Shape) -> tuple[Any, Any]:
    """The weighted sum of the chosen experts' gated feed-forwards, and the unevenness of the choice."""
    rows = x.flatten(0, -2)
    ids, weights, uneven = route(w, at, rows, shape)
    gate, up, down = (w[f"{at}.ffn_{part}_exps.weight"] for part in ("gate", "up", "down"))
    out = torch.zeros_like(rows, dtype=torch.float32)
    for expert in range(shape.experts):
        token, place = (ids == expert).nonzero(as_tuple=True)
        h = rows[token]
        h = F.silu(F.linear(h, gate[expert])) * F.linear(h, up[expert])
        y = F.linear(h, down[expert]) * weights[token, place, None]
        out = out.index_add(0, token, y)
    return out.view_as(x), uneven


def forward(w: dict[str, Any], tokens: Any, shape: Shape, tables: tuple[Any, Any]) -> tuple[Any, Any]:
    """Logits of every position, and the mean unevenness; `tokens` is (rows, positions)."""
    x, uneven = F.embedding(tokens, w["token_embd.weight"]), 0.0
    for i in range(shape.layers):
        at = f"blk.{i}"
        x = x + attention(w, at, norm(x, w[f"{at}.attn_norm.weight"], shape), shape, tables)
        y, loss = experts(w, at, norm(x, w[f"{at}.ffn_norm.weight"], shape), shape)
        x, uneven = x + y, uneven + loss / shape.layers
    return F.linear(norm(x, w["output_norm.weight"], shape), w["token_embd.weight"]), uneven


def norm(x: Any, weight: Any, shape: Shape) -> Any:
    return F.rms_norm(x.float(), weight.shape, weight, shape.eps)


def make_batch(vocabulary: Vocabulary, texts: Iterator[str], rows: int, context: int) -> Any:
    """Rows of context + 1 tokens: a story from its start, then as many more as fit, the last one cut."""
    batch = torch.empty((rows, context + 1), dtype=torch.long)
    for row in batch:
        tokens: list[int] = []
        while len(tokens) <= context:
            tokens += [*vocabulary.encode(next(texts)), EOS]
        row[:] = torch.tensor(tokens[: context + 1])
    return batch


def loss_of(w: dict[str, Any], batch: Any, shape: Shape, tables: tuple[Any, Any]) -> tuple[Any, Any]:
    """Nats per token, and the unevenness of the experts' use."""
    logits, uneven = forward(w, batch[:, :-1], shape, tables)
    return F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten()), uneven


def optimiser(weights: dict[str, Any]) -> Any:
    matrices = [w for w in weights.values() if w.ndim > 1]
    vectors = [w for w in weights.values() if w.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)


@dataclass(frozen=True)
class Recipe:
    steps: int
    seed: int
    bf16: bool = True
    tokens: int = 2048
    peak: float = 3e-3
    warmup: int = 60
    balance: float = 0.01  # weight of the unevenness of the experts' use

    def context(self, step: int, longest: int) -> int:
        """Half the context for three quarters of the steps: cheaper, and a row is about one story."""
        return longest // 2 if step < 0.75 * self.steps else longest

    def rate(self, step: int) -> float:
        """Linear warm-up, then a cosine down to a fiftieth of the peak."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


class Trainer:
    """The weights with what is needed to improve them by one batch at a time."""

    def __init__(self, shape: Shape, recipe: Recipe) -> None:
        self.shape, self.recipe = shape, recipe
        self.weights = initial_weights(shape, recipe.seed)
        self.tables = rope_tables(shape)
        self.adam = optimiser(self.weights)

    def step(self, step: int, batch: Any) -> tuple[float, float]:
        """One improvement; the loss and the unevenness before it."""
        for group in self.adam.param_groups:
            group["lr"] = self.recipe.rate(step)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.recipe.bf16):
            loss, uneven = loss_of(self.weights, batch, self.shape, self.tables)
        self.adam.zero_grad(set_to_none=True)
        (loss + self.recipe.balance * uneven).backward()
        torch.nn.utils.clip_grad_norm_(list(self.weights.values()), 1.0)
        self.adam.step()
        return float(loss.detach()), float(uneven.detach())

    def save(self, path: Path, done: int) -> None:
        state = {"done": done, "weights": self.weights, "adam": self.adam.state_dict()}
        with beside(path) as partial:
            torch.save(state, partial)

    def load(self, path: Path) -> int:
        """Steps done by the run that wrote `path`."""
        state = torch.load(path, weights_only=True)
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(state["weights"][name])
        self.adam.load_state_dict(state["adam"])
        return int(state["done"])


def train(shape: Shape, vocabulary: Vocabulary, recipe: Recipe, checkpoint: Path | None) -> dict[str, Floats]:
    """Weights after all steps; goes on from `checkpoint` where one is left, and leaves one on the way."""
    trainer = Trainer(shape, recipe)
    done = trainer.load(checkpoint) if checkpoint and checkpoint.exists() else 0
    texts = story_grammar.stories(recipe.seed + 1)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("training", total=recipe.steps)
        for step in range(recipe.steps):
            context = recipe.context(step, shape.context)
            batch = make_batch(vocabulary, texts, recipe.tokens // context, context)
            if step < done:
                continue
            loss, uneven = trainer.step(step, batch)
            progress.update(task, completed=step + 1, description=f"loss {loss:.3f}")
            if step % 100 == 0 or step + 1 == recipe.steps:
                progress.console.print(f"step {step:5}  loss {loss:.4f}  unevenness {uneven:.3f}")
                if checkpoint:
                    trainer.save(checkpoint, step + 1)
    return {name: w.detach().numpy() for name, w in trainer.weights.items()}


# ------------------------------------------------------------------------------------------- the file


def quantised(weights: dict[str, Floats]) -> dict[str, NDArray[Any]]:
    """Matrices as Q8_0 blocks, norms and routers as they are."""
    q8 = gguf.GGMLQuantizationType.Q8_0
    return {
        name: quants.quantize(w, q8) if w.ndim > 1 and ROUTER not in name else w
        for name, w in weights.items()
    }


def dequantised(stored: dict[str, NDArray[Any]]) -> dict[str, Floats]:
    q8 = gguf.GGMLQuantizationType.Q8_0
    return {name: quants.dequantize(w, q8) if w.dtype == np.uint8 else w for name, w in stored.items()}


def add_architecture(writer: Any, shape: Shape) -> None:
    writer.add_name("graphsched stories")
    writer.add_license("MIT")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.ff * shape.used)
    writer.add_expert_feed_forward_length(shape.ff)
    writer.add_expert_count(shape.experts)
    writer.add_expert_used_count(shape.used)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head)
    writer.add_value_length(shape.head)
    writer.add_layer_norm_rms_eps(shape.eps)
    writer.add_rope_dimension_count(shape.head)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_vocab_size(shape.vocab)


def add_tokenizer(writer: Any, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(vocabulary.pieces)
    writer.add_token_scores(vocabulary.scores)
    writer.add_token_types(vocabulary.types)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(True)
    writer.add_chat_template(CHAT_TEMPLATE)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A file to write that is then renamed to `path`, so that nobody ever reads half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o644)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_file(path: Path, shape: Shape, vocabulary: Vocabulary, stored: dict[str, NDArray[Any]]) -> None:
    with beside(path) as partial:
        write_gguf(partial, shape, vocabulary, stored)


def write_gguf(path: Path, shape: Shape, vocabulary: Vocabulary, stored: dict[str, NDArray[Any]]) -> None:
    writer = gguf.GGUFWriter(path, "qwen3moe")
    add_architecture(writer, shape)
    add_tokenizer(writer, vocabulary)
    for name, data in stored.items():
        packed = data.dtype == np.uint8
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType.Q8_0 if packed else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# ----------------------------------------------------------------------------------- reading it back


@dataclass
class Reader:
    """The model of a file in plain numpy, from nothing but the file's own keys and tensors."""

    keys: dict[str, Any]
    weights: dict[str, Floats]

    @classmethod
    def load(cls, path: Path) -> "Reader":
        source = gguf.GGUFReader(path)
        keys = {name: field.contents() for name, field in source.fields.items()}
        weights = {t.name: np.array(quants.dequantize(t.data, t.tensor_type)) for t in source.tensors}
        return cls(keys, weights)

    def vocabulary(self) -> Vocabulary:
        return Vocabulary(*(self.keys[f"tokenizer.ggml.{k}"] for k in ("tokens", "scores", "token_type")))

    def logits(self, tokens: list[int]) -> Floats:
        """Logits after the last token, everything computed anew."""
        w, x = self.weights, self.weights["token_embd.weight"][tokens]
        for i in range(self.keys["qwen3moe.block_count"]):
            x = x + self.attend(i, self.rms(x, f"blk.{i}.attn_norm.weight"))
            h = self.rms(x, f"blk.{i}.ffn_norm.weight")
            x = x + np.stack([self.mix(i, row) for row in h])
        return w["token_embd.weight"] @ self.rms(x[-1], "output_norm.weight")

    def mix(self, layer: int, x: Floats) -> Floats:
        """The chosen experts' feed-forwards of one token, by their share of the chosen experts' chances."""
        scores = self.weights[f"blk.{layer}.{ROUTER}.weight"] @ x
        chosen = np.argsort(-scores, kind="stable")[: self.keys["qwen3moe.expert_used_count"]]
        chances = np.exp(scores[chosen] - scores.max())
        return sum(c * self.feed(layer, e, x) for c, e in zip(chances / chances.sum(), chosen, strict=True))

    def feed(self, layer: int, expert: int, x: Floats) -> Floats:
        gate, up, down = (
            self.weights[f"blk.{layer}.ffn_{part}_exps.weight"][expert] for part in ("gate", "up", "down")
        )
        h = gate @ x
        return down @ (h / (1 + np.exp(-h)) * (up @ x))

    def rms(self, x: Floats, weight: str) -> Floats:
        eps = self.keys["qwen3moe.attention.layer_norm_rms_epsilon"]
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * self.weights[weight]

    def attend(self, layer: int, x: Floats) -> Floats:
        heads, kv_heads = (self.keys[f"qwen3moe.attention.head_count{k}"] for k in ("", "_kv"))
        size, positions = self.keys["qwen3moe.attention.key_length"], len(x)
        q, k, v = (
            (x @ self.weights[f"blk.{layer}.attn_{part}.weight"].T).reshape(positions, -1, size)
            for part in "qkv"
        )
        q, k = (
            self.turn(self.rms(t, f"blk.{layer}.attn_{part}_norm.weight")) for t, part in ((q, "q"), (k, "k"))
        )
        hidden = np.triu(np.full((positions, positions), -np.inf, np.float32), 1)
        mixed = np.empty_like(q)
        for head in range(heads):
            shared = head * kv_heads // heads
            scores = q[:, head] @ k[:, shared].T / math.sqrt(size) + hidden
            chance = np.exp(scores - scores.max(-1, keepdims=True))
            mixed[:, head] = chance / chance.sum(-1, keepdims=True) @ v[:, shared]
        return mixed.reshape(positions, -1) @ self.weights[f"blk.{layer}.attn_output.weight"].T

    def turn(self, x: Floats) -> Floats:
        """Rotary positions as complex numbers: the pair (i, i + half) is one number."""
        size = x.shape[-1]
        rates = self.keys["qwen3moe.rope.freq_base"] ** (-np.arange(0, size, 2) / size)
        turns = np.exp(1j * np.outer(np.arange(len(x)), rates))[:, None]
        pairs = (x[..., : size // 2] + 1j * x[..., size // 2 :]) * turns
        return np.concatenate((pairs.real, pairs.imag), -1).astype(np.float32)


# ---------------------------------------------------------------------------------------- generation


def greedy(logits: Floats) -> int:
    return int(logits.argmax())


def sampler(seed: int, temperature: float) -> Callable[[Floats], int]:
    rng = random.Random(seed)

    def draw(logits: Floats) -> int:
        chances = np.exp((logits - logits.max()) / temperature)
        return rng.choices(range(len(chances)), chances.tolist())[0]

    return draw


def generate(logits_of: Logits, tokens: list[int], context: int, pick: Callable[[Floats], int]) -> list[int]:
    """The prompt's tokens and what follows, up to the end of the story or of the context."""
    tokens = list(tokens)
    while len(tokens) < context and tokens[-1] != EOS:
        tokens.append(pick(logits_of(tokens)))
    return tokens


def show(title: str, tokens: list[int], vocabulary: Vocabulary) -> None:
    ended = "ended" if tokens[-1] == EOS else "NOT ENDED"
    console.print(f"\n{title} ({len(tokens)} tokens, {ended}):", style="bold", markup=False)
    console.print(vocabulary.decode(tokens), markup=False, highlight=False)


def check(path: Path, prompts: Iterable[str]) -> None:
    """Generate greedily from a file, with numpy alone."""
    reader = Reader.load(path)
    vocabulary, context = reader.vocabulary(), reader.keys["qwen3moe.context_length"]
    for prompt in prompts:
        show(prompt, generate(reader.logits, vocabulary.encode(prompt), context, greedy), vocabulary)


def show_samples(weights: dict[str, Any], shape: Shape, vocabulary: Vocabulary) -> None:
    """Greedy text of every prompt and a few draws, by the training's own forward pass."""
    tables = rope_tables(shape)

    def logits(tokens: list[int]) -> Floats:
        return forward(weights, torch.tensor([tokens]), shape, tables)[0][0, -1].numpy()

    for prompt in PROMPTS:
        show(prompt, generate(logits, vocabulary.encode(prompt), shape.context, greedy), vocabulary)
    for seed in range(3):
        pick = sampler(seed, 0.8)
        tokens = generate(logits, vocabulary.encode(PROMPTS[seed]), shape.context, pick)
        show(f"temperature 0.8, {PROMPTS[seed]}", tokens, vocabulary)


def held_out_loss(weights: dict[str, Any], shape: Shape, vocabulary: Vocabulary, seed: int) -> float:
    batch = make_batch(vocabulary, story_grammar.stories(seed), 32, shape.context)
    return float(loss_of(weights, batch, shape, rope_tables(shape))[0])


def build(out: Path, recipe: Recipe, checkpoint: Path | None) -> None:
    torch.set_num_threads(1)
    shape, start = Shape(), time.monotonic()
    vocabulary = learn_vocabulary(recipe.seed, shape.vocab)
    stored = quantised(train(shape, vocabulary, recipe, checkpoint))
    write_file(out, shape, vocabulary, stored)
    weights = {name: torch.from_numpy(w) for name, w in dequantised(stored).items()}
    count = sum(w.numel() for w in weights.values())
    console.print(f"{count} parameters, {out.stat().st_size} bytes, {time.monotonic() - start:.0f} s")
    with torch.no_grad():
        loss = held_out_loss(weights, shape, vocabulary, recipe.seed + 10_000)
        console.print(f"loss of the quantised weights on unseen stories: {loss:.4f}")
        show_samples(weights, shape, vocabulary)


@click.command(help=__doc__)
@click.option("--steps", default=3000, show_default=True, help="Training steps of 2048 tokens.")
@click.option("--seed", default=1, show_default=True, help="Seed of text, vocabulary and weights.")
@click.option("--out", type=click.Path(path_type=Path), default=OUT, help="The GGUF file to write.")
@click.option(
    "--bf16/--no-bf16", default=True, show_default=True, help="Multiply in bfloat16 while training."
)
@click.option(
    "--checkpoint",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep the state here every hundred steps, and go on from what is there.",
)
@click.option("--check", "checked", type=click.Path(exists=True, path_type=Path), help="Only read FILE.")
@click.option("--prompt", multiple=True, default=PROMPTS[:1], help="What --check continues.")
def main(
    steps: int,
    seed: int,
    out: Path,
    bf16: bool,
    checkpoint: Path | None,
    checked: Path | None,
    prompt: tuple[str, ...],
) -> None:
    if checked is not None:
        return check(checked, prompt)
    if torch is None:
        raise click.ClickException("training needs PyTorch, which the project does not install")
    return build(out, Recipe(steps, seed, bf16), checkpoint)


if __name__ == "__main__":
    main()
