"""Trains the small story model that ships with graphsched and writes it as a GGUF file.

Everything is made here: the text (tools/story_grammar.py), the vocabulary, the weights and the file.
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

OUT = Path(__file__).resolve().parent.parent / "graphsched" / "data" / "stories.gguf"
PROMPTS = ("Once upon a time", "Lily went to the park", "The dragon")
BOS, EOS, BYTES = 1, 2, 3
SPACE = "\u2581"
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
    width: int = 192
    layers: int = 5
    heads: int = 6
    kv_heads: int = 2
    ff: int = 512
    eps: float = 1e-5
    rope_base: float = 10000.0

    @property
    def head(self) -> int:
        return self.width // self.heads

    def matrices(self) -> dict[str, tuple[int, int]]:
        """GGUF tensor names with their (rows, columns); a row is one output."""
        kv = self.kv_heads * self.head
        block = {
            "attn_q": (self.width, self.width),
            "attn_k": (kv, self.width),
            "attn_v": (kv, self.width),
            "attn_output": (self.width, self.width),
            "ffn_gate": (self.ff, self.width),
            "ffn_up": (self.ff, self.width),
            "ffn_down": (self.width, self.ff),
        }
        blocks = {f"blk.{i}.{k}.weight": s for i in range(self.layers) for k, s in block.items()}
        return {"token_embd.weight": (self.vocab, self.width), **blocks}

    def norms(self) -> list[str]:
        names = [f"blk.{i}.{k}.weight" for i in range(self.layers) for k in ("attn_norm", "ffn_norm")]
        return [*names, "output_norm.weight"]


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
    weights = {name: torch.ones(shape.width) for name in shape.norms()}
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
    """Rotate the pairs (2i, 2i+1), the order the `llama` architecture stores q and k rows in."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


def attention(w: dict[str, Any], at: str, x: Any, shape: Shape, tables: tuple[Any, Any]) -> Any:
    cos, sin = (table[: x.shape[1]] for table in tables)
    q, k, v = (
        F.linear(x, w[f"{at}.attn_{part}.weight"]).unflatten(-1, (-1, shape.head)).transpose(1, 2)
        for part in "qkv"
    )
    group = shape.heads // shape.kv_heads
    k, v = rotate(k, cos, sin).repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    mixed = F.scaled_dot_product_attention(rotate(q, cos, sin), k, v, is_causal=True)
    return F.linear(mixed.transpose(1, 2).flatten(2), w[f"{at}.attn_output.weight"])


def forward(w: dict[str, Any], tokens: Any, shape: Shape, tables: tuple[Any, Any]) -> Any:
    """Logits of every position; `tokens` is (rows, positions)."""
    x = F.embedding(tokens, w["token_embd.weight"])
    for i in range(shape.layers):
        at = f"blk.{i}"
        x = x + attention(w, at, norm(x, w[f"{at}.attn_norm.weight"], shape), shape, tables)
        h = norm(x, w[f"{at}.ffn_norm.weight"], shape)
        gate = F.silu(F.linear(h, w[f"{at}.ffn_gate.weight"]))
        x = x + F.linear(gate * F.linear(h, w[f"{at}.ffn_up.weight"]), w[f"{at}.ffn_down.weight"])
    return F.linear(norm(x, w["output_norm.weight"], shape), w["token_embd.weight"])


def norm(x: Any, weight: Any, shape: Shape) -> Any:
    return F.rms_norm(x, (shape.width,), weight, shape.eps)


def make_batch(vocabulary: Vocabulary, texts: Iterator[str], rows: int, context: int) -> Any:
    """Rows of context + 1 tokens: a story from its start, then as many more as fit, the last one cut."""
    batch = torch.empty((rows, context + 1), dtype=torch.long)
    for row in batch:
        tokens: list[int] = []
        while len(tokens) <= context:
            tokens += [*vocabulary.encode(next(texts)), EOS]
        row[:] = torch.tensor(tokens[: context + 1])
    return batch


