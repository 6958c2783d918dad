"""
Approvals: the question to the approver, and what the decision means for the run.

Pure. The question is Markdown for Airflow's form; ids and texts in it come from
other systems and are shown literally, never read as Markdown.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import quote

from zoho_crm.core.formatting import format_count, format_duration, format_percent
from zoho_crm.core.run_request import is_automatic

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime, timedelta

    from zoho_crm.core.job import Guards
    from zoho_crm.core.links import Link
    from zoho_crm.core.models import PlanSummary

BREACHED = "breached"
"""How the guards' decision on a plan that exceeds a limit begins."""

NO_LIMITS = "passed: no limits, the task has no job"
"""Decision on the links of an operator outside of a job's Dag, which has no guard."""

ASKED = "asked"
APPROVED = "approved"
REJECTED = "rejected"

APPROVE = "Approve"
"""What a person chooses; anything else is a rejection."""

_ALWAYS = "Each run of this job needs an approval (`guards.approvals: always`)."
_BACKTICKS = re.compile("`+")
_LONGEST_TEXT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """
    What a person needs to know to decide about a run.

    :param operation: ``delink`` or ``relink``
    :param breaches: the limits that the plan exceeds, a sentence each; none if each run of the job needs an approval
    :param requested_by: who or what requested the run, and whether that user may approve it
    :param sample: some links of the plan
    :param plan_url: address of the whole plan
    :param baseline_links: number of all links, if the job counts them
    :param respond_within: how long people can respond. Not a moment: Airflow refuses a question that is asked again
        and differs
    :param approvers: IDs of the users who may respond; empty for everyone who may edit the Dag run
    :param send_until: when the plan becomes too old to be sent, if the job limits its age
    """

    job: str
    operation: str
    mode: str
    relation: str
    window: tuple[datetime | None, datetime | None]
    plan: PlanSummary
    breaches: Sequence[str]
    requested_by: str
    sample: Sequence[Link]
    plan_url: str
    respond_within: timedelta
    approvers: Sequence[str] = ()
    baseline_links: int | None = None
    reason: str | None = None
    origin_run_key: str | None = None
    send_until: datetime | None = None

    @property
    def subject(self) -> str:
        """The question in one line."""
        verb = "Relink" if self.operation == "relink" else "Remove"
        return f"{verb} {format_count(self.plan.planned - self.plan.invalid, 'link')} of {self.job}?"

    @property
    def body(self) -> str:
        """The question in full, as Markdown."""
        plan, (start, end) = self.plan, self.window
        facts = [
            ("Job", code(self.job)),
            ("Mode", f"{self.mode}, {self.operation}"),
            ("Relation", code(self.relation)),
            ("Window", f"{_moment(start)} to {_moment(end)}" if start and end else "none"),
            ("Links planned", f"**{plan.planned}**, {plan.invalid} of them cannot be sent"),
            ("Rows read", f"{plan.source_rows}, {plan.duplicates} of them duplicates"),
        ]
        if self.baseline_links:
            facts.append(
                (
                    "Share",
                    f"{format_percent(plan.planned / self.baseline_links)} of {self.baseline_links} links",
                )
            )
        if self.origin_run_key:
            facts.append(("Origin run", code(self.origin_run_key)))
        facts.append(
            ("Respond within", f"{format_duration(self.respond_within)}; later, the run is rejected")
        )
        who = ", ".join(map(code, self.approvers)) or "everyone who may edit the Dag run"
        facts.append(("Who may respond", who))
        facts.append(("Requested by", self.requested_by))
        if self.send_until:
            facts.append(("Can be sent until", _moment(self.send_until)))
        facts.append(("Reason", code(self.reason) if self.reason else "none given"))
        return "\n\n".join(
            [
                "### Why you are asked",
                _bullets(code(breach) for breach in self.breaches) or _ALWAYS,
                "### The run",
                _bullets(f"{name}: {value}" for name, value in facts),
                f"### {len(self.sample)} of the links",
                _bullets(
                    f"{code(link.external_id)} → {code(link.related_external_id)}" for link in self.sample
                )
                or "No link can be sent.",
                f"[The whole plan as CSV]({self.plan_url})",
                "**Approve** sends the plan. **Reject**, or no decision in time, ends the run: nothing is sent.",
            ]
        )


def question_digest(subject: str, body: str | None, approvers: Iterable[str], tries: int) -> str:
    """
    Return the SHA-256 of a question, in hexadecimal digits.

    :param approvers: who may respond
    :param tries: up to which try of the task the question, and a response to it, counts
    """
    return sha256(json.dumps([subject, body, sorted(approvers), tries]).encode()).hexdigest()


