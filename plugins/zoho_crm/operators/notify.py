"""
Notify people once for each change of a job's state, by the notifiers that its file names.

A job is ``ok``, or in the state of its last notification. Dry runs change no state and notify no one. A run that needs
an approval without a breach notifies each time, and changes no state.
"""

from __future__ import annotations

import inspect
import logging
import threading
from copy import deepcopy
from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseNotifier

from zoho_crm.airflow_compat import base_url
from zoho_crm.operators.job_operator import origin_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context

    from zoho_crm.core.job import Job, Notice
    from zoho_crm.core.models import StoredRun
    from zoho_crm.ledger.ledger import Ledger

log = logging.getLogger(__name__)

OK = "ok"
BREACH = "breach"
APPROVAL = "approval"
RECOVERED = "recovered"

PATIENCE_S = 60.0
"""How long a notifier may take: one that hangs must not keep the run from ending."""


def notify_state_change(
    ledger: Ledger,
    job: Job,
    context: Context,
    run: StoredRun,
    *,
    state: str,
    text: str,
    counts: Mapping[str, int],
    status: str,
) -> None:
    """
    Store the state of a job, and notify people if it has changed.

    :param state: ``ok`` or the event that made it worse
    :param text: a sentence for people, without external IDs
    :param counts: number of links by outcome
    :param status: status of the run
    """
    if run.dry_run:
        return
    window = f"{run.window_start} to {run.window_end}" if run.window_start and run.window_end else None
    _record_and_notify(
        ledger,
        job,
        context,
        run.run_key,
        {"state": state, "text": text, "counts": dict(counts), "status": status, "window": window},
    )


def notify_approval_request(
    job: Job, context: Context, run: StoredRun, *, text: str, counts: Mapping[str, int]
) -> None:
    """
    Notify people of a run that waits for an approval though it exceeds no limit; the job's state stays.

    :param text: a sentence for people, without external IDs
    :param counts: number of links by outcome
    """
    window = f"{run.window_start} to {run.window_end}" if run.window_start and run.window_end else None
    news = {
        "event": APPROVAL,
        "state": APPROVAL,
        "text": text,
        "counts": dict(counts),
        "status": run.status,
        "window": window,
        "run_key": run.run_key,
    }
    _notify(job, context, news)


def notify_failure(ledger: Ledger | None, job: Job, context: Context, run_key: str, text: str) -> None:
    """
    Notify people of a failed run whose plan is missing or unreadable.

    :param ledger: None if the audit database is unreachable: then an earlier notification may be repeated
    """
    news: dict[str, Any] = {"state": "failed", "text": text, "counts": {}, "status": "failed", "window": None}
    if ledger is None:
        _notify(job, context, {**news, "event": "failed", "run_key": run_key})
    else:
        _record_and_notify(ledger, job, context, run_key, news)


def event_of(before: str | None, state: str) -> str | None:
    """
    Return the event of a change of state.

    :param before: its state before; "" if it had none, None if it was in this state already
    :return: an event of :data:`zoho_crm.core.job.Event`, None if no one is notified
    """
    if before is None:
        return None
    if state != OK:
        return state
    return RECOVERED if before not in {"", OK} else None


def notifier_faults(job: Job) -> list[str]:
    """Return a sentence for each notifier of a job that cannot be used, with its field in the job file."""
    faults = []
    for place, notice in enumerate(job.notify):
        try:
            signature = inspect.signature(_notifier_class(notice.notifier))
        except Exception as error:
            faults.append(f"notify.{place}.notifier: {notice.notifier!r} cannot be used: {error}")
            continue
        try:
            signature.bind(**notice.args)
        except TypeError as error:
            faults.append(f"notify.{place}.args: {notice.notifier!r} does not take them: {error}")
    return faults


def _record_and_notify(
    ledger: Ledger, job: Job, context: Context, run_key: str, news: dict[str, Any]
) -> None:
    event = event_of(ledger.runs.record_job_state(job.name, news["state"], run_key), news["state"])
    if event:
        _notify(job, context, {**news, "event": event, "run_key": run_key})


def _notify(job: Job, context: Context, news: dict[str, Any]) -> None:
    origin = origin_of(context)
    link = f"{(base_url() or '').rstrip('/')}/dags/{origin.dag_id}/runs/{origin.dag_run_id}"
    values = {"job": job.name, "link": link, **news}
    for notice in job.notify:
        if {news["event"], news["status"]} & set(notice.on):
            _send(notice, {**context, "zoho": values}, news["event"])


def _send(notice: Notice, context: dict[str, Any], event: str) -> None:
    """Run one notifier. Of an error only the class is logged: its message may contain a secret."""
    failures: list[BaseException] = []

    def send() -> None:
        try:
            notifier = _notifier_class(notice.notifier)(**deepcopy(notice.args))
            # Not notifier(context): that logs the error with its message.
            notifier.render_template_fields(context)  # type: ignore[arg-type]
            notifier.notify(context)  # type: ignore[arg-type]
        except BaseException as error:
            failures.append(error)

    sender = threading.Thread(target=send, name="notify", daemon=True)
    sender.start()
    sender.join(PATIENCE_S)
    if sender.is_alive():
        log.warning(
            "Notification not sent in time: notifier=%s event=%s timeout_s=%g",
            notice.notifier,
            event,
            PATIENCE_S,
        )
    elif failures:
        log.warning(
            "Notification failed: notifier=%s event=%s error=%s",
            notice.notifier,
            event,
            type(failures[0]).__name__,
        )
    else:
        log.info("Notification sent: notifier=%s event=%s", notice.notifier, event)


def _notifier_class(path: str) -> type[BaseNotifier]:
    module, _, name = path.rpartition(".")
    found = getattr(import_module(module), name)
    if not (isinstance(found, type) and issubclass(found, BaseNotifier)):
        raise TypeError("not a notifier: the class must derive from Airflow's BaseNotifier")
    return found
