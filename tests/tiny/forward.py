"""A forward pass in plain float64 numpy, independent of the project: formula by formula, no cache, no batches.

What an architecture computes follows from its name (`RULES`), the keys of the file without their prefix, and which
tensors the file has. Activations are x[T, D]; a matrix w[out, in] gives x @ w.T.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Keys = Mapping[str, Any]
Tensors = Mapping[str, Array]
FEW = 6.103515625e-5  # the smallest normal F16: what a sum of routing weights is at least


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def squared_relu(x: Array) -> Array:
    return np.maximum(x, 0) ** 2


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def capped(x: Array, cap: float) -> Array:
    return cap * np.tanh(x / cap) if cap else x


@dataclass(frozen=True)
class Rules:
    """What no key of the file says."""

    rope: str = "neox"
    act: Callable[[Array], Array] = silu
    slides: Callable[[int], bool] = lambda il: False
    window: int = 0  # where the file does not say
    scale_embedding: bool = False
    caps: tuple[float, float] = (0, 0)  # of scores and logits, where the file does not say
    local_base: bool = False  # sliding layers rotate with a base of their own and no scaling
    ffn_norm: str = "ffn_norm"
    router: str = "softmax"
    normalised: bool | None = None  # None: the file says
    weigh_input: bool = False  # of an expert, not its output
    clamped: bool = False  # gpt-oss's gate


RULES = {
    "llama": Rules(rope="norm", normalised=True),
    "qwen2": Rules(),
    "qwen2moe": Rules(normalised=False),
    "qwen3": Rules(),
    "qwen3moe": Rules(normalised=True),
    "gemma2": Rules(
        act=gelu, slides=lambda il: il % 2 == 0, window=4096, scale_embedding=True, caps=(50, 30)
    ),
    "gemma3": Rules(act=gelu, slides=lambda il: il % 6 < 5, scale_embedding=True, local_base=True),
    "phi3": Rules(),
    "llama4": Rules(rope="norm", router="logits", normalised=False, weigh_input=True),
    "deepseek2": Rules(rope="norm"),
    "glm4moe": Rules(ffn_norm="post_attention_norm", router="sigmoid"),
    "gpt-oss": Rules(
        slides=lambda il: il % 2 == 0, ffn_norm="post_attention_norm", router="chosen", clamped=True
    ),
    "bitnet": Rules(),
    "bitnet-25": Rules(act=squared_relu),
    "bitnet-b1.58": Rules(act=squared_relu),
}


class Model:
    """One sequence through one model; `logits(tokens)` is all that is asked of it."""

    def __init__(self, architecture: str, keys: Keys, tensors: Tensors) -> None:
        self.rules, self.architecture, self.keys, self.w = RULES[architecture], architecture, keys, tensors
        self.n_embd, self.n_head = keys["embedding_length"], keys["attention.head_count"]
        self.n_head_kv = keys.get("attention.head_count_kv", self.n_head)
        self.head_dim = keys.get("attention.key_length", self.n_embd // self.n_head)
        self.v_dim = keys.get("attention.value_length", self.n_embd // self.n_head)
        self.eps = keys["attention.layer_norm_rms_epsilon"]

    def logits(self, tokens: NDArray[np.int32]) -> Array:
        """[T, V]: row i is the output after reading tokens[: i + 1]."""
        self.positions = np.arange(len(tokens))
        x = self.w["token_embd.weight"][tokens]
        if self.rules.scale_embedding:
            x = x * np.float64(np.float32(np.sqrt(self.n_embd)))
        for il in range(self.keys["block_count"] - self.keys.get("nextn_predict_layers", 0)):
            x = self.block(il, x)
        head = "output" if "output.weight" in self.w else "token_embd"
        y = self.linear(head, self.norm("output_norm", x))
        return capped(y, self.keys.get("final_logit_softcapping", self.rules.caps[1]))

    def block(self, il: int, x: Array) -> Array:
        attend = self.latent_attention if self.architecture == "deepseek2" else self.attention
        y = attend(il, self.norm(f"blk.{il}.attn_norm", x))
        if self.rules.ffn_norm != "post_attention_norm":
            y = self.if_there(f"blk.{il}.post_attention_norm", y)
        x = x + y
        h = self.norm(f"blk.{il}.{self.rules.ffn_norm}", x)
        y = self.experts(il, h) if f"blk.{il}.ffn_gate_inp.weight" in self.w else self.dense(il, h)
        return x + self.if_there(f"blk.{il}.post_ffw_norm", y)

    # -- products and norms

    def linear(self, name: str, x: Array) -> Array:
        y = x @ self.w[f"{name}.weight"].T
        if f"{name}.scale" in self.w:
            y = y * self.w[f"{name}.scale"]
        return y + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else y

    def rms(self, x: Array) -> Array:
        return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + self.eps)

    def norm(self, name: str, x: Array) -> Array:
        return self.rms(x) * self.w[f"{name}.weight"]

    def if_there(self, name: str, x: Array) -> Array:
        return self.norm(name, x) if f"{name}.weight" in self.w else x

    # -- rotation

    def angles(self, il: int, n_rot: int) -> tuple[Array, float]:
        """Angle per position and pair [T, n_rot / 2], and the magnitude of cos and sin."""
        k, local = self.keys, self.rules.local_base and self.rules.slides(il)
        base = k.get("rope.freq_base", 10000.0)
        if self.rules.slides(il):
            base = k.get("rope.freq_base_swa", 10000.0 if self.rules.local_base else base)
        frequency = base ** (-np.arange(0, n_rot, 2) / n_rot)
        magnitude = k.get("rope.scaling.attn_factor", 1.0)
        factor = 1.0 if local else k.get("rope.scaling.factor", k.get("rope.scale_linear", 1.0))
        if k.get("rope.scaling.type") == "yarn":
            ramp = self.ramp(n_rot, base)
            frequency = frequency * ((1 - ramp) / factor + ramp)
            magnitude *= 1.0 if "rope.scaling.yarn_log_multiplier" in k else 1 + 0.1 * np.log(factor)
        else:
            frequency = frequency / factor
        for name in ("rope_freqs", "rope_factors_short"):
            frequency = frequency / self.w.get(f"{name}.weight", 1.0)
        return self.positions[:, None] * frequency, magnitude

    def ramp(self, n_rot: int, base: float) -> Array:
        """YaRN's r: 1 where a pair rotates as before, 0 where it rotates `factor` times slower."""
        trained = self.keys.get("rope.scaling.original_context_length", self.keys["context_length"])

        def dim(rotations: float) -> float:
            return n_rot * np.log(trained / (2 * np.pi * rotations)) / (2 * np.log(base))

        low, high = max(0, np.floor(dim(32))), min(n_rot - 1, np.ceil(dim(1)))
        return 1 - np.clip((np.arange(n_rot // 2) - low) / max(0.001, high - low), 0, 1)

    def rotated(self, il: int, x: Array, n_rot: int) -> Array:
        """x[T, H, D] with its first n_rot dimensions rotated."""
        angle, magnitude = self.angles(il, n_rot)
        cos, sin = magnitude * np.cos(angle)[:, None], magnitude * np.sin(angle)[:, None]
        half = n_rot // 2
        norm = self.rules.rope == "norm"
        first = slice(0, n_rot, 2) if norm else slice(0, half)
        second = slice(1, n_rot, 2) if norm else slice(half, n_rot)
        y = x.copy()
        y[..., first] = x[..., first] * cos - x[..., second] * sin
        y[..., second] = x[..., first] * sin + x[..., second] * cos
        return y

    # -- attention

    def mask(self, il: int) -> NDArray[np.bool_]:
        """What may be seen [query, key]."""
        ago = self.positions[:, None] - self.positions[None]
        seen: NDArray[np.bool_] = ago >= 0
        window = self.keys.get("attention.sliding_window", self.rules.window)
        return seen & (ago < window) if window and self.rules.slides(il) else seen

    def attend(self, il: int, q: Array, k: Array, v: Array, scale: float) -> Array:
        """Heads of q[T, H, D] over k[T, Hk, D] and v[T, Hk, Dv], side by side: [T, H · Dv]."""
        shared = q.shape[1] // k.shape[1]
        k, v = np.repeat(k, shared, axis=1), np.repeat(v, shared, axis=1)
        scores = capped(
            np.einsum("thd,shd->hts", q, k) * scale,
            self.keys.get("attn_logit_softcapping", self.rules.caps[0]),
        )
        scores = np.where(self.mask(il), scores, -np.inf)
        sinks = self.w.get(f"blk.{il}.attn_sinks.weight")
        if sinks is not None:
            column = np.broadcast_to(sinks[:, None, None], (*scores.shape[:2], 1))
            probabilities = softmax(np.concatenate([scores, column], axis=-1))[..., :-1]
        else:
            probabilities = softmax(scores)
        return np.einsum("hts,shd->thd", probabilities, v).reshape(len(q), -1)

    def attention(self, il: int, h: Array) -> Array:
        blk = f"blk.{il}"
        widths = np.array([self.n_head * self.head_dim, self.n_head_kv * self.head_dim])
        if f"{blk}.attn_qkv.weight" in self.w:
            q, k, v = np.split(self.linear(f"{blk}.attn_qkv", h), np.cumsum(widths), axis=1)
        else:
            q, k, v = (self.linear(f"{blk}.attn_{what}", h) for what in "qkv")
        q, k, v = (
            x.reshape(len(h), n, -1) for x, n in ((q, self.n_head), (k, self.n_head_kv), (v, self.n_head_kv))
        )
        q, k = self.if_there(f"{blk}.attn_q_norm", q), self.if_there(f"{blk}.attn_k_norm", k)
        if self.architecture != "llama4" or (il + 1) % 4:
            n_rot = self.keys.get("rope.dimension_count", self.head_dim)
            q, k = self.rotated(il, q, n_rot), self.rotated(il, k, n_rot)
            if self.architecture == "llama4":
                q, k = self.rms(q), self.rms(k)
        y = self.attend(il, q, k, v, 1 / np.sqrt(self.head_dim))
        return self.linear(f"{blk}.attn_output", self.if_there(f"{blk}.attn_sub_norm", y))

    def latent_attention(self, il: int, h: Array) -> Array:
        """DeepSeek-2: keys and values out of one latent row; the last n_rot dimensions of a head are rotated."""
        blk, T, keys = f"blk.{il}", len(h), self.keys
        rank, n_rot = keys["attention.kv_lora_rank"], keys["rope.dimension_count"]
        width = keys.get("attention.key_length_mla", self.head_dim)
        if f"{blk}.attn_q_a.weight" in self.w:
            h_q = self.norm(f"{blk}.attn_q_a_norm", self.linear(f"{blk}.attn_q_a", h))
            q = self.linear(f"{blk}.attn_q_b", h_q).reshape(T, self.n_head, width)
        else:
            q = self.linear(f"{blk}.attn_q", h).reshape(T, self.n_head, width)
        row = self.linear(f"{blk}.attn_kv_a_mqa", h)
        latent = self.norm(f"{blk}.attn_kv_a_norm", row[:, :rank])
        k_rope = self.rotated(il, row[:, None, rank:], n_rot)
        q_rope = self.rotated(il, q[..., width - n_rot :], n_rot)
        k_nope, v = self.keys_and_values(blk, latent, width - n_rot)
        q = np.concatenate([q[..., : width - n_rot], q_rope], axis=-1)
        k = np.concatenate([k_nope, np.repeat(k_rope, self.n_head, axis=1)], axis=-1)
        m = keys.get("rope.scaling.yarn_log_multiplier", 0.0) / 0.1
        scale = (1 + 0.1 * m * np.log(keys.get("rope.scaling.factor", 1.0))) ** 2 / np.sqrt(width)
        return self.linear(f"{blk}.attn_output", self.attend(il, q, k, v, scale))

    def keys_and_values(self, blk: str, latent: Array, nope: int) -> tuple[Array, Array]:
        """k without its rotated part [T, H, nope], and v [T, H, Dv]."""
        if f"{blk}.attn_kv_b.weight" in self.w:
            kv = self.linear(f"{blk}.attn_kv_b", latent).reshape(len(latent), self.n_head, -1)
            return kv[..., :nope], kv[..., nope:]
        k = np.einsum("tr,hrn->thn", latent, self.w[f"{blk}.attn_k_b.weight"])
        return k, np.einsum("tr,hvr->thv", latent, self.w[f"{blk}.attn_v_b.weight"])

    # -- feed-forward

    def dense(self, il: int, h: Array, suffix: str = "") -> Array:
        blk = f"blk.{il}"
        if f"{blk}.ffn_gate{suffix}.weight" in self.w:
            gate, up = self.linear(f"{blk}.ffn_gate{suffix}", h), self.linear(f"{blk}.ffn_up{suffix}", h)
        else:
            gate, up = np.split(self.linear(f"{blk}.ffn_up{suffix}", h), 2, axis=1)
        y = self.if_there(f"{blk}.ffn_sub_norm", self.rules.act(gate) * up)
        return self.linear(f"{blk}.ffn_down{suffix}", y)

    def experts(self, il: int, h: Array) -> Array:
        chosen, weights = self.routed(il, h)
        y = np.zeros_like(h)
        for t, k in np.ndindex(*chosen.shape):
            x, e, weight = h[t], int(chosen[t, k]), float(weights[t, k])
            y[t] += (
                self.expert(il, e, x * weight) if self.rules.weigh_input else weight * self.expert(il, e, x)
            )
        if f"blk.{il}.ffn_up_shexp.weight" not in self.w:
            return y
        shared = self.dense(il, h, "_shexp")
        gate = self.w.get(f"blk.{il}.ffn_gate_inp_shexp.weight")
        return y + (shared if gate is None else sigmoid(h @ gate)[:, None] * shared)

    def expert(self, il: int, e: int, x: Array) -> Array:
        def linear(name: str, x: Array) -> Array:
            bias = self.w.get(f"blk.{il}.ffn_{name}_exps.bias")
            y: Array = self.w[f"blk.{il}.ffn_{name}_exps.weight"][e] @ x
            return y if bias is None else y + bias[e]

        gate, up = linear("gate", x), linear("up", x)
        if self.rules.clamped:
            gate, up = np.minimum(gate, 7), np.clip(up, -7, 7)
            return linear("down", gate * sigmoid(1.702 * gate) * (up + 1))
        return linear("down", self.rules.act(gate) * up)

    def routed(self, il: int, h: Array) -> tuple[NDArray[np.int64], Array]:
        """Experts of each token, best first [T, k], and their weights."""
        keys, used = self.keys, self.keys["expert_used_count"]
        logits = self.linear(f"blk.{il}.ffn_gate_inp", h)
        kind = {1: "softmax", 2: "sigmoid"}.get(keys.get("expert_gating_func", 0), self.rules.router)
        p = softmax(logits) if kind == "softmax" else sigmoid(logits)
        score = logits if kind in ("logits", "chosen") else p + self.w.get(f"blk.{il}.exp_probs_b.bias", 0.0)
        chosen = best(self.in_groups(score), used)
        weights = np.take_along_axis(p, chosen, axis=1)
        if kind == "chosen":
            weights = softmax(np.take_along_axis(logits, chosen, axis=1))
        normalised = self.rules.normalised
        if keys.get("expert_weights_norm", False) if normalised is None else normalised:
            weights = weights / np.maximum(weights.sum(axis=1, keepdims=True), FEW)
        return chosen, weights * (keys.get("expert_weights_scale", 0.0) or 1.0)

    def in_groups(self, score: Array) -> Array:
        """-inf for the experts of groups that do not take part: a group counts by its two best."""
        n, used = self.keys.get("expert_group_count", 0), self.keys.get("expert_group_used_count", 0)
        if n <= 1:
            return score
        grouped = score.reshape(len(score), n, -1)
        kept = best(np.sort(grouped, axis=2)[..., -2:].sum(axis=2), used)
        stays = np.zeros(grouped.shape[:2], bool)
        np.put_along_axis(stays, kept, True, axis=1)
        return np.where(stays[..., None], grouped, -np.inf).reshape(score.shape)


def best(score: Array, n: int) -> NDArray[np.int64]:
    """The n best of each row, the first of equals first."""
    return np.argsort(-score, axis=1, kind="stable")[:, :n]
