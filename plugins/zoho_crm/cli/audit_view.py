"""Print runs and links of the audit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoho_crm.core.links import link_fault
from zoho_crm.core.outcomes import REMOVAL_OUTCOMES, Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from zoho_crm.cli.output import Output


_CHANGES = (*REMOVAL_OUTCOMES, Outcome.RELINKED, Outcome.PRESUMED_RELINKED)


def show_run(out: Output, run: Mapping[str, Any]) -> None:
    """Print one run with its counts by outcome, and the reasons of links that need attention."""
    if out.as_json:
        out.document(run)
        return
    out.title(f"{run['job']}: {run['dag_run_id']}")
    out.facts(
        {
            "run_key": run["run_key"],
            "Dag": run["dag_id"],
            "action": f"{run['operation']}, {run['mode']}",
            "origin run": run["origin_run_key"],
            "started by": _requester(run),
            "reason": run["reason"],
            "window": _window(run),
            "status": run["ending"],
            "needs attention": run["attention"],
            "detail": run["detail"],
            "stop reason": run["stop_reason"],
            "guards": run["guard_decision"],
            "approval": _approval(run),
            "started": run["started_at"],
            "finished": run["finished_at"],
            "pseudonymized": run["pseudonymized_at"],
            "source rows": run["source_rows"],
            "duplicates": run["duplicates"],
            "links planned": run["planned"],
            "unfinished links": run["unfinished_links"],
            "API credits used": run["credits"],
        }
    )
    if run["outcomes"]:
        out.title("Outcomes")
        out.table(("outcome", "links"), list(run["outcomes"].items()))
    out.title("Decisions")
    names = ("recorded_at", "kind", "summary")
    out.table(names, [[event[name] for name in names] for event in run["events"]])
    if run["reasons"]:
        out.title("Needs attention")
        names = ("outcome", "zoho_code", "message")
        out.table(
            (*names, "links"),
            [[*(reason[name] for name in names), _links(reason)] for reason in run["reasons"]],
        )


def show_runs(out: Output, found: Sequence[Mapping[str, Any]]) -> None:
    """Print runs, one per line."""
    if out.as_json:
        out.document({"runs": list(found)})
        return
    if not found:
        out.say("No runs yet. Trigger the Dag of a job.")
        return
    names = (
        "started_at",
        "job",
        "dag_run_id",
        "operation",
        "mode",
        "ending",
        "planned",
        "removed",
        "presumed_removed",
        "relinked",
        "presumed_relinked",
    )
    also = ("failed", "unknown", "not_attempted", "credits")
    out.table((*names, *also), [[run[name] for name in (*names, *also)] for run in found])


def show_history(out: Output, link: tuple[str, str], history: Sequence[Mapping[str, Any]]) -> None:
    """Print the history of one link over all runs, and who changed it last."""
    reason = None if history else link_fault(*link) or "no run has processed it"
    if out.as_json:
        document = {"external_id": link[0], "related_external_id": link[1], "history": list(history)}
        out.document({**document, "error": f"no history for this link: {reason}"} if reason else document)
        return
    if reason:
        out.error(f"no history for this link: {reason}")
        return
    names = (
        "finished_at",
        "operation",
        "outcome",
        "dry_run",
        "job",
        "dag_run_id",
        "run_type",
        "triggered_by",
    )
    also = ("reason", "zoho_message", "detail")
    out.table((*names, *also), [[event[name] for name in (*names, *also)] for event in history])
    changes = [event for event in history if event["outcome"] in _CHANGES]
    if changes:
        last = changes[-1]
        out.say(f"Last {last['outcome'].replace('_', ' ')} by {last['dag_run_id']} ({_requester(last)}).")


def _links(reason: Mapping[str, Any]) -> int | str:
    """Return the number of links with a reason, and of how many where not all were read."""
    from zoho_crm.ledger.run_queries import REASON_SAMPLE

    links: int = reason["links"]
    return links if reason["of"] < REASON_SAMPLE else f"{links} of the first {reason['of']}"


def _requester(run: Mapping[str, Any]) -> str:
    return f"{run['run_type']}, {run['triggered_by']}" if run["triggered_by"] else str(run["run_type"])


def _window(run: Mapping[str, Any]) -> str | None:
    if run["window_start"] is None:
        return None
    return f"{run['window_start']:%Y-%m-%d %H:%M:%S} to {run['window_end']:%Y-%m-%d %H:%M:%S} UTC"


def _approval(run: Mapping[str, Any]) -> str | None:
    if run["approval"] is None:
        return None
    text = str(run["approval"])
    if run["approved_by"] is not None:
        text += f", by {run['approved_by']}, {run['approved_at']:%Y-%m-%d %H:%M:%S} UTC"
    return f"{text}. {run['approval_note']}" if run["approval_note"] else text