def loss_of(w: dict[str, Any], batch: Any, shape: Shape, tables: tuple[Any, Any]) -> Any:
    logits = forward(w, batch[:, :-1], shape, tables)
    return F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())


def optimiser(weights: dict[str, Any]) -> Any:
    matrices = [w for w in weights.values() if w.ndim == 2]
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

    def step(self, step: int, batch: Any) -> float:
        for group in self.adam.param_groups:
            group["lr"] = self.recipe.rate(step)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.recipe.bf16):
            loss = loss_of(self.weights, batch, self.shape, self.tables)
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(self.weights.values()), 1.0)
        self.adam.step()
        return float(loss.detach())


def train(shape: Shape, vocabulary: Vocabulary, recipe: Recipe) -> dict[str, Floats]:
    trainer = Trainer(shape, recipe)
    texts = story_grammar.stories(recipe.seed + 1)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("training", total=recipe.steps)
        for step in range(recipe.steps):
            context = recipe.context(step, shape.context)
            loss = trainer.step(step, make_batch(vocabulary, texts, recipe.tokens // context, context))
            progress.update(task, advance=1, description=f"loss {loss:.3f}")
            if step % 100 == 0 or step + 1 == recipe.steps:
                progress.console.print(f"step {step:5}  loss {loss:.4f}")
    return {name: w.detach().numpy() for name, w in trainer.weights.items()}


# ------------------------------------------------------------------------------------------- the file


def quantised(weights: dict[str, Floats]) -> dict[str, NDArray[Any]]:
    """Matrices as Q8_0 blocks, norms as they are."""
    q8 = gguf.GGMLQuantizationType.Q8_0
    return {name: quants.quantize(w, q8) if w.ndim == 2 else w for name, w in weights.items()}


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
    writer.add_feed_forward_length(shape.ff)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
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


def write_file(path: Path, shape: Shape, vocabulary: Vocabulary, stored: dict[str, NDArray[Any]]) -> None:
    """Write beside the target and rename, so that nobody ever reads half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    os.close(handle)
    partial = Path(name)
    try:
        write_gguf(partial, shape, vocabulary, stored)
        partial.chmod(0o644)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_gguf(path: Path, shape: Shape, vocabulary: Vocabulary, stored: dict[str, NDArray[Any]]) -> None:
    writer = gguf.GGUFWriter(path, "llama")
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
        for i in range(self.keys["llama.block_count"]):
            x = x + self.attend(i, self.rms(x, f"blk.{i}.attn_norm.weight"))
            h = self.rms(x, f"blk.{i}.ffn_norm.weight")
            gate = h @ w[f"blk.{i}.ffn_gate.weight"].T
            gate = gate / (1 + np.exp(-gate)) * (h @ w[f"blk.{i}.ffn_up.weight"].T)
            x = x + gate @ w[f"blk.{i}.ffn_down.weight"].T
        return w["token_embd.weight"] @ self.rms(x[-1], "output_norm.weight")

    def rms(self, x: Floats, weight: str) -> Floats:
        eps = self.keys["llama.attention.layer_norm_rms_epsilon"]
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * self.weights[weight]

    def attend(self, layer: int, x: Floats) -> Floats:
        heads, kv_heads = (self.keys[f"llama.attention.head_count{k}"] for k in ("", "_kv"))
        size, positions = self.keys["llama.rope.dimension_count"], len(x)
        q, k, v = (
            (x @ self.weights[f"blk.{layer}.attn_{part}.weight"].T).reshape(positions, -1, size)
            for part in "qkv"
        )
        q, k = self.turn(q), self.turn(k)
        hidden = np.triu(np.full((positions, positions), -np.inf, np.float32), 1)
        mixed = np.empty_like(q)
        for head in range(heads):
            shared = head * kv_heads // heads
            scores = q[:, head] @ k[:, shared].T / math.sqrt(size) + hidden
            chance = np.exp(scores - scores.max(-1, keepdims=True))
            mixed[:, head] = chance / chance.sum(-1, keepdims=True) @ v[:, shared]
        return mixed.reshape(positions, -1) @ self.weights[f"blk.{layer}.attn_output.weight"].T

    def turn(self, x: Floats) -> Floats:
        """Rotary positions as complex numbers: the pair (2i, 2i+1) is one number."""
        size = x.shape[-1]
        rates = self.keys["llama.rope.freq_base"] ** (-np.arange(0, size, 2) / size)
        turns = np.exp(1j * np.outer(np.arange(len(x)), rates))[:, None]
        pairs = (x[..., 0::2] + 1j * x[..., 1::2]) * turns
        return np.stack((pairs.real, pairs.imag), -1).reshape(x.shape).astype(np.float32)


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
    vocabulary, context = reader.vocabulary(), reader.keys["llama.context_length"]
    for prompt in prompts:
        show(prompt, generate(reader.logits, vocabulary.encode(prompt), context, greedy), vocabulary)


def show_samples(weights: dict[str, Any], shape: Shape, vocabulary: Vocabulary) -> None:
    """Greedy text of every prompt and a few draws, by the training's own forward pass."""
    tables = rope_tables(shape)

    def logits(tokens: list[int]) -> Floats:
        return forward(weights, torch.tensor([tokens]), shape, tables)[0, -1].numpy()

    for prompt in PROMPTS:
        show(prompt, generate(logits, vocabulary.encode(prompt), shape.context, greedy), vocabulary)
    for seed in range(3):
        pick = sampler(seed, 0.8)
        tokens = generate(logits, vocabulary.encode(PROMPTS[seed]), shape.context, pick)
        show(f"temperature 0.8, {PROMPTS[seed]}", tokens, vocabulary)


def held_out_loss(weights: dict[str, Any], shape: Shape, vocabulary: Vocabulary, seed: int) -> float:
    batch = make_batch(vocabulary, story_grammar.stories(seed), 32, shape.context)
    return float(loss_of(weights, batch, shape, rope_tables(shape)))


def build(out: Path, recipe: Recipe) -> None:
    torch.set_num_threads(1)
    shape, start = Shape(), time.monotonic()
    vocabulary = learn_vocabulary(recipe.seed, shape.vocab)
    stored = quantised(train(shape, vocabulary, recipe))
    write_file(out, shape, vocabulary, stored)
    weights = {name: torch.from_numpy(w) for name, w in dequantised(stored).items()}
    count = sum(w.numel() for w in weights.values())
    console.print(f"{count} parameters, {out.stat().st_size} bytes, {time.monotonic() - start:.0f} s")
    with torch.no_grad():
        loss = held_out_loss(weights, shape, vocabulary, recipe.seed + 10_000)
        console.print(f"loss of the quantised weights on unseen stories: {loss:.4f}")
        show_samples(weights, shape, vocabulary)


@click.command(help=__doc__)
@click.option("--steps", default=2400, show_default=True, help="Training steps of 2048 tokens.")
@click.option("--seed", default=1, show_default=True, help="Seed of text, vocabulary and weights.")
@click.option("--out", type=click.Path(path_type=Path), default=OUT, help="The GGUF file to write.")
@click.option(
    "--bf16/--no-bf16", default=True, show_default=True, help="Multiply in bfloat16 while training."
)
@click.option("--check", "checked", type=click.Path(exists=True, path_type=Path), help="Only read FILE.")
@click.option("--prompt", multiple=True, default=PROMPTS[:1], help="What --check continues.")
def main(steps: int, seed: int, out: Path, bf16: bool, checked: Path | None, prompt: tuple[str, ...]) -> None:
    if checked is not None:
        return check(checked, prompt)
    if torch is None:
        raise click.ClickException("training needs PyTorch, which the project does not install")
    return build(out, Recipe(steps, seed, bf16))


if __name__ == "__main__":
    main()
