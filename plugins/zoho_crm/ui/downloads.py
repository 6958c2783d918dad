"""
Downloads of a run's links, streamed: CSV for spreadsheets, JSON Lines for programs.

A download holds no database connection while its client reads, and few run at once.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect

from zoho_crm.core.formatting import safe_csv_cell
from zoho_crm.ledger.link_queries import LINK_FIELDS
from zoho_crm.ui.auth import READ_RUN, ReaderDep
from zoho_crm.ui.query_params import outcome_param
from zoho_crm.ui.run_pages import RUN_PREFIX, FoundRun, require_run

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Iterator

    from starlette.types import Message, Receive, Scope, Send

    from zoho_crm.ledger.link_queries import LinkRow

router = APIRouter(prefix=RUN_PREFIX, dependencies=[Depends(READ_RUN)])

MAX_DOWNLOADS = 8
MAX_DOWNLOADS_OF_A_USER = 3
"""Downloads at once in one process of the API server."""

PIECE_TIMEOUT_S = 60.0
"""After this, a download whose client does not read ends."""

_ROWS_PER_PIECE = 500
_NOT_IN_FILE_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


@router.get("/links.{kind}")
def download(
    request: Request,
    reader: ReaderDep,
    found: Annotated[FoundRun, Depends(require_run)],
    kind: Literal["csv", "jsonl"],
    outcome: str = "",
) -> StreamingResponse:
    """Stream the links of a run, each with its outcome and its last audit row."""
    run = found.run
    if run.planned_at is None:
        raise HTTPException(404, "This run has no plan yet. Download its links once its task plan is done.")
    if run.pseudonymized_at is not None:
        raise HTTPException(404, "The plan of this run was deleted when its ids were replaced by hashes.")
    wanted = outcome_param(outcome)
    rows = found.database.links.stream(run, wanted)
    name = _file_name(run.job, run.dag_run_id, wanted or "links")
    return LimitedDownload(
        csv_pieces(rows) if kind == "csv" else json_lines(rows),
        running=request.app.state.downloads,
        user_id=reader.user_id,
        media_type="text/csv; charset=utf-8" if kind == "csv" else "application/x-ndjson",
        headers={"content-disposition": f'attachment; filename="{name}.{kind}"'},
    )


class LimitedDownload(StreamingResponse):
    """
    A streamed response that counts as a running download, and ends if its client stops reading.

    :param pieces: the text to send
    :param running: downloads that run, by user; used on the thread of the event loop only
    :param options: further parameters of the response
    """

    def __init__(self, pieces: Iterator[str], *, running: Counter[str], user_id: str, **options: Any) -> None:
        super().__init__(pieces, **options)
        self._running = running
        self._user_id = user_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response; raise 429 if too many downloads run."""
        if self._running[self._user_id] >= MAX_DOWNLOADS_OF_A_USER:
            raise _too_many(
                f"{MAX_DOWNLOADS_OF_A_USER} of your downloads are running: wait until one has ended."
            )
        if self._running.total() >= MAX_DOWNLOADS:
            raise _too_many(f"{MAX_DOWNLOADS} downloads are running: try again in a minute.")
        self._running[self._user_id] += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._running[self._user_id] -= 1

    async def stream_response(self, send: Send) -> None:
        """Send the pieces, each within a time limit."""

        async def send_in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(PIECE_TIMEOUT_S):
                    await send(message)
            except TimeoutError:
                # The response must not look complete.
                raise ClientDisconnect(f"The client has not read for {PIECE_TIMEOUT_S:g} s") from None

        await super().stream_response(send_in_time)


def _too_many(detail: str) -> HTTPException:
    return HTTPException(429, detail, headers={"retry-after": "60"})


def csv_pieces(rows: Iterable[LinkRow]) -> Iterator[str]:
    """Yield links as CSV, with a header; no cell is a formula for a spreadsheet."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(LINK_FIELDS)
    for number, row in enumerate(rows, start=1):
        writer.writerow([safe_csv_cell(_plain_value(getattr(row, name))) for name in LINK_FIELDS])
        if number % _ROWS_PER_PIECE == 0:
            yield _take_text(buffer)
    yield _take_text(buffer)


def json_lines(rows: Iterable[LinkRow]) -> Iterator[str]:
    """Yield links as JSON objects, one per line, with unchanged values."""
    lines: list[str] = []
    for row in rows:
        lines.append(json.dumps(asdict(row), default=_plain_value, ensure_ascii=False) + "\n")
        if len(lines) == _ROWS_PER_PIECE:
            yield "".join(lines)
            lines.clear()
    yield "".join(lines)


def _file_name(*parts: str) -> str:
    """Return a file name of characters that every system and HTTP header accepts."""
    return _NOT_IN_FILE_NAMES.sub("_", "_".join(parts))[:150]


def _plain_value(value: Any) -> Any:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value


def _take_text(buffer: io.StringIO) -> str:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text
