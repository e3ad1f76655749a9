"""docs/plans-of-real-models.md: its command lines, a section of it, and whether its times can be true."""

import plans_page
from plans_page import CASES, PAGE, Case, planned, section


def test_the_page_has_every_case_in_order() -> None:
    """Written by tools/plans_page.py."""
    text = PAGE.read_text()
    assert text.startswith(plans_page.TOP)
    at = [text.find(plans_page.heading(case)) for case in CASES]
    assert -1 not in at
    assert at == sorted(at)
    assert text.count("\n## ") == len(CASES) == 10


def test_a_section_is_what_plan_says_now() -> None:
    case = next(case for case in CASES if case.layout == "gemma-3-27b")
    assert section(case) in PAGE.read_text()


def test_a_token_takes_the_bytes_of_its_experts_over_the_bandwidth_of_the_host() -> None:
    token, _ = planned(Case("lfm2-8b-a1b", "Q4_0", "sim:rtx4090", "-cmoe", ""), "decode")
    experts = 22 * 4 * 3 * 2048 * 1792 * 18 / 32  # layers, used, matrices, their sizes, bytes
    assert token.timeline is not None
    assert 1 <= token.timeline.wall / (experts / token.host.bandwidth) < 1.25
