"""Plain forward passes of models with parts of their own, a function each: no cache, the whole text at once."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiny import forward
from tiny.forward import Array, best, capped, gelu, sigmoid, silu, softmax
from tiny.recurrent_forward import convolved, delta_rule, softplus

Act = Callable[[Array, Array], Array]
Seen = NDArray[np.bool_]


def swiglu(gate: Array, up: Array) -> Array:
    return silu(gate) * up


class Model:
    """One sequence through one model; what all of these models share."""

    def __init__(self, architecture: str, keys: forward.Keys, tensors: forward.Tensors) -> None:
        self.architecture, self.keys, self.w = architecture, keys, tensors
        self.n_layer = keys["block_count"] - keys.get("nextn_predict_layers", 0)
        self.D, self.eps = keys["embedding_length"], keys["attention.layer_norm_rms_epsilon"]

    def logits(self, tokens: NDArray[np.int32]) -> Array:
        """[T, V]: row i is the output after reading tokens[: i + 1]."""
        self.tokens, self.pos = tokens, np.arange(len(tokens))
        x: Array = self.w["token_embd.weight"][tokens]
        return RULES[self.architecture](self, x)

    def key(self, name: str, default: Any = None, il: int | None = None) -> Any:
        """A key; of one layer, if that has its own; absent where it is 0."""
        value = self.keys.get(name, default)
        if il is not None and isinstance(value, list | tuple | np.ndarray):
            value = value[il]
        return default if isinstance(value, int | float | np.number) and not value else value

    def has(self, name: str) -> bool:
        return name in self.w or f"{name}.weight" in self.w

    def linear(self, name: str, x: Array, *, scaled: bool = False) -> Array:
        y = x @ self.w[f"{name}.weight"].reshape(-1, x.shape[-1]).T
        y = y * self.w.get(f"{name}.scale", 1.0) if scaled else y
        return y + self.w.get(f"{name}.bias", 0.0)

    def rms(self, x: Array, eps: float | None = None) -> Array:
        return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + (self.eps if eps is None else eps))

    def norm(self, name: str, x: Array, eps: float | None = None) -> Array:
        return self.rms(x, eps) * self.w[f"{name}.weight" if f"{name}.weight" in self.w else name]

    def head(self, x: Array) -> Array:
        name = "output" if self.has("output") else "token_embd"
        return self.linear(name, self.norm("output_norm", x), scaled=True)

    # -- rotation

    def yarn(self, n: int, base: float, fast: float = 32, slow: float = 1) -> Array:
        """Radians per position of each pair, as the keys of scaling say."""
        frequency = base ** (-np.arange(0, n, 2) / n)
        factor = self.key("rope.scaling.factor", 1.0)
        if self.key("rope.scaling.type") != "yarn":
            return frequency / factor

        def pair(turns: float) -> float:
            context = self.keys["rope.scaling.original_context_length"]
            return float(n * np.log(context / (2 * np.pi * turns)) / (2 * np.log(base)))

        low, high = max(0, np.floor(pair(fast))), min(n - 1, np.ceil(pair(slow)))
        keeps = 1 - np.clip((np.arange(n // 2) - low) / max(0.001, high - low), 0, 1)
        return frequency * ((1 - keeps) / factor + keeps)

    def turn(self, x: Array, frequency: Array, *, norm: bool, size: float = 1.0, pos: Any = None) -> Array:
        """x[T, H, d] with its first pairs rotated: neighbours (norm), or halves."""
        angle = (self.pos if pos is None else pos)[:, None, None] * frequency
        n = len(frequency)
        first, second = (slice(0, 2 * n, 2), slice(1, 2 * n, 2)) if norm else (slice(0, n), slice(n, 2 * n))
        y = x.copy()
        y[..., first] = size * (x[..., first] * np.cos(angle) - x[..., second] * np.sin(angle))
        y[..., second] = size * (x[..., first] * np.sin(angle) + x[..., second] * np.cos(angle))
        return y

    def log_factor(self, m: float) -> float:
        """1 + 0.1 · m · ln(factor) under YaRN, else 1."""
        yarn = self.key("rope.scaling.type") == "yarn"
        return float(1 + 0.1 * m * np.log(self.key("rope.scaling.factor", 1.0))) if yarn else 1.0

    def sharper(self, q: Array, length: int) -> Array:
        """Queries by position."""
        slope = self.key("attention.temperature_scale", 0.0)
        return q * (1 + slope * np.log(1 + self.pos // length))[:, None, None]

    # -- attention

    def seen(self, window: int = 0) -> Seen:
        """What may be seen [query, key]."""
        ago = self.pos[:, None] - self.pos[None]
        return (ago >= 0) & (ago < window) if window else ago >= 0

    def attend(self, q: Array, k: Array, v: Array, scale: float, seen: Seen) -> Array:
        """q[T, H, d] over k[T, K, d] and v[T, K, dv], seen [T, S] or for each key head [K, T, S]: [T, H, dv]."""
        shared = q.shape[1] // k.shape[1]
        k, v = np.repeat(k, shared, axis=1), np.repeat(v, shared, axis=1)
        seen = np.repeat(seen, shared, axis=0) if seen.ndim == 3 else seen
        scores = np.where(seen, np.einsum("thd,shd->hts", q, k) * scale, -np.inf)
        return np.einsum("hts,shd->thd", softmax(scores), v)

    def heads(self, blk: str, h: Array, il: int, n_head: int = 0) -> tuple[Array, Array, Array]:
        """Queries, keys and values by head, from three matrices or one."""
        n, kv = n_head or self.key("attention.head_count", il=il), self.key("attention.head_count_kv", il=il)
        if self.has(f"{blk}.attn_qkv"):
            every = self.linear(f"{blk}.attn_qkv", h)
            d = every.shape[1] // (n + 2 * kv)
            q, k, v = np.split(every, [n * d, (n + kv) * d], axis=1)
        else:
            q, k, v = (self.linear(f"{blk}.attn_{name}", h, scaled=True) for name in "qkv")
        return q.reshape(len(h), n, -1), k.reshape(len(h), kv, -1), v.reshape(len(h), kv, -1)

    def normed(self, blk: str, q: Array, k: Array) -> tuple[Array, Array]:
        return self.norm(f"{blk}.attn_q_norm", q), self.norm(f"{blk}.attn_k_norm", k)

    def out(self, blk: str, y: Array) -> Array:
        return self.linear(f"{blk}.attn_output", y.reshape(len(y), -1), scaled=True)

    def gated_out(self, blk: str, y: Array, h: Array, act: Callable[[Array], Array]) -> Array:
        """A number for each head, or for each element."""
        gate = act(self.linear(f"{blk}.attn_gate", h))
        return self.out(blk, (y.reshape(len(y), gate.shape[1], -1) * gate[..., None]).reshape(y.shape))

    def low_query(self, blk: str, h: Array) -> Array:
        return self.norm(f"{blk}.attn_q_a_norm", self.linear(f"{blk}.attn_q_a", h))

    def latent_queries(self, blk: str, h: Array, n: int) -> Array:
        if self.has(f"{blk}.attn_q"):
            return self.linear(f"{blk}.attn_q", h).reshape(len(h), n, -1)
        return self.linear(f"{blk}.attn_q_b", self.low_query(blk, h)).reshape(len(h), n, -1)

    def latent(
        self, blk: str, h: Array, q: Array, turn: Callable[[Array], Array], scale: float, seen: Seen
    ) -> Array:
        """Latent attention, expanded; `turn` rotates the last part of q and the shared key. [T, H, dv]"""
        rank, n = self.keys["attention.kv_lora_rank"], q.shape[1]
        row = self.linear(f"{blk}.attn_kv_a_mqa", h)
        rope = row.shape[1] - rank
        latent, nope = self.norm(f"{blk}.attn_kv_a_norm", row[:, :rank]), q.shape[2] - rope
        k_rope = np.repeat(turn(row[:, None, rank:]), n, axis=1)
        if self.has(f"{blk}.attn_kv_b"):
            kv = self.linear(f"{blk}.attn_kv_b", latent).reshape(len(h), n, -1)
            k, v = kv[..., :nope], kv[..., nope:]
        else:
            k = np.einsum("tr,hrn->thn", latent, self.w[f"{blk}.attn_k_b.weight"].reshape(n, rank, nope))
            v = np.einsum("tr,hvr->thv", latent, self.w[f"{blk}.attn_v_b.weight"].reshape(n, -1, rank))
        q = np.concatenate([q[..., :nope], turn(q[..., nope:])], axis=2)
        return self.attend(q, np.concatenate([k, k_rope], axis=2), v, scale, seen)

    # -- feed-forward

    def ffn(self, blk: str, h: Array, act: Act = swiglu, suffix: str = "") -> Array:
        up = self.linear(f"{blk}.ffn_up{suffix}", h)
        if not self.has(f"{blk}.ffn_gate{suffix}"):
            return self.linear(f"{blk}.ffn_down{suffix}", act(*np.split(up, 2, axis=1)))
        return self.linear(f"{blk}.ffn_down{suffix}", act(self.linear(f"{blk}.ffn_gate{suffix}", h), up))

    def chosen(
        self, blk: str, h: Array, kind: int, normalised: bool | None
    ) -> tuple[NDArray[np.int64], Array]:
        """Experts of each token and their weights. kind, if no key says: 1 softmax, 2 sigmoid, 4 root of softplus."""
        logits = h @ self.w[f"{blk}.ffn_gate_inp.weight"].T
        kind = self.key("expert_gating_func", kind)
        p = sigmoid(logits) if kind == 2 else np.sqrt(softplus(logits)) if kind == 4 else softmax(logits)
        ids = best(
            self.in_groups(p + self.w.get(f"{blk}.exp_probs_b.bias", 0.0)), self.keys["expert_used_count"]
        )
        weights = np.take_along_axis(p, ids, axis=1)
        if self.key("expert_weights_norm", False) if normalised is None else normalised:
            weights = weights / np.maximum(weights.sum(axis=1, keepdims=True), forward.FEW)
        return ids, weights * self.key("expert_weights_scale", 1.0)

    def in_groups(self, score: Array) -> Array:
        n = self.key("expert_group_count", 1)
        if n == 1:
            return score
        grouped = score.reshape(len(score), n, -1)
        kept = best(np.sort(grouped, axis=2)[..., -2:].sum(axis=2), self.keys["expert_group_used_count"])
        stays = np.zeros(grouped.shape[:2], bool)
        np.put_along_axis(stays, kept, True, axis=1)
        return np.where(stays[..., None], grouped, -np.inf).reshape(score.shape)

    def experts(
        self,
        blk: str,
        h: Array,
        act: Act = swiglu,
        *,
        kind: int = 1,
        normalised: bool | None = None,
        x: Array | None = None,
    ) -> Array:
        """Σ of the experts that h chooses, of x (None: h)."""
        ids, weights = self.chosen(blk, h, kind, normalised)
        x = h if x is None else x
        y = np.zeros_like(x)
        for t, k in np.ndindex(*ids.shape):
            e = ids[t, k]
            if self.has(f"{blk}.ffn_gate_up_exps"):
                gate, up = np.split(self.w[f"{blk}.ffn_gate_up_exps.weight"][e] @ x[t], 2)
            else:
                gate, up = (self.w[f"{blk}.ffn_{name}_exps.weight"][e] @ x[t] for name in ("gate", "up"))
            y[t] += weights[t, k] * (self.w[f"{blk}.ffn_down_exps.weight"][e] @ act(gate, up))
        return y

    def dense_or_experts(self, blk: str, h: Array, **routing: Any) -> Array:
        if not self.has(f"{blk}.ffn_gate_inp"):
            return self.ffn(blk, h)
        y = self.experts(blk, h, **routing)
        return y + self.ffn(blk, h, suffix="_shexp") if self.has(f"{blk}.ffn_up_shexp") else y


# --- the models


def mistral3(m: Model, x: Array) -> Array:
    n, base = x.shape[1] // m.key("attention.head_count"), m.key("rope.freq_base", 1e4)
    fast, slow = m.key("rope.scaling.yarn_beta_fast", 32), m.key("rope.scaling.yarn_beta_slow", 1)
    n = m.key("attention.key_length", n)
    frequency = m.yarn(n, base, fast, slow)
    size = m.log_factor(1.0) / m.log_factor(m.key("rope.scaling.yarn_log_multiplier", 0.0))
    for il in range(m.n_layer):
        blk = f"blk.{il}"
        q, k, v = m.heads(blk, m.norm(f"{blk}.attn_norm", x), il)
        q, k = m.turn(q, frequency, norm=True, size=size), m.turn(k, frequency, norm=True, size=size)
        q = m.sharper(q, m.key("rope.scaling.original_context_length", 1))
        x = x + m.out(blk, m.attend(q, k, v, n**-0.5, m.seen()))
        x = x + m.dense_or_experts(blk, m.norm(f"{blk}.ffn_norm", x), normalised=True)
    return m.head(x)


def mistral4(m: Model, x: Array) -> Array:
    base, n, width = (
        m.key(k) for k in ("rope.freq_base", "rope.dimension_count", "attention.key_length_mla")
    )
    log = m.key("rope.scaling.yarn_log_multiplier", 0.0) / 0.1
    frequency, size = m.yarn(n, base), m.log_factor(1.0) / m.log_factor(log)
    for il in range(m.n_layer):
        blk = f"blk.{il}"
        h = m.norm(f"{blk}.attn_norm", x)
        q = m.latent_queries(blk, h, m.key("attention.head_count"))
        q = m.sharper(q, m.key("attention.temperature_length", 1))
        scale = (size * m.log_factor(log)) ** 2 / np.sqrt(width)
        y = m.latent(blk, h, q, lambda z: m.turn(z, frequency, norm=True, size=size), scale, m.seen())
        x = x + m.out(blk, y)
        x = x + m.dense_or_experts(blk, m.norm(f"{blk}.ffn_norm", x))
    return m.head(x)


def laguna(m: Model, x: Array) -> Array:
    d, base, window = (
        m.key(k, 0) for k in ("attention.key_length", "rope.freq_base", "attention.sliding_window")
    )
    n = m.key("rope.dimension_count", d)
    for il in range(m.n_layer):
        blk, near = f"blk.{il}", bool(window and il % 4)
        h = m.norm(f"{blk}.attn_norm", x)
        q, k, v = m.heads(blk, h, il)
        q, k = m.normed(blk, q, k)
        frequency, size = m.yarn(n, base), m.log_factor(1.0)
        if near:
            n_near, size = m.key("rope.dimension_count_swa", n), 1.0
            frequency = m.key("rope.freq_base_swa", base) ** (-np.arange(0, n_near, 2) / n_near)
        q, k = (m.turn(z, frequency, norm=False, size=size) for z in (q, k))
        y = m.attend(q, k, v, d**-0.5, m.seen(window if near else 0))
        x = x + m.gated_out(blk, y, h, softplus)
        x = x + m.dense_or_experts(blk, m.norm(f"{blk}.ffn_norm", x), kind=2)
    return m.head(x)


def minicpm3(m: Model, x: Array) -> Array:
    base, n, width = (m.key(k) for k in ("rope.freq_base", "rope.dimension_count", "attention.key_length"))
    frequency, by, x = m.yarn(n, base), 1.4 / np.sqrt(m.n_layer), 12 * x
    for il in range(m.n_layer):
        blk = f"blk.{il}"
        h = m.norm(f"{blk}.attn_norm", x)
        q = m.latent_queries(blk, h, m.key("attention.head_count"))
        turned = m.latent(blk, h, q, lambda z: m.turn(z, frequency, norm=False), width**-0.5, m.seen())
        x = x + by * m.out(blk, turned)
        x = x + by * m.ffn(blk, m.norm(f"{blk}.ffn_norm", x))
    return m.head(x) * 256 / m.D


def plamo3(m: Model, x: Array) -> Array:
    d, window = m.key("attention.key_length"), m.key("attention.sliding_window", 0)
    pattern = m.keys.get("attention.sliding_window_pattern", [il % 8 < 7 for il in range(m.n_layer)])
    for il in range(m.n_layer):
        blk, near = f"blk.{il}", bool(window and pattern[il])
        base = m.key("rope.freq_base_swa" if near else "rope.freq_base", 1e4)
        q, k, v = m.heads(blk, m.norm(f"{blk}.attn_norm", x), il)
        q, k = (m.turn(z, m.yarn(d, base), norm=False) for z in m.normed(blk, q, k))
        y = m.out(blk, m.attend(q, k, v, d**-0.5, m.seen(window if near else 0)))
        x = x + m.norm(f"{blk}.post_attention_norm", y)
        x = x + m.norm(f"{blk}.post_ffw_norm", m.ffn(blk, m.norm(f"{blk}.ffn_norm", x)))
    return m.head(x)


def muse_glimmer(m: Model, x: Array) -> Array:
    d, window, base = (
        m.key(k, 1e4) for k in ("attention.key_length", "attention.sliding_window", "rope.freq_base")
    )
    pattern = m.keys.get("attention.sliding_window_pattern", [il % 4 < 3 for il in range(m.n_layer)])
    x = m.rms(x)
    for il in range(m.n_layer):
        blk, near = f"blk.{il}", bool(pattern[il])
        h = m.norm(f"{blk}.attn_norm", x)
        q, k, v = m.heads(blk, h, il)
        q, k = m.normed(blk, q, k)
        if near:
            turns = m.yarn(d, m.key("rope.freq_base_swa", base))
            q, k = (m.turn(z, turns, norm=True) for z in (q, k))
        y = m.attend(q, k, v, d**-0.5, m.seen(window if near else 0))
        x = x + m.norm(f"{blk}.post_attention_norm", m.gated_out(blk, y, h, sigmoid), 1e-8)
        x = x + m.norm(f"{blk}.post_ffw_norm", m.ffn(blk, m.norm(f"{blk}.ffn_norm", x)), 1e-8)
    return capped(m.head(x) * m.keys["logit_scale"], m.key("final_logit_softcapping", 0.0))


def gemma3n(m: Model, x: Array) -> Array:
    layers, width, x = m.n_layer, m.key("embedding_length_per_layer_input", 256), x * np.sqrt(m.D)
    a = m.norm(
        "per_layer_proj_norm", (m.linear("per_layer_model_proj", x) / np.sqrt(m.D)).reshape(-1, layers, width)
    )
    second = m.w["per_layer_token_embd.weight"][m.tokens].reshape(-1, layers, width)
    given = (a + second * np.sqrt(width)) / np.sqrt(2)
    kept: dict[bool, tuple[Array, Array]] = {}

    def long(z: Array, y: Array) -> Array:
        return z / np.linalg.norm(z, axis=-1, keepdims=True) * np.linalg.norm(y, axis=-1, keepdims=True)

    streams = np.stack([x, *(long(x @ p.T, x) for p in m.w["altup_proj.weight"])], axis=1)
    for il in range(layers):
        blk = f"blk.{il}"
        says = _altup_router(m, blk, streams[:, 0])
        c = m.linear(f"{blk}.altup_predict_coef", says).reshape(-1, 4, 4)
        predicted = streams + np.einsum("tij,tjd->tid", c, streams)
        z = _gemma3n_layer(m, il, predicted[:, 0], kept)
        c = m.linear(f"{blk}.altup_correct_coef", _altup_router(m, blk, z)) + 1
        streams = predicted + c[..., None] * (z - predicted[:, 0])[:, None]
        active = streams[:, 0] * m.w[f"{blk}.altup_correct_scale.weight"]
        gated = gelu(m.linear(f"{blk}.inp_gate", active)) * given[:, il]
        streams[:, 1:] += m.norm(f"{blk}.post_norm", m.linear(f"{blk}.proj", gated))[:, None]
    back = [
        long(streams[:, j + 1] @ p.T, streams[:, 0]) for j, p in enumerate(m.w["altup_unembd_proj.weight"])
    ]
    return capped(m.head((streams[:, 0] + sum(back)) / 4), 30.0)


def _altup_router(m: Model, blk: str, z: Array) -> Array:
    return np.tanh(m.linear(f"{blk}.altup_router", m.norm(f"{blk}.altup_router_norm", z) / m.D))


def _gemma3n_layer(m: Model, il: int, a: Array, kept: dict[bool, tuple[Array, Array]]) -> Array:
    blk, near = f"blk.{il}", il % 5 < 4
    h = m.norm(f"{blk}.attn_norm", a)
    low = m.linear(f"{blk}.laurel_r", m.linear(f"{blk}.laurel_l", h))
    q, k, v = m.heads(blk, h, il)
    turns = m.yarn(q.shape[2], m.key("rope.freq_base", 1e4))
    if near:
        turns = m.key("rope.freq_base_swa", 1e4) ** (-np.arange(0, q.shape[2], 2) / q.shape[2])
    q, k = (m.turn(y, turns, norm=False) for y in m.normed(blk, q, k))
    if il < m.n_layer - m.key("attention.shared_kv_layers", m.n_layer - 20):
        kept[near] = k, m.rms(v)
    k, v = kept[near]
    y = m.out(blk, m.attend(q, k, v, 1.0, m.seen(m.keys["attention.sliding_window"] if near else 0)))
    laurel = h + m.norm(f"{blk}.laurel_post_norm", low)
    y = (m.norm(f"{blk}.post_attention_norm", y) + a + laurel) / np.sqrt(2)
    g = m.linear(f"{blk}.ffn_gate", h := m.norm(f"{blk}.ffn_norm", y))
    if il < 10:
        g = np.maximum(
            g - g.mean(axis=1, keepdims=True) - 1.6448533535 * g.std(axis=1, ddof=1, keepdims=True), 0
        )
    down = m.linear(f"{blk}.ffn_down", gelu(g) * m.linear(f"{blk}.ffn_up", h))
    return y + m.norm(f"{blk}.post_ffw_norm", down)


def kimi_k3(m: Model, x: Array) -> Array:
    kept: list[Array] = []
    n, every = int(np.max(m.keys["attention.head_count"])), m.keys["attn_res.block_size"]

    def seen(name: str) -> Array:
        streams = np.stack([*kept, x], axis=1)
        p = softmax((m.rms(streams) * m.w[f"{name}.weight"]).sum(axis=2))
        return np.einsum("tn,tnd->td", p, streams) if kept else x

    def situ(gate: Array, up: Array) -> Array:
        a, b = m.key("activation.situ_beta"), m.key("activation.situ_linear_beta", 0.0)
        return capped(gate, a) * sigmoid(gate) * capped(up, b)

    for il in range(m.n_layer):
        blk = f"blk.{il}"
        h = m.norm(f"{blk}.attn_norm", seen(f"{blk}.attn_res_score"))
        if m.has(f"{blk}.ssm_beta"):
            y = kda(m, blk, h, n, m.eps, m.linear(f"{blk}.ssm_g", h))
        else:
            q = m.latent_queries(blk, h, n)
            y = m.latent(blk, h, q, lambda z: z, m.key("attention.key_length_mla") ** -0.5, m.seen())
            y = y * sigmoid(m.linear(f"{blk}.attn_gate", h)).reshape(y.shape)
        y = y.reshape(len(y), -1) @ m.w[f"{blk}.attn_output.weight"].T
        if every and il % every == 0:
            kept, x = [*kept, x], y
        else:
            x = x + y
        h = m.norm(f"{blk}.ffn_norm", seen(f"{blk}.ffn_res_score"))
        if m.has(f"{blk}.ffn_gate_inp"):
            y = m.experts(blk, h, situ, x=m.linear(f"{blk}.ffn_routed_down", h))
            y = m.linear(f"{blk}.ffn_routed_up", m.norm(f"{blk}.ffn_routed_norm", y))
            x = x + y + m.ffn(blk, h, situ, "_shexp")
        else:
            x = x + m.ffn(blk, h, situ)
    return m.linear("output", m.norm("output_norm", seen("output_res_score")))


def kda(m: Model, blk: str, h: Array, n: int, eps: float, gate: Array) -> Array:
    """The delta rule with decay by channel, within a bound or without. [T, H, d]"""

    def convolution(name: str) -> Array:
        y = h @ m.w[f"{blk}.attn_{name}.weight"].T
        return silu(convolved(y, m.w[f"{blk}.ssm_conv1d_{name}.weight"].reshape(y.shape[1], -1))).reshape(
            len(h), n, -1
        )

    def unit(y: Array) -> Array:
        return y / np.sqrt(np.sum(y**2, axis=-1, keepdims=True) + eps)

    q, k, v = (convolution(name) for name in "qkv")
    f = m.linear(f"{blk}.ssm_f_b", m.linear(f"{blk}.ssm_f_a", h)) + m.w[f"{blk}.ssm_dt.bias"]
    a, f, bound = m.w[f"{blk}.ssm_a"].reshape(-1, 1), f.reshape(q.shape), m.key("kda.gate_lower_bound", 0.0)
    g = bound * sigmoid(-a * f) if bound else a * softplus(f)
    o = delta_rule(unit(q), unit(k), v, g, sigmoid(m.linear(f"{blk}.ssm_beta", h)))
    return m.norm(f"{blk}.ssm_norm", o) * sigmoid(gate).reshape(o.shape)


# --- sparse attention


def layer_norm(m: Model, name: str, x: Array, eps: float) -> Array:
    away = x - x.mean(axis=-1, keepdims=True)
    return (
        away / np.sqrt((away**2).mean(axis=-1, keepdims=True) + eps) * m.w[f"{name}.weight"]
        + m.w[f"{name}.bias"]
    )


def highest(score: Array, n: int) -> Seen:
    """Where the n highest of a row are, the first of equals first."""
    chosen = np.zeros(len(score), bool)
    chosen[np.argsort(-score, kind="stable")[:n]] = True
    return chosen


def weighted_scores(q: Array, k: Array, w: Array) -> Array:
    """[T, S]: Σ_h w[t, h] · relu(q[t, h] · k[s])"""
    return np.einsum("th,ths->ts", w, np.maximum(np.einsum("thd,sd->ths", q, k), 0))


def indexer(m: Model, blk: str, h: Array, low: Array, turn: Callable[[Array], Array], eps: float) -> Seen:
    """What each token sees: as many positions as the key says, by the sum over heads."""
    n, d = m.key("attention.indexer.head_count"), m.key("attention.indexer.key_length")
    q = turn(m.linear(f"{blk}.indexer.attn_q_b", low).reshape(-1, n, d))
    k = layer_norm(m, f"{blk}.indexer.k_norm", m.linear(f"{blk}.indexer.attn_k", h), eps)
    score = weighted_scores(q, turn(k[:, None])[:, 0], m.linear(f"{blk}.indexer.proj", h) / np.sqrt(n * d))
    chosen = np.zeros(score.shape, bool)
    for t in range(len(h)):
        chosen[t, : t + 1] = highest(score[t, : t + 1], m.key("attention.indexer.top_k"))
    return chosen


def dsa(m: Model, x: Array, *, norm: bool, log: float, eps: float, kind: int) -> Array:
    """Latent attention over what an indexer chooses, whose pairs are neighbours or halves."""
    base, n, width = (
        m.key(k) for k in ("rope.freq_base", "rope.dimension_count", "attention.key_length_mla")
    )
    frequency, size = m.yarn(n, base), m.log_factor(1.0) / m.log_factor(log)
    indexed = m.keys.get("attention.indexer.types", [1] * m.n_layer)
    for il in range(m.n_layer):
        blk = f"blk.{il}"
        h = m.norm(f"{blk}.attn_norm", x)
        if indexed[il]:
            low = m.low_query(blk, h)
            chosen = indexer(m, blk, h, low, lambda z: m.turn(z, frequency, norm=norm, size=size), eps)
        q = m.latent_queries(blk, h, m.key("attention.head_count"))
        scale = m.log_factor(1.0) ** 2 / np.sqrt(width)
        y = m.latent(blk, h, q, lambda z: m.turn(z, frequency, norm=True, size=size), scale, chosen)
        x = x + m.out(blk, y)
        x = x + m.dense_or_experts(blk, m.norm(f"{blk}.ffn_norm", x), kind=kind)
    return m.head(x)


def deepseek32(m: Model, x: Array) -> Array:
    log = m.key("rope.scaling.yarn_log_multiplier", 0.0) / 0.1
    return dsa(m, x, norm=False, log=log, eps=1e-6, kind=1)


def glm_dsa(m: Model, x: Array) -> Array:
    return dsa(m, x, norm=True, log=0.0, eps=0.0, kind=2)


def oai(gate: Array, up: Array) -> Array:
    gate, up = np.minimum(gate, 7), np.clip(up, -7, 7)
    return gate * sigmoid(1.702 * gate) * (up + 1)


def minimax_m3(m: Model, x: Array) -> Array:
    d, base, n = m.key("attention.key_length"), m.key("rope.freq_base"), m.key("rope.dimension_count")
    frequency = m.yarn(n, base)
    for il in range(m.n_layer):
        blk = f"blk.{il}"
        h = m.norm(f"{blk}.attn_norm", x)
        q, k, v = m.heads(blk, h, il)
        q, k = (m.turn(z, frequency, norm=False) for z in m.normed(blk, q, k))
        seen = m.seen()
        if m.has(f"{blk}.indexer.q_proj"):
            seen = _blocks(m, blk, h, lambda z: m.turn(z, frequency, norm=False))
        x = x + m.out(blk, m.attend(q, k, v, d**-0.5, seen))
        h = m.norm(f"{blk}.ffn_norm", x)
        if m.has(f"{blk}.ffn_gate_inp"):
            x = x + m.experts(blk, h, oai) + m.ffn(blk, h, oai, "_shexp")
        else:
            x = x + m.ffn(blk, h, oai)
    return m.head(x)


def _blocks(m: Model, blk: str, h: Array, turn: Callable[[Array], Array]) -> Seen:
    """[K, T, S]: blocks of positions for each head of keys."""
    n, size, top_k, local = (
        m.key(f"attention.indexer.{k}", 0) for k in ("head_count", "block_size", "top_k", "local_blocks")
    )
    q = turn(m.norm(f"{blk}.indexer.q_norm", m.linear(f"{blk}.indexer.q_proj", h).reshape(len(h), n, -1)))
    k = turn(m.norm(f"{blk}.indexer.k_norm", m.linear(f"{blk}.indexer.k_proj", h)[:, None]))[:, 0]
    score, chosen = np.einsum("thd,sd->hts", q, k), np.zeros((n, len(h), len(h)), bool)
    for head, t in np.ndindex(n, len(h)):
        own = t // size
        best = np.array(
            [score[head, t, b * size : min(b * size + size, t + 1)].max() for b in range(own + 1)]
        )
        best[max(own + 1 - local, 0) :] = np.inf
        chosen[head, t, : t + 1] = np.repeat(highest(best, top_k), size)[: t + 1]
    return chosen


def connected(m: Model, name: str, streams: Array, sub_layer: Callable[[Array], Array]) -> Array:
    """Hyper-connections around a sub-layer: streams [T, N, D], mixed by a matrix that Sinkhorn's rounds make."""
    n, eps = streams.shape[1], m.keys["hyper_connection.epsilon"]
    z = m.linear(f"{name}_fn", m.rms(streams.reshape(len(streams), -1)))
    s, base = m.w[f"{name}_scale.weight"], m.w[f"{name}_base.weight"]
    read = sigmoid(z[:, :n] * s[0] + base[:n]) + eps
    write = 2 * sigmoid(z[:, n : 2 * n] * s[1] + base[n : 2 * n])
    c = softmax((z[:, 2 * n :] * s[2] + base[2 * n :]).reshape(-1, n, n)) + eps  # [from, to]
    c = c / (c.sum(axis=1, keepdims=True) + eps)
    for _ in range(m.keys["hyper_connection.sinkhorn_iterations"] - 1):
        c = c / (c.sum(axis=2, keepdims=True) + eps)
        c = c / (c.sum(axis=1, keepdims=True) + eps)
    y = sub_layer(np.einsum("tn,tnd->td", read, streams))
    return write[..., None] * y[:, None] + np.einsum("tfo,tfd->tod", c, streams)


