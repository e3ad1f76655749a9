"""The plain forward pass of models with recurrent state: the whole text at once, token by token where it has to be.

What a layer is follows from the tensors that it has. A state is a local variable: nothing is kept between calls.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiny import family_forward, forward
from tiny.forward import Array, sigmoid, silu, squared_relu


@dataclass(frozen=True)
class Recurrent(family_forward.Family):
    """What no key of the file says, of a family with recurrent layers."""

    tiled: bool = False  # value head j reads key head j % Hk, else j // (Hv / Hk)
    rotates: bool = True
    final_norm: str = "output_norm"


RULES = {
    "bailingmoe3": Recurrent(rope="norm", sections="mrope", scaled=True),
    "falcon-h1": Recurrent(),
    "granitehybrid": Recurrent(rope="norm", normalised=True),
    "jamba": Recurrent(rotates=False, normalised=False),
    "kimi-linear": Recurrent(rotates=False, normalised=True, scaled=True),
    "lfm2": Recurrent(final_norm="token_embd_norm", slides=lambda il: True),
    "lfm2moe": Recurrent(final_norm="token_embd_norm", normalised=True),
    "mamba": Recurrent(),
    "mamba2": Recurrent(),
    "minimax-01": Recurrent(normalised=True),
    "nemotron_h": Recurrent(rotates=False, act=squared_relu),
    "nemotron_h_moe": Recurrent(rotates=False, act=squared_relu, router="sigmoid", scaled=True),
    "plamo2": Recurrent(),
    "qwen35": Recurrent(sections="imrope", tiled=True, ffn_norm="post_attention_norm"),
    "qwen35moe": Recurrent(sections="imrope", tiled=True, ffn_norm="post_attention_norm", normalised=True),
    "qwen3next": Recurrent(ffn_norm="post_attention_norm", normalised=True),
}


def softplus(x: Array) -> Array:
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)


def convolved(x: Array, w: Array) -> Array:
    """x[T, C] with w[C, K], causal: w[:, K - 1] multiplies the newest."""
    n = w.shape[1]
    padded = np.concatenate([np.zeros((n - 1, x.shape[1])), x])
    return np.sum([padded[i : i + len(x)] * w[:, i] for i in range(n)], axis=0)


def delta_rule(q: Array, k: Array, v: Array, g: Array, beta: Array) -> Array:
    """q, k[T, H, dk], v[T, H, dv], g[T, H] or [T, H, dk], beta[T, H] -> [T, H, dv]"""
    state, out = np.zeros((*k.shape[1:], v.shape[2])), np.empty_like(v)
    decay = np.exp(g if g.ndim == 3 else g[..., None])
    for t in range(len(q)):
        state *= decay[t][..., None]
        known = np.einsum("hkv,hk->hv", state, k[t])
        state += np.einsum("hk,hv->hkv", k[t], beta[t][:, None] * (v[t] - known))
        out[t] = np.einsum("hkv,hk->hv", state, q[t])
    return out / np.sqrt(q.shape[2])


def selective_scan(x: Array, dt: Array, a: Array, b: Array, c: Array) -> Array:
    """x[T, H, P], dt[T, H], a[H, 1 or N], b and c[T, G, N] -> [T, H, P], without the direct term."""
    b, c = (np.repeat(y, x.shape[1] // y.shape[1], axis=1) for y in (b, c))
    state, out, step = np.zeros((*x.shape[1:], b.shape[2])), np.empty_like(x), softplus(dt)
    for t in range(len(x)):
        state *= np.exp(step[t][:, None] * a)[:, None]
        state += np.einsum("hp,hn->hpn", step[t][:, None] * x[t], b[t])
        out[t] = np.einsum("hpn,hn->hp", state, c[t])
    return out


def lightning(q: Array, k: Array, v: Array, slope: Array) -> Array:
    """q, k, v[T, H, d], slope[H] -> [T, H, d]"""
    state, out = np.zeros((q.shape[1], q.shape[2], v.shape[2])), np.empty_like(v)
    for t in range(len(q)):
        state = np.exp(-slope)[:, None, None] * state + np.einsum("hk,hv->hkv", k[t], v[t])
        out[t] = np.einsum("hkv,hk->hv", state, q[t])
    return out


class Model(family_forward.Model):
    """As the pass of the families, with layers that keep a state instead of keys and values."""

    rules: Recurrent

    def __init__(self, architecture: str, keys: forward.Keys, tensors: forward.Tensors) -> None:
        self.lists = {k: v for k, v in keys.items() if isinstance(v, list | tuple | np.ndarray)}
        self.rules, self.architecture, self.keys, self.w = RULES[architecture], architecture, keys, tensors
        self.n_layer, self.n_embd = keys["block_count"], keys["embedding_length"]
        self.eps = keys["attention.layer_norm_rms_epsilon"]

    def at(self, il: int) -> None:
        """Sets what one layer is like."""
        k = {name: v[il] for name, v in self.lists.items() if len(v) >= self.n_layer}
        self.layer = {**self.keys, **k}
        self.n_head = int(self.layer.get("attention.head_count", 0))
        self.n_head_kv = int(self.layer.get("attention.head_count_kv", 0))
        self.head_dim = int(self.layer.get("attention.key_length", self.n_embd // max(self.n_head, 1)))
        self.clamps = self.layer.get("swiglu_clamp_exp", 0.0), self.layer.get("swiglu_clamp_shexp", 0.0)

    def logits(self, tokens: NDArray[np.int32]) -> Array:
        keys = self.keys
        self.positions = np.arange(len(tokens))
        x = self.w["token_embd.weight"][tokens] * (keys.get("embedding_scale", 0.0) or 1.0)
        for il in range(self.n_layer - keys.get("nextn_predict_layers", 0)):
            self.at(il)
            x = self.block(il, x)
        x = self.norm(self.rules.final_norm, x)
        y = self.linear("output" if "output.weight" in self.w else "token_embd", x)
        return y / (keys.get("logit_scale", 0.0) or 1.0)

    def has(self, il: int, *names: str) -> bool:
        return any(f"blk.{il}.{name}{end}" in self.w for name in names for end in ("", ".weight"))

    def block(self, il: int, x: Array) -> Array:
        blk, by = f"blk.{il}", self.keys.get("residual_scale", 0.0) or 1.0
        h = self.norm(f"{blk}.attn_norm", x)
        if self.architecture == "minimax-01":  # the residual is the normed row
            x = self.mixed(il, h) + by * h
            h = self.norm(f"{blk}.ffn_norm", x)
            return self.feed_forward(il, h, x) + by * h
        if self.architecture.startswith("nemotron_h") and self.has(il, "ffn_up", "ffn_gate_inp"):
            return x + self.feed_forward(il, h, x)
        after = self.architecture == "plamo2"
        y = self.mixed(il, h)
        x = x + by * (self.norm(f"{blk}.post_attention_norm", y) if after else y)
        if not self.has(il, "ffn_up", "ffn_gate_inp"):
            return x
        y = self.feed_forward(il, self.norm(f"{blk}.{self.rules.ffn_norm}", x), x)
        return x + by * (self.norm(f"{blk}.post_ffw_norm", y) if after else y)

    def mixed(self, il: int, h: Array) -> Array:
        """What passes between tokens: the output of the layer's attention, recurrence, or both."""
        if self.has(il, "shortconv.conv"):
            return self.short_convolution(il, h)
        if self.has(il, "ssm_conv1d_q"):
            return self.channel_delta(il, h)
        if self.has(il, "attn_norm_2"):
            return self.lightning_layer(il, h)
        if self.has(il, "ssm_ba", "ssm_beta"):
            return self.delta_layer(il, h)
        if self.architecture in ("mamba", "jamba") and self.has(il, "ssm_in"):
            return self.mamba(il, h)
        if self.architecture == "plamo2" and self.has(il, "ssm_in"):
            return self.plamo(il, h)
        if self.has(il, "attn_kv_a_mqa"):
            return self.latent(il, h)
        y = self.mamba2(il, h) if self.has(il, "ssm_in") else np.zeros_like(h)
        return y + self.attention(il, h) if self.has(il, "attn_output") else y

    def norm(self, name: str, x: Array) -> Array:
        """Some names have no suffix."""
        return self.rms(x) * self.w[f"{name}.weight" if f"{name}.weight" in self.w else name]

    def unit(self, x: Array) -> Array:
        return x / np.sqrt(np.sum(x**2, axis=-1, keepdims=True) + self.eps)

    # -- gated delta rule

    def delta_layer(self, il: int, h: Array) -> Array:
        blk, keys, T = f"blk.{il}", self.keys, len(h)
        n_key, n_value, d = (keys[f"ssm.{n}"] for n in ("group_count", "time_step_rank", "state_size"))
        qkv, z = self.projected(blk, h, n_key, n_value, d)
        q, k, v = np.split(
            silu(convolved(qkv, self.w[f"{blk}.ssm_conv1d.weight"])), [n_key * d, 2 * n_key * d], axis=1
        )
        beta, alpha = self.beta_alpha(blk, h, n_key)
        g = self.w[f"{blk}.ssm_a"] * softplus(alpha + self.w[f"{blk}.ssm_dt.bias"])
        of_key = np.arange(n_value) % n_key if self.rules.tiled else np.arange(n_value) // (n_value // n_key)
        q, k = (self.unit(x.reshape(T, n_key, d))[:, of_key] for x in (q, k))
        o = delta_rule(q, k, v.reshape(T, n_value, d), g, sigmoid(beta))
        y = self.norm(f"{blk}.ssm_norm", o) * silu(z).reshape(o.shape)
        return self.linear(f"{blk}.ssm_out", y.reshape(T, -1))

    def projected(self, blk: str, h: Array, n_key: int, n_value: int, d: int) -> tuple[Array, Array]:
        """[q | k | v] and z; old files have them by key head in one matrix."""
        if f"{blk}.attn_qkv.weight" in self.w:
            return self.linear(f"{blk}.attn_qkv", h), self.linear(f"{blk}.attn_gate", h)
        by_head = self.linear(f"{blk}.ssm_in", h).reshape(len(h), n_key, -1)
        of_values = n_value // n_key * d
        parts = np.split(by_head, [d, 2 * d, 2 * d + of_values], axis=2)
        q, k, v, z = (p.reshape(len(h), -1) for p in parts)
        return np.concatenate([q, k, v], axis=1), z

    def beta_alpha(self, blk: str, h: Array, n_key: int) -> tuple[Array, Array]:
        if f"{blk}.ssm_ba.weight" not in self.w:
            return self.linear(f"{blk}.ssm_beta", h), self.linear(f"{blk}.ssm_alpha", h)
        beta, alpha = np.split(self.linear(f"{blk}.ssm_ba", h).reshape(len(h), n_key, -1), 2, axis=2)
        return beta.reshape(len(h), -1), alpha.reshape(len(h), -1)

    def channel_delta(self, il: int, h: Array) -> Array:
        """Decay by channel of a key; the gate is a sigmoid."""
        blk, T, d = f"blk.{il}", len(h), self.keys["kda.head_dim"]

        def convolution(name: str) -> Array:
            x = self.linear(f"{blk}.attn_{name}", h)
            w = self.w[f"{blk}.ssm_conv1d_{name}.weight"].reshape(x.shape[1], -1)
            return silu(convolved(x, w)).reshape(T, -1, d)

        q, k, v = (convolution(name) for name in "qkv")
        a = self.w[f"{blk}.ssm_a"].reshape(-1, 1)
        f = (self.low_rank(blk, "ssm_f", h) + self.w[f"{blk}.ssm_dt.bias"]).reshape(T, -1, d)
        bound = self.keys.get("kda.gate_lower_bound")
        g = a * softplus(f) if bound is None else bound * sigmoid(a * f)
        o = delta_rule(self.unit(q), self.unit(k), v, g, sigmoid(self.linear(f"{blk}.ssm_beta", h)))
        y = self.norm(f"{blk}.ssm_norm", o) * sigmoid(self.low_rank(blk, "ssm_g", h)).reshape(o.shape)
        return self.linear(f"{blk}.attn_output", y.reshape(T, -1))

    def low_rank(self, blk: str, name: str, h: Array) -> Array:
        y = self.linear(f"{blk}.{name}_a", h)
        return self.linear(f"{blk}.{name}_b", y) if f"{blk}.{name}_b.weight" in self.w else y

    # -- state spaces

    def mamba2(self, il: int, h: Array) -> Array:
        blk, keys, T = f"blk.{il}", self.keys, len(h)
        inner, n_state, groups = (keys[f"ssm.{n}"] for n in ("inner_size", "state_size", "group_count"))
        wide = inner + 2 * groups * n_state
        z, xbc, dt = np.split(self.linear(f"{blk}.ssm_in", h), [inner, inner + wide], axis=1)
        bias = self.w.get(f"{blk}.ssm_conv1d.bias", 0.0)
        xbc = silu(convolved(xbc, self.w[f"{blk}.ssm_conv1d.weight"]) + bias)
        x, b, c = np.split(xbc, [inner, inner + groups * n_state], axis=1)
        x, b, c = x.reshape(T, dt.shape[1], -1), b.reshape(T, groups, -1), c.reshape(T, groups, -1)
        a, d = (self.w[f"{blk}.{n}"].reshape(-1, 1) for n in ("ssm_a", "ssm_d"))
        y = selective_scan(x, dt + self.w[f"{blk}.ssm_dt.bias"], a, b, c) + d * x
        y = y.reshape(T, groups, -1) * silu(z).reshape(T, groups, -1)
        y = self.norm(f"{blk}.ssm_norm", y) if self.has(il, "ssm_norm") else y
        return self.linear(f"{blk}.ssm_out", y.reshape(T, -1))

    def mamba(self, il: int, h: Array) -> Array:
        """A head for each channel; steps, inputs and outputs of the state come from what was convolved."""
        blk, keys = f"blk.{il}", self.keys
        rank, n_state = keys["ssm.time_step_rank"], keys["ssm.state_size"]
        x, z = np.split(self.linear(f"{blk}.ssm_in", h), 2, axis=1)
        x = silu(convolved(x, self.w[f"{blk}.ssm_conv1d.weight"]) + self.w[f"{blk}.ssm_conv1d.bias"])
        parts = np.split(self.linear(f"{blk}.ssm_x", x), [rank, rank + n_state], axis=1)
        if self.has(il, "ssm_dt_norm"):
            dt, b, c = (
                self.norm(f"{blk}.ssm_{n}_norm", p) for n, p in zip(("dt", "b", "c"), parts, strict=True)
            )
        else:
            dt, b, c = (self.rms(p) if keys.get("ssm.dt_b_c_rms") else p for p in parts)
        y = selective_scan(
            x[..., None], self.linear(f"{blk}.ssm_dt", dt), self.w[f"{blk}.ssm_a"], b[:, None], c[:, None]
        )
        return self.linear(f"{blk}.ssm_out", silu(z) * (y[..., 0] + self.w[f"{blk}.ssm_d"] * x))

    def plamo(self, il: int, h: Array) -> Array:
        blk, keys, T = f"blk.{il}", self.keys, len(h)
        heads, n_state = keys["ssm.time_step_rank"], keys["ssm.state_size"]
        zx = self.linear(f"{blk}.ssm_in", h).reshape(T, heads, -1)
        z, x = (part.reshape(T, -1) for part in np.split(zx, 2, axis=2))
        x = silu(convolved(x, self.w[f"{blk}.ssm_conv1d.weight"]))
        parts = np.split(self.linear(f"{blk}.ssm_x", x), [n_state, 2 * n_state], axis=1)
        b, c, dt = (self.norm(f"{blk}.ssm_{n}_norm", p) for n, p in zip(("b", "c", "dt"), parts, strict=True))
        a, d = (self.w[f"{blk}.{n}"].reshape(-1, 1) for n in ("ssm_a", "ssm_d"))
        by_head = x.reshape(T, heads, -1)
        y = selective_scan(by_head, self.linear(f"{blk}.ssm_dt", dt), a, b[:, None], c[:, None]) + d * by_head
        return self.linear(f"{blk}.ssm_out", silu(z) * y.reshape(T, -1))

    # -- others

    def short_convolution(self, il: int, h: Array) -> Array:
        blk = f"blk.{il}.shortconv"
        b, c, x = np.split(self.linear(f"{blk}.in_proj", h), 3, axis=1)
        return self.linear(f"{blk}.out_proj", c * convolved(b * x, self.w[f"{blk}.conv.weight"]))

    def lightning_layer(self, il: int, h: Array) -> Array:
        blk, T, n = f"blk.{il}", len(h), self.n_head
        by_head = silu(self.linear(f"{blk}.attn_qkv", h)).reshape(T, n, -1)
        base = 2 ** -(2 ** -(np.log2(n) - 3))
        slope = base ** np.arange(1, n + 1) * (1 - il / (self.n_layer - 1) + 1e-5)
        q, k, v = np.split(by_head, 3, axis=2)
        y = lightning(q, k, v, slope).reshape(T, -1)
        gate = sigmoid(self.linear(f"{blk}.attn_gate", h))
        return self.linear(f"{blk}.attn_output", gate * self.norm(f"{blk}.attn_norm_2", y))

    # -- attention

    def rotated(self, il: int, x: Array, n_rot: int) -> Array:
        return super().rotated(il, x, n_rot) if self.rules.rotates else x

    def qk_norm(self, blk: str, q: Array, k: Array) -> tuple[Array, Array]:
        """By head, with one row of weights or one for each head."""
        q = self.norm(f"{blk}.attn_q_norm", q) if f"{blk}.attn_q_norm.weight" in self.w else q
        return q, self.norm(f"{blk}.attn_k_norm", k) if f"{blk}.attn_k_norm.weight" in self.w else k

    def attention(self, il: int, h: Array) -> Array:
        """Where queries are twice as wide as heads, each head's second half is its output's gate."""
        blk, T = f"blk.{il}", len(h)
        q, k, v = self.queries_keys_values(il, h)
        gate = sigmoid(q[..., self.head_dim :])
        q, k = self.qk_norm(blk, q[..., : self.head_dim], k)
        n = int(self.keys.get("rope.dimension_count", self.head_dim))
        y = self.attend(il, self.rotated(il, q, n), self.rotated(il, k, n), v, self.score_scale())
        return self.linear(f"{blk}.attn_output", y * gate.reshape(T, -1) if gate.size else y)

    def latent(self, il: int, h: Array) -> Array:
        """MLA, expanded; the output of each head may have a gate."""
        blk, T, keys = f"blk.{il}", len(h), self.keys
        rank, n_rot = keys["attention.kv_lora_rank"], keys["rope.dimension_count"]
        low = f"{blk}.attn_q_a.weight" in self.w
        h_q = self.norm(f"{blk}.attn_q_a_norm", self.linear(f"{blk}.attn_q_a", h)) if low else h
        q = self.linear(f"{blk}.attn_q_b" if low else f"{blk}.attn_q", h_q).reshape(T, self.n_head, -1)
        nope, row = q.shape[2] - n_rot, self.linear(f"{blk}.attn_kv_a_mqa", h)
        k_nope, v = self.keys_and_values(blk, self.norm(f"{blk}.attn_kv_a_norm", row[:, :rank]), nope)
        k_rope = np.repeat(self.rotated(il, row[:, None, rank:], n_rot), self.n_head, axis=1)
        q = np.concatenate([q[..., :nope], self.rotated(il, q[..., nope:], n_rot)], axis=-1)
        k = np.concatenate([k_nope, k_rope], axis=-1)
        y = self.attend(il, q, k, v, 1 / np.sqrt(q.shape[2])).reshape(T, self.n_head, -1)
        if f"{blk}.attn_gate.weight" in self.w:
            y = y * sigmoid(self.linear(f"{blk}.attn_gate", h))[..., None]
        return self.linear(f"{blk}.attn_output", y.reshape(T, -1))

    # -- feed-forward

    def experts(self, il: int, h: Array, seen: Array | None = None) -> Array:
        blk = f"blk.{il}.ffn"
        narrow = self.linear(f"{blk}_latent_down", h) if f"{blk}_latent_down.weight" in self.w else h
        chosen, weights = self.routed(il, h)
        y = np.zeros_like(narrow)
        for t, k in np.ndindex(*chosen.shape):
            y[t] += float(weights[t, k]) * self.expert(il, int(chosen[t, k]), narrow[t])
        y = self.linear(f"{blk}_latent_up", y) if f"{blk}_latent_up.weight" in self.w else y
        if f"{blk}_up_shexp.weight" not in self.w:
            return y
        shared, gate = self.dense(il, h, "_shexp"), self.w.get(f"{blk}_gate_inp_shexp.weight")
        return y + (shared if gate is None else sigmoid(h @ gate)[:, None] * shared)

    def expert(self, il: int, e: int, x: Array) -> Array:
        if self.has(il, "ffn_gate_exps", "ffn_gate_up_exps"):
            return super().expert(il, e, x)
        up, down = (self.w[f"blk.{il}.ffn_{name}_exps.weight"][e] for name in ("up", "down"))
        y: Array = down @ self.rules.act(up @ x)
        return y
