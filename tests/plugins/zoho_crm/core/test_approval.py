"""The question that a person is asked: what it says, and that nothing in it is read as Markdown."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from zoho_crm.core.approval import (
    Question,
    approval_block_reason,
    approver_faults,
    code,
    describe_requester,
    is_rejected,
    plan_url,
)
from zoho_crm.core.links import Link
from zoho_crm.core.models import PlanSummary

QUESTION = Question(
    job="contacts_deals",
    operation="delink",
    mode="apply",
    relation="Contacts.External_Contact_ID -> Deals (Deals.External_Deal_ID)",
    window=(datetime(2026, 11, 21, tzinfo=UTC), datetime(2026, 11, 22, tzinfo=UTC)),
    plan=PlanSummary(source_rows=130, planned=120, duplicates=10, invalid=3, chunks=[]),
    breaches=["120 links planned, 100 allowed"],
    requested_by="`bob`, whose approval does not count",
    sample=[Link("c-1", "d-1"), Link("c-2", "d-2")],
    plan_url="http://airflow.example/links.csv",
    respond_within=timedelta(hours=24),
    approvers=("ada", "grace"),
    baseline_links=1000,
    reason="spring cleaning",
    send_until=datetime(2026, 11, 25, 2, tzinfo=UTC),
)


def rendered(text: str) -> str:
    return MarkdownIt("commonmark").render(text)


def test_the_question_holds_what_is_needed_to_decide() -> None:
    assert QUESTION.subject == "Remove 117 links of contacts_deals?"
    assert QUESTION.body.splitlines() == [
        "### Why you are asked",
        "",
        "- `120 links planned, 100 allowed`",
        "",
        "### The run",
        "",
        "- Job: `contacts_deals`",
        "- Mode: apply, delink",
        "- Relation: `Contacts.External_Contact_ID -> Deals (Deals.External_Deal_ID)`",
        "- Window: 2026-11-21 00:00:00 UTC to 2026-11-22 00:00:00 UTC",
        "- Links planned: **120**, 3 of them cannot be sent",
        "- Rows read: 130, 10 of them duplicates",
        "- Share: 12% of 1000 links",
        "- Respond within: 1 day; later, the run is rejected",
        "- Who may respond: `ada`, `grace`",
        "- Requested by: `bob`, whose approval does not count",
        "- Can be sent until: 2026-11-25 02:00:00 UTC",
        "- Reason: `spring cleaning`",
        "",
        "### 2 of the links",
        "",
        "- `c-1` → `d-1`",
        "- `c-2` → `d-2`",
        "",
        "[The whole plan as CSV](http://airflow.example/links.csv)",
        "",
        "**Approve** sends the plan. **Reject**, or no decision in time, ends the run: nothing is sent.",
    ]


def test_what_is_not_known_is_left_out() -> None:
    bare = replace(
        QUESTION,
        baseline_links=None,
        reason=None,
        approvers=(),
        send_until=None,
        window=(None, None),
        sample=[],
        breaches=["x"],
    )
    assert "Share" not in bare.body
    assert "Can be sent" not in bare.body
    assert "- Reason: none given\n" in bare.body
    assert "- Who may respond: everyone who may edit the Dag run\n" in bare.body
    assert "- Window: none\n" in bare.body
    assert "No link can be sent." in bare.body


def test_question_of_a_run_within_its_limits_gives_the_rule_as_reason() -> None:
    lines = replace(QUESTION, breaches=[]).body.splitlines()
    assert lines[:4] == [
        "### Why you are asked",
        "",
        "Each run of this job needs an approval (`guards.approvals: always`).",
        "",
    ]


@pytest.mark.parametrize(
    ("requester", "run_type", "forbid", "text"),
    [
        ("ada", "manual", True, "`ada`, whose approval does not count"),
        ("ada", "backfill", False, "`ada`"),
        ("a`d*a", "manual", False, "``a`d*a``"),
        (None, "scheduled", True, "Airflow (scheduled run)"),
        (None, "asset_triggered", True, "Airflow (asset triggered run)"),
        (
            None,
            "manual",
            True,
            "unknown: Airflow names no user, so the requester can approve the run as well",
        ),
        (None, "operator_triggered", False, "unknown: Airflow names no user"),
    ],
)
def test_question_names_the_requester(requester: str | None, run_type: str, forbid: bool, text: str) -> None:
    assert describe_requester(requester, run_type, forbid_self_approval=forbid) == text


def test_relink_is_named_as_such() -> None:
    relink = replace(QUESTION, operation="relink", origin_run_key="contacts_deals:1f")
    assert relink.subject == "Relink 117 links of contacts_deals?"
    assert "- Origin run: `contacts_deals:1f`" in relink.body


@pytest.mark.parametrize(
    "hostile",
    [
        "![x](http://evil.example/pixel.png)",
        "[click](javascript:alert(1))",
        "<img src=x onerror=alert(1)>",
        "www.evil.example",
        "a`b",
        "`",
        "```\n# Approved by the boss\n```",
        "x\n\n# Approved\n\n- Links planned: **1**",
        "a\r\nb",
        "a\u2028b",
        "\u202eevil\u202c",
        "a\u200bb",
        "a\x00b",
        "\\`",
        " a ",
        "{{ conn.zoho.password }}",
        "a|b",
    ],
)
def test_hostile_ids_and_reasons_are_shown_and_never_read(hostile: str) -> None:
    question = replace(QUESTION, sample=[Link(hostile, "d-1")], reason=hostile)
    tokens = MarkdownIt("commonmark").parse(question.body)
    inline = [child for token in tokens for child in token.children or ()]
    assert {child.type for child in inline} <= {
        "text", "code_inline", "strong_open", "strong_close", "link_open", "link_close"
    }  # fmt: skip
    assert [child.attrs["href"] for child in inline if child.type == "link_open"] == [QUESTION.plan_url]
    assert "".join(token.content for token in tokens if token.type == "html_block") == ""
    headings = [tokens[n + 1].content for n, token in enumerate(tokens) if token.type == "heading_open"]
    assert headings == ["Why you are asked", "The run", "1 of the links"]
    texts = "".join(child.content for child in inline if child.type == "text")
    assert "evil" not in texts
    assert "alert" not in texts


@given(st.text(min_size=1, max_size=50))
def test_any_text_is_one_code_span(text: str) -> None:
    (paragraph,) = [token for token in MarkdownIt("commonmark").parse(f"x {code(text)} y") if token.children]
    assert [child.type for child in paragraph.children or ()] == ["text", "code_inline", "text"]
    assert code(text).isprintable()


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=50))
def test_visible_text_is_shown_as_it_is(text: str) -> None:
    (paragraph,) = [token for token in MarkdownIt("commonmark").parse(f"x {code(text)} y") if token.children]
    assert (paragraph.children or [])[1].content == text


def test_nothing_at_all_is_said_in_words() -> None:
    assert code("") == "(empty)"


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        (
            "https://airflow.example/af/",
            "https://airflow.example/af/zoho-delinks/dags/zoho_delink__x/runs/manual__2026-11-22T00%3A00%3A00%2B00%3A00/"
            "links.csv?job=x",
        ),
        (
            None,
            "/zoho-delinks/dags/zoho_delink__x/runs/manual__2026-11-22T00%3A00%3A00%2B00%3A00/links.csv?job=x",
        ),
    ],
)
def test_the_plan_has_an_address(base_url: str | None, url: str) -> None:
    assert plan_url(base_url, "zoho_delink__x", "manual__2026-11-22T00:00:00+00:00", "x") == url


def test_a_run_id_cannot_leave_the_address() -> None:
    url = plan_url("http://a", "x", "../../) [evil](http://evil/?a=b&c#d", "x")
    assert url == (
        "http://a/zoho-delinks/dags/x/runs/..%2F..%2F%29%20%5Bevil%5D%28http%3A%2F%2Fevil%2F%3Fa%3Db%26c%23d/"
        "links.csv?job=x"
    )


@pytest.mark.parametrize(
    ("approval", "why", "rejected"),
    [
        (None, None, False),
        ("approved", None, False),
        ("asked", "the run waits for an approval", False),
        ("rejected", "the run was rejected", True),
        ("rejected: no response within 1 day", "the run was rejected: no response within 1 day", True),
    ],
)
def test_only_a_yes_lets_a_run_that_asks_go_on(approval: str | None, why: str | None, rejected: bool) -> None:
    assert (approval_block_reason(approval), is_rejected(approval)) == (why, rejected)


FAB = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
SIMPLE = "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"


@pytest.mark.parametrize(
    ("approvers", "auth_manager", "refused"),
    [
        (["1", "ada", "2 ", "²"], FAB, ["'ada'", "'2 '", "'²'"]),
        (["1", "2"], FAB, []),
        (["ada"], SIMPLE, []),
        (["ada"], "", []),
        ([], FAB, []),
    ],
)
def test_user_ids_of_fab_are_numbers(approvers: list[str], auth_manager: str, refused: list[str]) -> None:
    faults = approver_faults(approvers, auth_manager)
    assert [fault.split()[1] if "'2 '" not in fault else "'2 '" for fault in faults] == refused
    assert all(fault.startswith("guards.approvers: ") for fault in faults)
