"""`-op auto`: uploads by what they cost on a described machine."""

import json
from collections.abc import Callable

import pytest

from graphsched.errors import OptionError
from graphsched.graph.opdef import Op
from graphsched.predict.plan import Plan, make_plan
from graphsched.schedule.by_cost import MOST_ROWS, ByCost
from graphsched.schedule.policy import AUTO, MinBatch, OffloadPolicy, read_policy, read_rule
from graphsched.session.model import Model, open_default_or
from graphsched.session.options import session_options
from graphsched.session.planner import Planner

Run = Callable[..., tuple[int, str, str]]
MACHINES = ("rtx4090", "rtx4090-pcie3x4", "rtx4080-7950x", "2x3090", "h200")
EXPERTS = (Op.MOE_FUSED_UP_GATE, Op.MUL_MAT_ID)


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Two layers of Qwen3 30B-A3B."""
    from graphsched.cli.main import run

    path = tmp_path_factory.mktemp("moe") / "moe.gguf"
    assert run(["synth", "qwen3-30b-a3b", str(path), "--header-only", "--layers", "2"]) == 0
    return open_default_or(path, (), header_only=True)


def planned(model: Model, machine: str, n_tokens: int, **policy: str | int) -> Plan:
    options = session_options(
        devices=f"sim:{machine}", overrides="exps=CPU", n_ctx=4096, n_ubatch=4096, n_batch=4096, **policy
    )
    return make_plan(model, options, n_tokens, 1, n_tokens)


def seconds(plan: Plan) -> float:
    assert plan.timeline is not None
    return plan.timeline.wall


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("n_tokens", [1, 32, 256, 700, 1024, 4096])
def test_auto_is_as_fast_as_the_best_rule(moe: Model, machine: str, n_tokens: int) -> None:
    others = ({"offload_policy": "-1,0"}, {"offload_min_batch": 1}, {"offload_min_batch": 32})
    best = min(seconds(planned(moe, machine, n_tokens, **rule)) for rule in others)
    assert seconds(planned(moe, machine, n_tokens, offload_policy="auto")) <= 1.03 * best


def test_a_slow_link_is_worth_no_upload_of_experts_below_1800_tokens(moe: Model) -> None:
    for n_tokens in (32, 512, 1800):
        plan = planned(moe, "rtx4090-pcie3x4", n_tokens, offload_policy="auto")
        assert not any(copy.is_weight for copy in plan.schedule.copies)
        by_rows = planned(moe, "rtx4090-pcie3x4", n_tokens)
        assert seconds(plan) <= seconds(by_rows)


def test_a_decision_says_at_how_many_rows_it_flips(moe: Model) -> None:
    plan = planned(moe, "rtx4090", 64, offload_policy="auto")
    policy = plan.planner.policy
    assert isinstance(policy, OffloadPolicy)
    rule = policy.rule
    assert isinstance(rule, ByCost)
    experts = [node for node in plan.asked.nodes if node.op in EXPERTS]
    assert len(experts) == 4
    for node in experts:
        flip = rule.flips_at(node, 64)
        assert flip is not None
        assert 64 < flip < MOST_ROWS
        assert [rule.wants(node, flip + i) for i in (-1, 0)] == [False, True]
        assert rule.flips_at(node, flip + 100) == flip
        assert rule.why(node, 64).startswith("auto: ")
        assert rule.why(node, 64).endswith(f"there; flips from {flip} rows")
        assert rule.why(node, flip).endswith(f"on the host; flips below {flip} rows")


def test_what_plan_says_about_it(moe: Model, run: Run) -> None:
    path = moe.file.path
    args = (
        "plan",
        "-m",
        path,
        "--device",
        "sim:rtx4090",
        "-ot",
        "exps=CPU",
        "-op",
        "auto,27,0",
        "--json",
        "--nodes",
    )
    code, out, err = run(*args)
    assert code == 0, err
    found = json.loads(out)
    assert {g["given"]: g["hits"] for g in found["given"]}["-op auto"] > 0
    nodes = [node for split in found["splits"] for node in split["nodes"]]
    about = {node["op"] for node in nodes if node["auto"]}
    assert {"MOE_FUSED_UP_GATE", "MUL_MAT_ID"} <= about
    assert "GET_ROWS" not in about


@pytest.mark.parametrize(
    ("given", "off"),
    [("auto", set()), ("auto,26,0", {26}), ("27,0,auto", {27}), (["auto", "MUL_MAT=0"], {26})],
)
def test_how_it_is_asked_for(given: str | list[str], off: set[int]) -> None:
    found = read_policy(given)
    assert found == OffloadPolicy(frozenset(off), AUTO)
    assert read_policy(str(found)) == found == read_policy(found)
    assert read_rule("auto") is AUTO


def test_without_devices_it_uploads_nothing_and_real_ones_are_not_known(moe: Model) -> None:
    options = session_options(offload_policy="auto")
    assert not options.policy.wants(make_plan(moe, options, 64, 1, 64).asked.nodes[-1], 64)
    planner = Planner(moe, options, ("CUDA0",), lambda on, node: True, {})
    with pytest.raises(
        OptionError, match="is auto, which needs a described machine, as of --device sim:NAME"
    ):
        _ = planner.policy
    assert session_options(offload_policy="26,0").policy == OffloadPolicy(frozenset({26}), MinBatch())


def test_bits_do_not_depend_on_it(run: Run) -> None:
    texts = []
    for flags in (
        (),
        ("--device", "sim:rtx4090", "-ngl", "0"),
        ("--device", "sim:rtx4090", "-ngl", "0", "-op", "auto"),
    ):
        code, out, _ = run("run", "-p", "Once upon a time there was", "-n", 8, "--temp", 0, *flags)
        assert code == 0
        texts.append(out)
    assert len(set(texts)) == 1