def glm5_next(m: Model, x: Array) -> Array:
    n, streams = (
        m.key("attention.head_count"),
        np.repeat(x[:, None], m.keys["hyper_connection.count"], axis=1),
    )
    chosen: list[Seen] = []
    for il in range(m.n_layer):
        blk = f"blk.{il}"

        def mixed(row: Array, il: int = il, blk: str = blk) -> Array:
            h = m.norm(f"{blk}.attn_norm", row)
            if m.has(f"{blk}.ssm_beta"):
                gate = m.linear(f"{blk}.ssm_g_b", m.linear(f"{blk}.ssm_g_a", h))
                return m.out(blk, kda(m, blk, h, n, 1e-6, gate))
            if m.has(f"{blk}.indexer.proj") and m.key("attention.indexer.types", 1, il):
                chosen[:] = [_pools(m, blk, h)]
            scale = m.key("attention.key_length_mla") ** -0.5
            return m.out(blk, m.latent(blk, h, m.latent_queries(blk, h, n), lambda z: z, scale, chosen[0]))

        def fed(row: Array, il: int = il, blk: str = blk) -> Array:
            def clamped(name: str) -> Act:
                c = m.key(name, np.inf, il)
                return lambda gate, up: silu(np.minimum(gate, c)) * np.clip(up, -c, c)

            h, shared = m.norm(f"{blk}.ffn_norm", row), clamped("swiglu_clamp_shexp")
            if not m.has(f"{blk}.ffn_gate_inp"):
                return m.ffn(blk, h, shared)
            y = m.experts(blk, h, clamped("swiglu_clamp_exp"), kind=2)
            return y + m.ffn(blk, h, shared, "_shexp")

        streams = connected(m, f"{blk}.hc_attn", streams, mixed)
        streams = connected(m, f"{blk}.hc_ffn", streams, fed)
    return m.head(streams.mean(axis=1))


