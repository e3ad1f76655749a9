"""Properties of ops: what the core does with an op follows from its declaration, ours or another package's."""

from collections.abc import Iterator
from typing import Any

import pytest

from graphsched.graph.cost import cost_of
from graphsched.graph.graph import from_outputs
from graphsched.graph.opdef import FIRST_USER_OP, OPS, OpDef, op
from graphsched.graph.ops import mul_mat_id
from graphsched.graph.tensor import Extent, Tensor, TensorType, f32, i32, input_tensor, weight
from graphsched.run.repack import repackable
from graphsched.schedule.assign import Target
from graphsched.schedule.policy import MinBatch, OffloadPolicy
from graphsched.schedule.scheduler import Schedule, schedule
from graphsched.types import dtypes
from graphsched.types.devices import HOST

EXPERTS, USED, WIDTH = 64, 2, 256


@pytest.fixture
def user_op() -> Iterator[OpDef[Any]]:
    """Another package's product with chosen experts, whose operands stand in an order of their own."""

    @op(FIRST_USER_OP + 77, rowwise=True, product=("experts",), chosen_by="which")
    def squared_experts(x: Tensor, which: Tensor, experts: Tensor) -> TensorType:
        """y[t, u] = (experts[which[t, u]] · x[t])²"""
        return f32(*which.shape, experts.shape[1])

    yield squared_experts
    del OPS[squared_experts.op]


def operands(n_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    n = Extent(n_tokens, "n_tokens")
    matrices = weight("blk.0.ffn_up_exps.weight", TensorType(dtypes.Q8_0, (EXPERTS, WIDTH, WIDTH)))
    return input_tensor("x", f32(n, 1, WIDTH)), input_tensor("ids", i32(n, USED)), matrices


def scheduled(node: Tensor, home: str, n_tokens: int) -> Schedule:
    target = Target(
        devices=("dev", HOST),
        home=lambda leaf: home,
        supports=lambda device, node: True,
        policy=OffloadPolicy(rule=MinBatch(1)),
        lengths={"n_tokens": n_tokens},
    )
    return schedule(from_outputs(node), target)


@pytest.mark.parametrize("n_tokens", [1, 31, 32, 64])
def test_experts_of_a_user_are_offloaded_as_ours(user_op: OpDef[Any], n_tokens: int) -> None:
    """n_tokens · n_used against n_expert; of what is uploaded only the experts that the ids name."""
    x, ids, matrices = operands(n_tokens)
    found = []
    for node in (user_op(x, ids, matrices), mul_mat_id(matrices, x, ids)):
        made = scheduled(node, HOST, n_tokens)
        uploads = [(c.to_device, c.ids is not None) for c in made.copies if c.is_weight]
        found.append((made.assignment.device[node], uploads))
    assert found[0] == found[1]
    assert found[0] == (("dev", [("dev", True)]) if n_tokens >= 32 else (HOST, []))


def test_experts_of_a_user_cost_what_is_used(user_op: OpDef[Any]) -> None:
    x, ids, matrices = operands(1)
    lengths = {"n_tokens": 1}
    theirs = cost_of(user_op(x, ids, matrices), lengths)
    ours = cost_of(mul_mat_id(matrices, x, ids), lengths)
    assert (theirs.nbytes, theirs.kind) == (ours.nbytes, ours.kind)
    assert matrices.type.nbytes * 1 / EXPERTS < theirs.nbytes < matrices.type.nbytes * (USED + 1) / EXPERTS


def test_experts_of_a_user_are_repacked_and_placed(user_op: OpDef[Any]) -> None:
    x, ids, matrices = operands(1)
    node = user_op(x, ids, matrices)
    graph = from_outputs(node)
    assert repackable(graph, lambda leaf: HOST, lambda node: False).keys() == {matrices.name}
    assert graph.names[node] == "blk.0.ffn_up_exps"
    made = scheduled(node, "dev", 1)
    assert (made.assignment.device[node], made.assignment.cause[node]) == ("dev", "1.wgt2")


def test_a_property_that_names_no_operand_is_an_error() -> None:
    with pytest.raises(TypeError, match="op halved has no operand w, which its declaration names"):

        @op(FIRST_USER_OP + 78, product=("w",))
        def halved(x: Tensor) -> TensorType:
            """x / 2"""
            return x.type

    with pytest.raises(TypeError, match="prodct"):
        op(FIRST_USER_OP + 78, prodct=("x",))(lambda x: x.type)
