"""What a try at a chunk leaves behind beside its outcomes: a line in the log at either end, and a span."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from zoho_crm.operators.spans import set_span_outcomes, span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zoho_crm.core.models import ChunkRef, Target
    from zoho_crm.operators.chunk_run import ChunkReport


@contextmanager
def log_chunk(
    log: Any, job: str, target: Target, *, links: int, chunk: ChunkRef | None = None
) -> Iterator[Callable[[ChunkReport], None]]:
    """
    Tell of a chunk: that it is taken up, and how this try left it, whatever becomes of the block.

    :param log: Airflow's logger of the task, which writes keys and values
    :param links: how many the chunk has
    :param chunk: None for links without a stored plan
    :return: what the block calls with its report
    """
    facts: dict[str, Any] = {
        "job": job,
        **({"run_key": chunk["run_key"], "chunk": chunk["chunk_no"]} if chunk else {}),
        "operation": target.operation,
        "relation": target.relation.label,
        "strategy": target.strategy,
        "dry_run": target.dry_run,
        "links": links,
    }
    left: dict[str, Any] = {}
    started = time.monotonic()
    log.info("Chunk started", **facts)
    with span("chunk", **facts) as opened:

        def tell(report: ChunkReport) -> None:
            left.update((outcome.value, count) for outcome, count in report.counts.items() if count)
            set_span_outcomes(opened, report.counts)
            if report.stopped:
                left["stopped"] = report.reason.value if report.reason else "other"
                opened.set_attribute("zoho_crm.stopped", left["stopped"])

        try:
            yield tell
        except BaseException as error:
            left["error"] = type(error).__name__
            raise
        finally:
            log.info("Chunk ended", **facts, duration_s=round(time.monotonic() - started, 3), **left)
