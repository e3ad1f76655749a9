"""The plain forward pass of the families: what each does unlike the models of `forward`, formula by formula."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiny import forward
from tiny.forward import Array, best, capped, gelu, sigmoid, silu, softmax, squared_relu


def full_last(n: int) -> Callable[[int], bool]:
    """Layers that slide where the file has no pattern: all but the last of each n."""
    return lambda il: il % n < n - 1


@dataclass(frozen=True)
class Family(forward.Rules):
    """What no key of the file says, of a family."""

    still: Callable[[int], bool] = lambda il: False  # layers that do not rotate
    norm_last: bool = False  # queries and keys are normed behind the rotation
    out_bias: bool = True  # a bias behind attention counts
    router: str = "softmax"
    scaled: bool = False  # expert_weights_scale counts
    eps: float | None = None
    swa_base: str = "own"  # base of sliding layers, absent: "own" (10000), "common"
    sections: str = ""  # mrope or imrope


RULES = {
    "afmoe": Family(
        slides=full_last(4),
        still=lambda il: il % 4 == 3,
        scale_embedding=True,
        swa_base="common",
        router="sigmoid",
        scaled=True,
    ),
    "arcee": Family(rope="norm", act=squared_relu),
    "bailingmoe": Family(rope="norm", scaled=True),
    "bailingmoe2": Family(scaled=True),
    "chatglm": Family(rope="norm"),
    "deepseek": Family(rope="norm", normalised=False, scaled=True),
    "dots1": Family(scaled=True),
    "ernie4_5": Family(rope="norm", out_bias=False),
    "ernie4_5-moe": Family(rope="norm", out_bias=False, normalised=True),
    "exaone-moe": Family(slides=full_last(4), still=lambda il: il % 4 == 3, swa_base="common", scaled=True),
    "exaone4": Family(),
    "gemma": Family(act=gelu, scale_embedding=True),
    "gemma4": Family(act=gelu, scale_embedding=True, caps=(0, 30), local_base=True, normalised=True),
    "glm4": Family(rope="norm"),
    "granite": Family(rope="norm", normalised=True),
    "granitemoe": Family(rope="norm", normalised=True),
    "grok": Family(act=gelu, caps=(30, 0), normalised=True),
    "hunyuan-dense": Family(norm_last=True),
    "hunyuan-moe": Family(norm_last=True, normalised=True),
    "hy_v3": Family(router="sigmoid", scaled=True),
    "internlm2": Family(rope="norm"),
    "mimo2": Family(router="sigmoid", local_base=True, normalised=True),
    "minicpm": Family(rope="norm"),
    "minimax-m2": Family(normalised=True),
    "olmo2": Family(slides=full_last(4), local_base=True, swa_base="common"),
    "olmoe": Family(normalised=False),
    "phimoe": Family(normalised=True),
    "qwen2vl": Family(sections="mrope", eps=0.0),
    "qwen3vl": Family(sections="imrope"),
    "qwen3vlmoe": Family(sections="imrope", normalised=True),
    "seed_oss": Family(ffn_norm="post_attention_norm"),
    "smollm3": Family(rope="norm", still=lambda il: il % 4 == 3),
    "step35": Family(router="sigmoid", local_base=True, scaled=True),
    "xverse": Family(rope="norm"),
}


class Model(forward.Model):
    """As the pass of `forward`, with the families' differences."""

    rules: Family

    def __init__(self, architecture: str, keys: forward.Keys, tensors: forward.Tensors) -> None:
        self.lists = {k: v for k, v in keys.items() if isinstance(v, list | tuple | np.ndarray)}
        scalars = {**keys} | {k: v[0] for k, v in self.lists.items() if len(v)}
        self.rules, self.architecture, self.keys, self.w = RULES[architecture], architecture, scalars, tensors
        self.n_layer, self.n_embd = keys["block_count"], keys["embedding_length"]
        self.at(0)

    def at(self, il: int) -> None:
        """Sets what one layer's attention is like."""
        k = {name: v[il] if len(v) >= self.n_layer else v for name, v in self.lists.items()}
        keys = {**self.keys, **k}
        self.n_head, self.n_head_kv = keys["attention.head_count"], keys["attention.head_count_kv"]
        self.head_dim = keys.get("attention.key_length", self.n_embd // self.n_head)
        self.v_dim = keys.get("attention.value_length", self.head_dim)
        if self.architecture == "gemma4" and self.slides(il):
            self.head_dim = self.v_dim = keys["attention.key_length_swa"]
        eps = self.keys["attention.layer_norm_rms_epsilon"]
        self.eps = eps if self.rules.eps is None else self.rules.eps
        self.clamps = keys.get("swiglu_clamp_exp", 0.0), keys.get("swiglu_clamp_shexp", 0.0)

    def slides(self, il: int) -> bool:
        if not self.keys.get("attention.sliding_window", 0):
            return False
        pattern = self.lists.get("attention.sliding_window_pattern")
        if self.architecture == "exaone4":
            return self.n_layer == 64 and il % 4 < 3
        return bool(pattern[il]) if pattern is not None else self.rules.slides(il)

    # -- the whole

    def logits(self, tokens: NDArray[np.int32]) -> Array:
        self.positions = np.arange(len(tokens))
        self.kept: dict[bool, tuple[Array, Array]] = {}
        keys, default = self.keys, {"grok": 78.38367176906169, "minicpm": 12.0}
        x = self.w["token_embd.weight"][tokens]
        if self.rules.scale_embedding:
            x = x * np.float64(np.float32(np.sqrt(self.n_embd)))
        x = x * (keys.get("embedding_scale", default.get(self.architecture, 0.0)) or 1.0)
        given = self.layer_inputs(x, tokens) if "per_layer_token_embd.weight" in self.w else None
        for il in range(self.n_layer):
            self.at(il)
            x = self.block(il, x)
            if given is not None:
                gated = gelu(self.linear(f"blk.{il}.inp_gate", x)) * given[:, il]
                x = x + self.norm(f"blk.{il}.post_norm", self.linear(f"blk.{il}.proj", gated))
            x = x * self.w.get(f"blk.{il}.layer_output_scale.weight", 1.0)
        x = self.norm("output_norm", x)
        y = self.linear(
            "output" if "output.weight" in self.w and self.architecture != "gemma" else "token_embd", x
        )
        if self.architecture in ("granite", "granitemoe", "minicpm"):
            y = y / keys.get("logit_scale", 256 / self.n_embd)
        if self.architecture == "grok":
            y = y * keys.get("logit_scale", 0.5773502691896257)
        return capped(y, keys.get("final_logit_softcapping", self.rules.caps[1]))

    def layer_inputs(self, x: Array, tokens: NDArray[np.int32]) -> Array:
        """gemma4: [T, L, P], half of the token's embedding, half of a second one."""
        width = self.keys["embedding_length_per_layer_input"]
        a = (self.linear("per_layer_model_proj", x) / np.sqrt(self.n_embd)).reshape(len(x), -1, width)
        b = self.w["per_layer_token_embd.weight"][tokens].reshape(len(x), -1, width) * np.sqrt(width)
        return (self.norm("per_layer_proj_norm", a) + b) / np.sqrt(2)

    def block(self, il: int, x: Array) -> Array:
        blk, seed = f"blk.{il}", self.architecture == "seed_oss"
        by = self.keys.get(
            "residual_scale", 1.4 / np.sqrt(self.n_layer) if self.architecture == "minicpm" else 0.0
        )
        y = self.attention(il, self.if_there(f"{blk}.attn_norm", x))
        y = y if seed else self.if_there(f"{blk}.post_attention_norm", y)
        x = x + self.if_there(f"{blk}.attn_output_norm", y) * (by or 1.0)
        h = self.if_there(f"{blk}.{'post_attention_norm' if seed else 'ffn_norm'}", x)
        y = self.feed_forward(il, h, x)
        return x + self.if_there(f"{blk}.layer_output_norm", self.if_there(f"{blk}.post_ffw_norm", y)) * (
            by or 1.0
        )

    def norm(self, name: str, x: Array) -> Array:
        return super().norm(name, x) + self.w.get(f"{name}.bias", 0.0)

    def linear(self, name: str, x: Array) -> Array:
        ignored = (
            "output" if self.architecture == "qwen2vl" else "attn_output" if not self.rules.out_bias else ""
        )
        if ignored and name.endswith(ignored):
            return x @ self.w[f"{name}.weight"].T
        return super().linear(name, x)

    # -- rotation

    def angles(self, il: int, n_rot: int) -> tuple[Array, float]:
        keys, slides = self.keys, self.slides(il)
        unscaled = slides and self.rules.local_base
        base = keys.get("rope.freq_base", 10000.0)
        if (
            slides
            and (self.rules.local_base or self.architecture == "afmoe")
            and self.architecture != "olmo2"
        ):
            base = keys.get("rope.freq_base_swa", 10000.0 if self.rules.swa_base == "own" else base)
        if self.architecture == "hunyuan-dense" and (alpha := keys.get("rope.scaling.alpha", 0.0)):
            base *= alpha ** (self.head_dim / (self.head_dim - 2))
        frequency = base ** (-np.arange(0, n_rot, 2) / n_rot)
        factor = 1.0 if unscaled else keys.get("rope.scaling.factor", 1.0)
        magnitude = 1.0
        if keys.get("rope.scaling.type") == "yarn" and not unscaled:
            ramp = self.ramp(n_rot, base)
            frequency, magnitude = frequency * ((1 - ramp) / factor + ramp), 1 + 0.1 * np.log(factor)
        else:
            frequency = frequency / factor
        for name in ("rope_freqs", "rope_factors_short"):
            if not unscaled:
                frequency = frequency / self.w.get(f"{name}.weight", np.ones(n_rot))[: n_rot // 2]
        return self.positions[:, None] * frequency * self.rotating(n_rot // 2), magnitude

    def rotating(self, n: int) -> NDArray[np.bool_]:
        """Pairs that are rotated in text: not those of the fourth section."""
        sections = list(self.lists.get("rope.dimension_sections", ()))
        kind = self.rules.sections or ("mrope" if self.architecture == "glm4" else "")
        if not kind or not sections:
            return np.ones(n, bool)
        at = np.arange(n) % sum(sections)
        if kind == "mrope":
            return at < sum(sections[:3])
        return at < 3 * np.array(sections)[at % 3]

    def rotated(self, il: int, x: Array, n_rot: int) -> Array:
        if self.rules.still(il) or self.keys.get("rope.scaling.finetuned", True) is False:
            return x
        if self.architecture == "exaone4" and self.n_layer == 64 and not self.slides(il):
            return x
        angle, magnitude = self.angles(il, n_rot)
        cos, sin = magnitude * np.cos(angle)[:, None], magnitude * np.sin(angle)[:, None]
        half, pairs = n_rot // 2, self.rules.rope == "norm" and "rope.dimension_sections" not in self.lists
        first, second = (
            (slice(0, n_rot, 2), slice(1, n_rot, 2)) if pairs else (slice(0, half), slice(half, n_rot))
        )
        y = x.copy()
        y[..., first] = x[..., first] * cos - x[..., second] * sin
        y[..., second] = x[..., first] * sin + x[..., second] * cos
        return y

    def n_rot(self, il: int) -> int:
        if self.architecture == "gemma4":
            return self.head_dim
        n = int(self.keys.get("rope.dimension_count", self.head_dim))
        return n // 2 if self.architecture == "step35" and not self.slides(il) else n

    # -- attention

    def mask(self, il: int) -> NDArray[np.bool_]:
        ago = self.positions[:, None] - self.positions[None]
        return (ago >= 0) & (ago < self.keys["attention.sliding_window"]) if self.slides(il) else ago >= 0

    def score_scale(self) -> float:
        keys = self.keys
        if self.architecture == "gemma4":
            return 1.0
        if self.architecture == "grok":
            return float(keys.get("attention.output_scale", 0.08838834764831845))
        return float(keys.get("attention.scale", 0.0) or 1 / np.sqrt(self.head_dim))

    def qk_norm(self, blk: str, q: Array, k: Array) -> tuple[Array, Array]:
        """By head or over all heads at once, as the weights are wide."""

        def normed(name: str, x: Array) -> Array:
            w = self.w.get(f"{blk}.{name}.weight")
            if w is None:
                return x
            return (self.rms(x.reshape(len(x), -1, w.size)) * w).reshape(x.shape)

        return normed("attn_q_norm", q), normed("attn_k_norm", k)

    def attention(self, il: int, h: Array) -> Array:
        blk, n = f"blk.{il}", self.n_rot(il)
        q, k, v = self.queries_keys_values(il, h)
        if not self.rules.norm_last:
            q, k = self.qk_norm(blk, q, k)
        q, k = self.rotated(il, q, n), self.rotated(il, k, n)
        if self.rules.norm_last:
            q, k = self.qk_norm(blk, q, k)
        if self.architecture == "gemma4":
            k, v = self.own_or_kept(il, k, self.rms(v))
        y = self.attend(il, q, k, v, self.score_scale())
        if f"{blk}.attn_gate.weight" in self.w:
            gate = sigmoid(self.linear(f"{blk}.attn_gate", h))
            y = (y.reshape(len(y), gate.shape[1], -1) * gate[..., None]).reshape(y.shape)
        y = self.linear(f"{blk}.attn_output", y)
        return y * (self.keys.get("attention.value_scale", 0.0) or 1.0)

    def queries_keys_values(self, il: int, h: Array) -> tuple[Array, Array, Array]:
        blk, T = f"blk.{il}", len(h)
        if f"{blk}.attn_qkv.weight" in self.w:
            widths = np.cumsum([self.n_head * self.head_dim, self.n_head_kv * self.head_dim])
            q, k, v = np.split(self.linear(f"{blk}.attn_qkv", h), widths, axis=1)
        else:
            q = self.linear(f"{blk}.attn_q", h)
            k = self.linear(f"{blk}.attn_k", h) if f"{blk}.attn_k.weight" in self.w else np.zeros_like(q)
            v = self.linear(f"{blk}.attn_v", h) if f"{blk}.attn_v.weight" in self.w else k
        n_kv = self.n_head_kv if k.shape != q.shape else self.n_head
        return q.reshape(T, self.n_head, -1), k.reshape(T, n_kv, -1), v.reshape(T, n_kv, -1)

    def own_or_kept(self, il: int, k: Array, v: Array) -> tuple[Array, Array]:
        """gemma4: layers without keys read those of the last layer of their kind that has them."""
        if f"blk.{il}.attn_k.weight" in self.w:
            self.kept[self.slides(il)] = k, v
        return self.kept[self.slides(il)]

    # -- feed-forward

    def feed_forward(self, il: int, h: Array, x: Array) -> Array:
        blk = f"blk.{il}"
        if f"{blk}.ffn_gate_inp.weight" not in self.w:
            return self.dense(il, h)
        if self.architecture == "gemma4":
            y = self.norm(f"{blk}.post_ffw_norm_1", self.dense(il, h))
            return y + self.norm(
                f"{blk}.post_ffw_norm_2", self.experts(il, self.norm(f"{blk}.pre_ffw_norm_2", x), x)
            )
        y = self.experts(il, h)
        if self.architecture == "grok" and f"{blk}.ffn_up.weight" in self.w:
            return (y + self.dense(il, h)) * np.sqrt(0.5)
        return y

    def gated(self, gate: Array, up: Array, limit: float) -> Array:
        if limit > 1e-6:
            return np.minimum(silu(gate), limit) * np.clip(up, -limit, limit)
        return self.rules.act(gate) * up

    def dense(self, il: int, h: Array, suffix: str = "") -> Array:
        blk = f"blk.{il}.ffn"
        up, down = self.linear(f"{blk}_up{suffix}", h), self.w[f"{blk}_down{suffix}.weight"]
        if f"{blk}_gate{suffix}.weight" in self.w:
            y = self.gated(self.linear(f"{blk}_gate{suffix}", h), up, self.clamps[1])
        elif up.shape[1] == 2 * down.shape[1]:
            gate, up = np.split(up, 2, axis=1)
            y = self.gated(gate, up, 0.0)
        else:
            y = self.rules.act(up)
        return self.linear(f"{blk}_down{suffix}", y)

    def experts(self, il: int, h: Array, seen: Array | None = None) -> Array:
        chosen, weights = self.routed(il, h if seen is None else seen)
        y = np.zeros_like(h)
        for t, k in np.ndindex(*chosen.shape):
            y[t] += float(weights[t, k]) * self.expert(il, int(chosen[t, k]), h[t])
        return y + self.dense(il, h, "_shexp") if f"blk.{il}.ffn_up_shexp.weight" in self.w else y

    def expert(self, il: int, e: int, x: Array) -> Array:
        blk = f"blk.{il}.ffn"
        if f"{blk}_gate_up_exps.weight" in self.w:
            gate, up = np.split(self.w[f"{blk}_gate_up_exps.weight"][e] @ x, 2)
        else:
            gate, up = (self.w[f"{blk}_{what}_exps.weight"][e] @ x for what in ("gate", "up"))
        y: Array = self.w[f"{blk}_down_exps.weight"][e] @ self.gated(gate, up, self.clamps[0])
        return y * self.w.get(f"{blk}_down_exps.scale", np.ones(e + 1))[e]

    def routed(self, il: int, h: Array) -> tuple[NDArray[np.int64], Array]:
        keys, blk = self.keys, f"blk.{il}"
        if self.architecture == "gemma4":
            h = self.rms(h) / np.sqrt(self.n_embd) * self.w[f"{blk}.ffn_gate_inp.scale"]
        logits = h @ self.w[f"{blk}.ffn_gate_inp.weight"].T
        kind = {1: "softmax", 2: "sigmoid"}.get(keys.get("expert_gating_func", 0), self.rules.router)
        p = softmax(logits) if kind == "softmax" else sigmoid(logits)
        bias: Any = self.w.get(f"{blk}.exp_probs_b.bias", self.w.get(f"{blk}.exp_probs_b", 0.0))
        chosen = best(self.in_groups(p + bias), keys["expert_used_count"])
        weights = np.take_along_axis(p, chosen, axis=1)
        normalised = self.rules.normalised
        if keys.get("expert_weights_norm", False) if normalised is None else normalised:
            weights = weights / np.maximum(weights.sum(axis=1, keepdims=True), forward.FEW)
        return chosen, weights * (
            (keys.get("expert_weights_scale", 0.0) or 1.0) if self.rules.scaled else 1.0
        )
