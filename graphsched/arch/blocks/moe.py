"""Mixtures of experts: routing, the chosen experts' feed-forwards, their weighted sum."""

from collections.abc import Iterator
from dataclasses import dataclass

from graphsched.arch.blocks.ffn import Gate, gated_ffn, swiglu
from graphsched.arch.blocks.linear import linear
from graphsched.arch.config import Config, key
from graphsched.arch.weights import Weights
from graphsched.graph.ops import (
    add_id,
    clamp,
    div,
    get_rows,
    grouped_top_k,
    mul_mat_id,
    multi_add,
    reshape,
    scale,
    sigmoid,
    soft_max,
    sqrt_softplus,
    sum_rows,
    top_k,
    view,
)
from graphsched.graph.tensor import Tensor

SMALLEST_NORMAL_F16 = 6.103515625e-5  # what llama.cpp clamps the sum of expert weights to
SOFTMAX, SIGMOID, SOFTMAX_CHOSEN, SQRT_SOFTPLUS = 1, 2, 3, 4  # values of expert_gating_func
BIASES = ("exp_probs_b.bias", "exp_probs_b.")  # one architecture's files leave the suffix out


@dataclass(frozen=True, kw_only=True)
class ExpertConfig(Config):
    """How many experts each layer has, and how many a token uses; 0 in dense models."""

    n_expert: int = key("expert_count", 0)
    n_expert_used: int = key("expert_used_count", 0)

    def wrong(self) -> Iterator[tuple[str, str]]:
        """As `Config.wrong`: a token uses at least one expert and at most all."""
        yield from super().wrong()
        if self.n_expert and not 1 <= self.n_expert_used <= self.n_expert:
            yield "n_expert_used", f"an integer from 1 to the {self.n_expert} experts"


@dataclass(frozen=True, kw_only=True)
class RoutingConfig(ExpertConfig):
    """Keys by which a file says how its tokens choose experts."""

    gating: int = key("expert_gating_func", SOFTMAX, low=SOFTMAX, high=SIGMOID)
    normalised: bool = key("expert_weights_norm", False)
    weights_scale: float = key("expert_weights_scale", 0.0)
    n_group: int = key("expert_group_count", 0)
    n_group_used: int = key("expert_group_used_count", 0)

    def wrong(self) -> Iterator[tuple[str, str]]:
        """As `Config.wrong`: groups divide the experts, and the used ones hold enough of them."""
        yield from super().wrong()
        if self.n_group > 1 and self.n_expert % self.n_group:
            yield "n_group", f"a divisor of the {self.n_expert} experts"
        elif self.n_group > 1 and not self._groups_hold_enough():
            yield "n_group_used", f"at most {self.n_group} groups that hold {self.n_expert_used} experts"

    def _groups_hold_enough(self) -> bool:
        held = self.n_expert // self.n_group * self.n_group_used
        return self.n_expert_used <= held and self.n_group_used <= self.n_group

    @property
    def routing(self) -> "Routing":
        """How the file's keys say that tokens choose experts."""
        groups = (self.n_group, self.n_group_used) if self.n_group > 1 else (1, 1)
        sigmoid = self.gating == SIGMOID
        return Routing(
            self.n_expert,
            self.n_expert_used,
            sigmoid,
            self.normalised,
            self.weights_scale,
            *groups,
            root=self.gating == SQRT_SOFTPLUS,
        )


@dataclass(frozen=True)
class Routing:
    """How tokens choose experts: softmax over all or sigmoid, normalised over the chosen or not, scaled.

    root: by sqrt(softplus) instead.
    """

    n_expert: int
    n_used: int
    sigmoid: bool = False
    normalised: bool = False
    scale: float = 0.0
    n_group: int = 1
    n_group_used: int = 1
    root: bool = False


def choose(r: Routing, blk: Weights, x: Tensor) -> tuple[Tensor, Tensor]:
    """The experts of each token, and their weights. [T, D] -> i32 [T, K], f32 [T, K]"""
    logits = router(blk, x, r.n_expert)
    probs = sqrt_softplus(logits) if r.root else sigmoid(logits) if r.sigmoid else soft_max(logits)  # [T, E]
    # A bias sways the choice, not the weights.
    bias = next((name for name in BIASES if name in blk), None)
    score = probs + blk.sized(bias, r.n_expert) if bias else probs
    if r.n_group > 1:
        ids = grouped_top_k(score, k=r.n_used, n_group=r.n_group, n_group_used=r.n_group_used)
    else:
        ids = top_k(score, k=r.n_used)
    weights = get_rows(probs, ids)
    # The sum of chosen probabilities may underflow; llama.cpp clamps it at the same bound.
    if r.normalised:
        weights = div(weights, clamp(sum_rows(weights), low=SMALLEST_NORMAL_F16, high=float("inf")))
    return ids, scale(weights, by=r.scale) if r.scale not in (0.0, 1.0) else weights