def describe_requester(requester: str | None, run_type: str, *, forbid_self_approval: bool) -> str:
    """
    Return who or what requested a run, and whether that user may approve it, as Markdown.

    :param requester: Airflow's name of the user; None if it names none
    :param run_type: Airflow's type of the run
    """
    if requester:
        return code(requester) + (", whose approval does not count" if forbid_self_approval else "")
    if is_automatic(run_type):
        return f"Airflow ({run_type.replace('_', ' ')} run)"
    unknown = "unknown: Airflow names no user"
    return f"{unknown}, so the requester can approve the run as well" if forbid_self_approval else unknown


def refusal(user: Mapping[str, str] | None, guards: Guards, requester: str | None) -> str | None:
    """
    Return why an approval does not count, as a clause; None if it does.

    A task knows the name of the requester alone. Airflow names an approver in the same way: by user name, and from 3.4
    on by display name.

    :param user: ID and name of the approver, as Airflow has recorded them; None if it names no one
    :param requester: Airflow's name of the user who requested the run; None if it names none
    """
    if not user:
        return "Airflow names no user for it"
    if guards.approvers and user["id"] not in guards.approvers:
        return "guards.approvers does not list this user"
    if guards.forbid_self_approval and requester and requester in {user["id"], user["name"]}:
        return "this user requested the run, and guards.forbid_self_approval is set"
    return None


def decide(chosen_options: Sequence[str]) -> str:
    """Return what chosen options mean for a run: a plain approval, or a rejection."""
    return APPROVED if list(chosen_options) == [APPROVE] else REJECTED


def format_approver(user: Mapping[str, str] | None) -> str | None:
    """Return the name of a user, with Airflow's ID if it differs."""
    if not user:
        return None
    return user["name"] if user["name"] == user["id"] else f"{user['name']} ({user['id']})"


def approver_faults(approvers: Iterable[str], auth_manager: str) -> list[str]:
    """
    Return the approvers who cannot be users of this Airflow, a sentence each.

    Airflow compares IDs of users. FAB's are the numbers of its table of users; those of the simple auth manager are
    user names. A task cannot look users up, so that whether an ID exists is not known.

    :param auth_manager: path of the class of Airflow's auth manager; empty if it is not known
    """
    if not auth_manager.endswith("FabAuthManager"):
        return []
    return [
        f"guards.approvers: {approver!r} is not a user ID: with the FAB auth manager these are numbers, which "
        "airflow users list shows"
        for approver in approvers
        if not (approver.isascii() and approver.isdigit())
    ]


def approval_block_reason(approval: str | None) -> str | None:
    """Return why the links of a run may not be sent, or None: a run that needs an approval waits for it."""
    if approval is None or approval == APPROVED:
        return None
    if approval == ASKED:
        return "the run waits for an approval"
    return f"the run was {approval}"


def send_block_reason(decision: str | None, approval: str | None) -> str | None:
    """
    Return why the links of a run may not be sent, or None: its guard has let it pass, or an approver has.

    :param decision: of the guards, as on the run row
    :param approval: as on the run row
    """
    if decision is None:
        return "its guard has not decided; clear the task guard, with the tasks after it"
    if approval is None and decision.startswith(BREACHED):
        return "the run exceeds a limit of its guards, and has no approval"
    return approval_block_reason(approval)


def is_rejected(approval: str | None) -> bool:
    """Whether the run was rejected, by an approver or because no decision was made in time."""
    return approval is not None and approval.startswith(REJECTED)


def plan_url(base_url: str | None, dag_id: str, run_id: str, job: str) -> str:
    """
    Return the address of the plan of a run as a CSV file.

    :param base_url: Airflow's own; without one the address is relative to its server
    """
    path = f"/zoho-delinks/dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}/links.csv"
    return f"{(base_url or '').rstrip('/')}{path}?job={quote(job, safe='')}"


def code(text: str) -> str:
    """
    Return text as a code span of Markdown: nothing in it is read as Markdown or HTML, or becomes an address.

    Invisible characters, line breaks included, are written as escapes: they could end the span, or show another
    text than the real one.
    """
    shown = "".join(_visible(character) for character in text[:_LONGEST_TEXT])
    if not shown:
        return "(empty)"
    fence = "`" * (max(map(len, _BACKTICKS.findall(shown)), default=0) + 1)
    # A span that begins and ends with a blank loses both.
    pad = " " if "`" in (shown[0], shown[-1]) or (shown[0] == shown[-1] == " " and shown.strip()) else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def _visible(character: str) -> str:
    if character == " " or unicodedata.category(character)[0] not in "CZ":
        return character
    return (
        character.encode("ascii", "backslashreplace").decode()
        if ord(character) > 127
        else f"\\x{ord(character):02x}"
    )


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
