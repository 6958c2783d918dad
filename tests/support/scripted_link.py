"""One link whose requests get scripted replies, without pauses."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tests.support.fake_zoho import FakeZoho
from tests.support.links import RELATION
from zoho_crm.hooks.presence import RetryLimits

if TYPE_CHECKING:
    from tests.support.fake_zoho import Reply
    from zoho_crm.core.models import PlannedLink

START = datetime(2026, 11, 22, 2, tzinfo=UTC)
DELETE = "DELETE /crm/v7/Contacts/c%2F1/Deals/d%201"
PUT = 'PUT /crm/v7/Contacts/c%2F1/Deals {"data":[{"External_Deal_ID":"d 1"}]}'
LINKED = "GET /crm/v7/Contacts/c%2F1/Deals/d%201?fields=id"
PARENT = "GET /crm/v7/Contacts/c%2F1?fields=id"
RELATED = "GET /crm/v7/Deals/d%201?fields=id"


@dataclass
class ScriptedLink:
    """
    One link of a link client, over a fake Zoho that follows a script.

    :param script: a reply for each request, in their order
    :param slept: the pauses, none of which takes time
    """

    script: list[Reply]
    limits: RetryLimits = field(default_factory=RetryLimits)
    jitter: float = 1.0
    slept: list[float] = field(default_factory=list)
    clock_readings: int = 0
    stop_reason: Any = None

    def __post_init__(self) -> None:
        self.zoho = FakeZoho(script=self.script)

    def client(self, kind: Any, **options: Any) -> Any:
        return kind(
            self.zoho,
            RELATION,
            "v7",
            self.limits,
            sleep=self.sleep,
            now=self.now,
            jitter=lambda: self.jitter,
            **options,
        )

    async def process(self, client: Any, planned: PlannedLink) -> Any:
        """Process the link to its end, and return its result."""
        ((result, self.stop_reason),) = await client.process_unit([planned])
        assert result.planned.link == planned.link
        self.zoho.check_script_used()
        return result

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.zoho.seen.append("pause")

    def now(self) -> datetime:
        """Return a time that is a second later at each reading."""
        self.clock_readings += 1
        return START + timedelta(seconds=self.clock_readings)

    @property
    def seen(self) -> list[str]:
        """The requests, and "pause" for each pause; all of the script must have been used."""
        self.zoho.check_script_used()
        return self.zoho.seen