def router(blk: Weights, x: Tensor, n_expert: int, *, bias: bool = False) -> Tensor:
    """A score per expert. [T, D] -> [T, E]"""
    return linear(blk, "ffn_gate_inp", x, n_expert, bias=bias)


def expert_linear(
    blk: Weights, name: str, x: Tensor, ids: Tensor, shape: tuple[int, int | None], *, bias: bool = False
) -> Tensor:
    """x · Wᵀ [+ bias] of each chosen expert; `shape` is (experts, n). [T, 1 or K, in] -> [T, K, n]"""
    w = blk.sized(name, *shape, x.shape[2])
    y = mul_mat_id(w, x, ids)
    return add_id(y, blk.sized(f"{name}.bias", *w.shape[:2]), ids) if bias else y


def feed_experts(
    blk: Weights, x: Tensor, ids: Tensor, n_expert: int, activation: Gate = swiglu, *, bias: bool = False
) -> Tensor:
    """down(activation(gate(x), up(x))) of each chosen expert. [T, 1 or K, D] -> [T, K, D]"""
    gate, up = gate_and_up(blk, x, ids, n_expert, bias=bias)
    h = activation(gate, up)
    return expert_linear(blk, "ffn_down_exps", h, ids, (n_expert, x.shape[2]), bias=bias)


def gate_and_up(
    blk: Weights, x: Tensor, ids: Tensor, n_expert: int, *, bias: bool = False
) -> tuple[Tensor, Tensor]:
    """gate(x) and up(x) of each chosen expert, from two matrices or one. [T, 1 or K, D] -> 2 · [T, K, F]"""
    # Some files stack each expert's gate on its up matrix; slices of one product cost nothing.
    if "ffn_gate_up_exps" in blk:
        both = expert_linear(blk, "ffn_gate_up_exps", x, ids, (n_expert, None), bias=bias)
        half = int(both.shape[2]) // 2
        return view(both, start=0, stop=half), view(both, start=half, stop=2 * half)
    gate = expert_linear(blk, "ffn_gate_exps", x, ids, (n_expert, None), bias=bias)
    return gate, expert_linear(blk, "ffn_up_exps", x, ids, (n_expert, gate.shape[2]), bias=bias)


def feed_forward(r: Routing, blk: Weights, x: Tensor, activation: Gate = swiglu) -> Tensor:
    """Experts, experts and a shared one, or a dense gated layer: by which weights the layer has. [T, D] -> [T, D]"""
    if "ffn_gate_inp" not in blk:
        return gated_ffn(blk, x, activation=activation)
    made = experts_and_shared if "ffn_up_shexp" in blk else experts
    return made(r, blk, x, activation)


def as_row(x: Tensor) -> Tensor:
    """One row per token that all its K experts read. [T, D] -> [T, 1, D]"""
    return reshape(x, shape=(x.shape[0], 1, x.shape[1]))


def weighted_sum(y: Tensor, weights: Tensor) -> Tensor:
    """Σ_k weights[k] · y[k]. [T, K, D], [T, K] -> [T, D]"""
    return multi_add(y * reshape(weights, shape=(*weights.shape, 1)))


def experts(r: Routing, blk: Weights, x: Tensor, activation: Gate = swiglu) -> Tensor:
    """The weighted sum of the chosen experts' feed-forwards. [T, D] -> [T, D]"""
    ids, weights = choose(r, blk, x)
    return weighted_sum(feed_experts(blk, as_row(x), ids, r.n_expert, activation), weights)


def experts_and_shared(r: Routing, blk: Weights, x: Tensor, activation: Gate = swiglu) -> Tensor:
    """The chosen experts' weighted sum plus the shared expert, which every token passes. [T, D] -> [T, D]"""
    return experts(r, blk, x, activation) + gated_ffn(blk, x, "_shexp", activation)


def experts_and_gated(r: Routing, blk: Weights, x: Tensor) -> Tensor:
    """The same with the shared expert times the sigmoid of a gate per token. [T, D] -> [T, D]"""
    chosen, gate = experts(r, blk, x), sum_rows(x * blk.sized("ffn_gate_inp_shexp", x.shape[1]))  # [T, 1]
    return chosen + gated_ffn(blk, x, "_shexp") * sigmoid(gate)
