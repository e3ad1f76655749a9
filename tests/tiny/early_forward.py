"""The plain forward pass of models with LayerNorm, attention beside the feed-forward, learned positions."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tiny import forward
from tiny.forward import Array, gelu, sigmoid, squared_relu


@dataclass(frozen=True)
class Early(forward.Rules):
    """What no key of the file says. `rope` "" is none."""

    beside: bool = False  # attention and feed-forward read the same stream
    all_dims: bool = False  # of a head are rotated, whatever the key
    pattern: int = 0  # of each so many layers one sees everything
    full_first: bool = False  # that one is the first of them, not the last
    still: bool = False  # layers that see everything do not rotate
    factors: bool = False  # rope_freqs counts
    bias: dict[int, float] = field(
        default_factory=dict
    )  # of ALiBi by number of layers, 0 of all; else the file says
    rotated_layers: int = 0  # models of this many layers rotate, 0: all
    both_ways: bool = False  # tokens of the prompt see each other, later ones themselves
    unbiased: tuple[str, ...] = ()  # matrices whose biases do not count
    scaled: bool = False  # scales of matrices outside of attention count


N_PROMPT = 24  # tokens that are read at once

RULES = {
    "apertus": Early(factors=True),
    "baichuan": Early(rope="norm", bias={40: 8.0}, rotated_layers=32),
    "bloom": Early(act=gelu, rope="", bias={0: 8.0}),
    "cohere2": Early(rope="norm", beside=True, pattern=4, still=True, factors=True, scaled=True),
    "cohere2moe": Early(
        rope="norm",
        beside=True,
        pattern=4,
        full_first=True,
        still=True,
        factors=True,
        scaled=True,
        router="sigmoid",
    ),
    "command-r": Early(rope="norm", beside=True),
    "dbrx": Early(normalised=True),
    "dream": Early(both_ways=True, unbiased=("output",)),
    "exaone": Early(factors=True),
    "falcon": Early(act=gelu, beside=True),
    "gpt2": Early(act=gelu, rope=""),
    "gptneox": Early(act=gelu),
    "jais": Early(rope=""),
    "llada": Early(rope="norm", both_ways=True, unbiased=("attn_output", "ffn_gate", "ffn_up", "ffn_down")),
    "mpt": Early(act=gelu, rope=""),
    "nemotron": Early(act=squared_relu),
    "olmo": Early(rope="norm"),
    "openelm": Early(),
    "orion": Early(),
    "pangu-embedded": Early(),
    "phi2": Early(act=gelu, beside=True),
    "plamo": Early(beside=True, all_dims=True),
    "qwen": Early(),
    "rnd1": Early(both_ways=True, normalised=True),
    "stablelm": Early(),
    "starcoder": Early(act=gelu, rope=""),
    "starcoder2": Early(act=gelu),
}


class Model(forward.Model):
    """As the pass of `forward`, with the differences of these."""

    rules: Early

    def __init__(self, architecture: str, keys: forward.Keys, tensors: forward.Tensors) -> None:
        keys = {k: v for k, v in keys.items() if np.ndim(v) or v or v is False}  # 0 is as good as absent
        self.layer_norm = "attention.layer_norm_rms_epsilon" not in keys
        if self.layer_norm:
            keys = {**keys, "attention.layer_norm_rms_epsilon": keys["attention.layer_norm_epsilon"]}
        self.rules, self.architecture, self.keys = RULES[architecture], architecture, keys
        self.w = self.tensors = {n: t for n, t in tensors.items() if self.counts(n)}
        self.n_embd, self.n_layer = keys["embedding_length"], keys["block_count"]
        self.eps = keys["attention.layer_norm_rms_epsilon"]
        self.at(0)

    def counts(self, name: str) -> bool:
        if name.endswith(".scale"):
            return self.rules.scaled or "attn_" in name
        if name.endswith(".bias") and name.split(".")[-2] in self.rules.unbiased:
            return False
        return self.rules.factors or name != "rope_freqs.weight"

    def at(self, il: int) -> None:
        """Sets what one layer's attention is like."""
        lists = {k: v for k, v in self.keys.items() if np.ndim(v) and len(v) >= self.n_layer}
        keys = {**self.keys} | {k: v[il] for k, v in lists.items()}
        self.n_head = keys["attention.head_count"]
        self.n_head_kv = keys.get("attention.head_count_kv", self.n_head)
        self.head_dim = keys.get("attention.key_length", self.n_embd // self.n_head)
        self.v_dim = keys.get("attention.value_length", self.head_dim)

    # -- the whole

    def logits(self, tokens: NDArray[np.int32]) -> Array:
        self.positions = np.arange(len(tokens))
        x = self.w["token_embd.weight"][tokens]
        if "position_embd.weight" in self.w:
            x = x + self.w["position_embd.weight"][self.positions]
        if "token_embd_norm.weight" in self.w:
            x = self.norm("token_embd_norm", x)
        for il in range(self.n_layer):
            self.at(il)
            x = self.block(il, x)
        y = self.linear("output" if "output.weight" in self.w else "token_embd", self.norm("output_norm", x))
        return y * (self.keys.get("logit_scale", 0.0) or 1.0)

    def block(self, il: int, x: Array) -> Array:
        blk = f"blk.{il}"
        h = self.norm(f"{blk}.attn_norm", x)
        if f"{blk}.attn_norm_2.weight" in self.w:
            y = self.attention(il, self.norm(f"{blk}.attn_norm_2", x))
        else:
            y = self.attention(il, h)
        if self.rules.beside or (self.architecture == "stablelm" and f"{blk}.ffn_norm.weight" not in self.w):
            return x + y + self.feed_forward(il, h)
        together = self.keys.get("use_parallel_residual", False)
        name = "attn_output_norm" if self.architecture == "dbrx" else "ffn_norm"
        return x + y + self.feed_forward(il, self.norm(f"{blk}.{name}", x if together else x + y))

    # -- products and norms

    def rms(self, x: Array) -> Array:
        """Or LayerNorm."""
        return super().rms(x - x.mean(axis=-1, keepdims=True) if self.layer_norm else x)

    def norm(self, name: str, x: Array) -> Array:
        w, b = self.w.get(f"{name}.weight", 1.0), self.w.get(f"{name}.bias", 0.0)
        return self.rms(x) * w + b

    # -- attention

    def slides(self, il: int) -> bool:
        n = self.rules.pattern
        pattern = self.keys.get("attention.sliding_window_pattern", n)
        if np.ndim(pattern):
            return bool(pattern[il])
        if not n:
            return False
        return il % pattern != (0 if self.rules.full_first else pattern - 1)

    def mask(self, il: int) -> NDArray[np.bool_]:
        ago = self.positions[:, None] - self.positions[None]
        seen: NDArray[np.bool_] = ago >= 0
        if self.rules.both_ways:
            seen = (ago == 0) | (np.maximum(self.positions[:, None], self.positions[None]) < N_PROMPT)
        return seen & (ago < self.keys["attention.sliding_window"]) if self.slides(il) else seen

    def rotates(self, il: int) -> bool:
        if not self.rules.still:
            return bool(self.rules.rope) and self.rules.rotated_layers in (0, self.n_layer)
        return self.slides(il) or il < self.keys.get("leading_dense_block_count", 0)

    def attention(self, il: int, h: Array) -> Array:
        blk, T = f"blk.{il}", len(h)
        widths = np.cumsum([self.n_head * self.head_dim, self.n_head_kv * self.head_dim])
        if f"{blk}.attn_qkv.weight" in self.w:
            parts = np.split(self.linear(f"{blk}.attn_qkv", h), widths, axis=1)
        else:
            parts = [self.linear(f"{blk}.attn_{what}", h) for what in "qkv"]
        if clip := self.keys.get("attention.clamp_kqv", 0.0):
            parts = [np.clip(x, -clip, clip) for x in parts]
        q, k, v = (
            x.reshape(T, n, -1)
            for x, n in zip(parts, (self.n_head, self.n_head_kv, self.n_head_kv), strict=True)
        )
        q, k = self.qk_norm(f"{blk}.attn_q_norm", q), self.qk_norm(f"{blk}.attn_k_norm", k)
        if self.rotates(il):
            n = self.head_dim if self.rules.all_dims else self.keys.get("rope.dimension_count", self.head_dim)
            q, k = self.rotated(il, q, n), self.rotated(il, k, n)
        scale = 1 / self.head_dim if self.architecture == "jais" else 1 / np.sqrt(self.head_dim)
        return self.linear(f"{blk}.attn_output", self.attend(il, q, k, v, scale))

    def qk_norm(self, name: str, x: Array) -> Array:
        """By head or over all heads at once, as the weights are wide."""
        w = self.w.get(f"{name}.weight")
        if w is None:
            return x
        return self.norm(name, x.reshape(len(x), -1, w.shape[-1]) if w.ndim == 1 else x).reshape(x.shape)

    def attend(self, il: int, q: Array, k: Array, v: Array, scale: float) -> Array:
        shared = self.n_head // self.n_head_kv
        k, v = np.repeat(k, shared, axis=1), np.repeat(v, shared, axis=1)
        scores = np.einsum("thd,shd->hts", q, k) * scale
        ago = self.positions[:, None] - self.positions[None]
        scores = scores - self.slopes()[:, None, None] * ago
        p = forward.softmax(np.where(self.mask(il), scores, -np.inf))
        return np.einsum("hts,shd->thd", p, v).reshape(len(q), -1)

    def slopes(self) -> Array:
        """What each head's scores lose for a position back."""
        known = self.rules.bias
        bias = float(self.keys.get("attention.max_alibi_bias", 0.0))
        bias = known.get(0, known.get(self.n_layer, bias))
        n = 2 ** int(np.log2(self.n_head))
        first = [2.0 ** (-bias * (h + 1) / n) for h in range(n)]
        between = [2.0 ** (-bias * (2 * h + 1) / (2 * n)) for h in range(self.n_head - n)]
        return np.array([*first, *between]) * bool(bias)

    # -- feed-forward

    def feed_forward(self, il: int, h: Array) -> Array:
        if f"blk.{il}.ffn_gate_inp.weight" not in self.w:
            return self.dense(il, h)
        if (both := self.w.get(f"blk.{il}.ffn_gate_up_exps.weight")) is not None:  # one on the other
            for name, half in zip(("gate", "up"), np.split(both, 2, axis=1), strict=True):
                self.tensors[f"blk.{il}.ffn_{name}_exps.weight"] = half
        shared = f"blk.{il}.ffn_up_shexp.weight" in self.w
        return self.experts(il, h) * (0.5 if shared else 1.0)

    def dense(self, il: int, h: Array, suffix: str = "") -> Array:
        blk = f"blk.{il}"
        up = self.linear(f"{blk}.ffn_up{suffix}", h)
        if f"{blk}.ffn_gate{suffix}.weight" in self.w:
            up = (
                self.linear(f"{blk}.ffn_gate{suffix}", h)
                * up
                * sigmoid(self.linear(f"{blk}.ffn_gate{suffix}", h))
            )
        elif self.architecture == "apertus":
            up = self.xielu(il, up)
        else:
            up = self.rules.act(up) / self.w.get(f"{blk}.ffn.act.scales", 1.0)
        return self.linear(f"{blk}.ffn_down{suffix}", up)

    def xielu(self, il: int, x: Array) -> Array:
        a_n, a_p, beta, eps = (
            float(np.ravel(self.keys[f"xielu.{name}"])[il]) for name in ("alpha_n", "alpha_p", "beta", "eps")
        )
        a_p, a_n = np.log1p(np.exp(a_p)), beta + np.log1p(np.exp(a_n))
        below = (np.expm1(np.minimum(x, eps)) - x) * a_n + beta * x
        return np.where(x > 0, a_p * x**2 + beta * x, below)