def _pools(m: Model, blk: str, h: Array) -> Seen:
    """Complete pools by the scores of their keys, and the positions behind the last one."""
    n, d, size, top_k = (
        m.key(f"attention.indexer.{k}") for k in ("head_count", "key_length", "kpool", "top_k")
    )
    eps = m.key("attention.layer_norm_epsilon", 0.0)
    k = layer_norm(m, f"{blk}.indexer.k_norm", m.linear(f"{blk}.indexer.attn_k", h), eps)
    pools, whole = len(h) // size, len(h) // size * size
    gate = m.linear(f"{blk}.indexer_compressor_gate", h)[:whole].reshape(pools, size, d)
    p = softmax((gate + m.w[f"{blk}.indexer_compressor_ape.weight"]).swapaxes(1, 2))
    pooled = np.einsum("bds,bsd->bd", p, k[:whole].reshape(pools, size, d))
    q = m.linear(f"{blk}.indexer.attn_q_b", m.low_query(blk, h)).reshape(-1, n, d)
    score = weighted_scores(q, pooled, m.linear(f"{blk}.indexer.proj", h) / np.sqrt(n * d))
    chosen = np.zeros((len(h), len(h)), bool)
    for t in range(len(h)):
        complete = (t + 1) // size
        chosen[t, : complete * size] = np.repeat(highest(score[t, :complete], top_k // size), size)
        chosen[t, complete * size : t + 1] = m.keys.get("attention.indexer.kpool_select_tail", True)
    return chosen


def deepseek4(m: Model, x: Array) -> Array:
    n, d, eps = (
        m.key("attention.head_count"),
        m.key("attention.key_length"),
        m.keys["hyper_connection.epsilon"],
    )
    streams = np.repeat(x[:, None], m.keys["hyper_connection.count"], axis=1)
    for il in range(m.n_layer):
        blk, c = f"blk.{il}", m.key("swiglu_clamp_exp", np.inf, il)
        shared = m.key("swiglu_clamp_shexp", c, il)

        def attends(row: Array, il: int = il, blk: str = blk) -> Array:
            return _compressed_attention(m, il, m.norm(f"{blk}.attn_norm", row), n, d)

        def fed(row: Array, blk: str = blk, c: float = c, shared: float = shared) -> Array:
            h = m.norm(f"{blk}.ffn_norm", row)
            y = m.experts(blk, h, lambda gate, up: silu(np.minimum(gate, c)) * np.clip(up, -c, c), kind=4)
            return y + m.ffn(
                blk,
                h,
                lambda gate, up: silu(np.minimum(gate, shared)) * np.clip(up, -shared, shared),
                "_shexp",
            )

        streams = connected(m, f"{blk}.hc_attn", streams, attends)
        streams = connected(m, f"{blk}.hc_ffn", streams, fed)
    z = m.linear("output_hc_fn", m.rms(streams.reshape(len(x), -1)))
    gates = sigmoid(z * m.w["output_hc_scale.weight"] + m.w["output_hc_base.weight"]) + eps
    return m.head(np.einsum("tn,tnd->td", gates, streams))


def _compressed_attention(m: Model, il: int, h: Array, n: int, d: int) -> Array:
    """A window, rows that stand for several positions each, and a sink, in one softmax."""
    blk, ratio, T = f"blk.{il}", m.key("attention.compress_ratios", 0, il), len(h)
    n_rot = m.key("rope.dimension_count", d)
    turns = m.key("rope.freq_base") ** (-np.arange(0, n_rot, 2) / n_rot)
    if ratio:
        turns = m.yarn(n_rot, m.key("attention.compress_rope_freq_base"))

    def turn(z: Array, sign: int = 1, pos: Any = None) -> Array:
        last = m.turn(z[..., -n_rot:], sign * turns, norm=True, pos=pos)
        return np.concatenate([z[..., :-n_rot], last], axis=-1)

    def rows_of(name: str) -> Array:
        return _compressed(m, f"{blk}.{name}", h, ratio, turn)

    low = m.low_query(blk, h)
    q = turn(m.rms(m.linear(f"{blk}.attn_q_b", low).reshape(T, n, d)))
    keys = turn(m.norm(f"{blk}.attn_kv_a_norm", m.linear(f"{blk}.attn_kv", h))[:, None])[:, 0]
    seen = m.seen(m.key("attention.sliding_window"))
    if ratio:
        far = rows_of("attn_compressor")
        is_there = (np.arange(len(far)) + 1) * ratio - 1 <= m.pos[:, None]
        if ratio == 4:
            n_i, d_i = m.key("attention.indexer.head_count"), m.key("attention.indexer.key_length")
            q_i = turn(m.linear(f"{blk}.indexer.attn_q_b", low).reshape(T, n_i, d_i))
            w = m.linear(f"{blk}.indexer.proj", h) / np.sqrt(n_i * d_i)
            score = weighted_scores(q_i, rows_of("indexer_compressor"), w)
            for t in range(T):
                some = int(is_there[t].sum())
                is_there[t, :some] = highest(score[t, :some], m.key("attention.indexer.top_k"))
        keys, seen = np.concatenate([keys, far]), np.concatenate([seen, is_there], axis=1)
    scores = np.where(seen, np.einsum("thd,sd->hts", q, keys) / np.sqrt(d), -np.inf)
    sink = np.broadcast_to(m.w[f"{blk}.attn_sinks.weight"][:, None, None], (n, T, 1))
    p = softmax(np.concatenate([scores, sink], axis=2))[..., :-1]
    y = turn(np.einsum("hts,sd->thd", p, keys), -1)
    a = m.w[f"{blk}.attn_output_a.weight"]
    grouped = np.einsum("tgi,goi->tgo", y.reshape(T, len(a), -1), a)
    return m.linear(f"{blk}.attn_output_b", grouped.reshape(T, -1))


def _compressed(m: Model, name: str, h: Array, ratio: int, turn: Callable[..., Array]) -> Array:
    """A row for each complete block of positions; of 4 the ones in front count, too, with channels of their own."""
    v, g = m.linear(f"{name}_kv", h), m.linear(f"{name}_gate", h)
    g = g + m.w[f"{name}_ape.weight"][m.pos % ratio]
    d, rows = v.shape[1] // (2 if ratio == 4 else 1), []
    for b in range(len(h) // ratio):
        own = slice(b * ratio, (b + 1) * ratio)
        values, gates = v[own, -d:], g[own, -d:]
        if ratio == 4 and b:
            before = slice((b - 1) * ratio, b * ratio)
            values, gates = np.concatenate([v[before, :d], values]), np.concatenate([g[before, :d], gates])
        rows.append((softmax(gates.T).T * values).sum(axis=0))
    out = m.norm(f"{name}_norm", np.array(rows).reshape(-1, d))
    return turn(out[:, None], 1, np.arange(len(out)) * ratio)[:, 0]


RULES: dict[str, Callable[[Model, Array], Array]] = {
    "deepseek32": deepseek32,
    "deepseek4": deepseek4,
    "gemma3n": gemma3n,
    "glm-dsa": glm_dsa,
    "glm5-next": glm5_next,
    "kimi-k3": kimi_k3,
    "laguna": laguna,
    "minicpm3": minicpm3,
    "minimax-m3": minimax_m3,
    "mistral3": mistral3,
    "mistral4": mistral4,
    "muse-glimmer": muse_glimmer,
    "plamo3": plamo3,
}
