"""The trigger that looks for the response to an approval question; few imports, since the triggerer loads it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.triggers.hitl import HITLTrigger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from airflow.triggers.base import TriggerEvent


class LateResponseTrigger(HITLTrigger):
    """
    Look for the response to a question after a pause, in which the scheduler sees that the task waits.

    :param pause_s: seconds before the first look
    :param poke_interval: seconds between two looks
    """

    def __init__(self, *, pause_s: float, poke_interval: float = 3.0, **kwargs: Any) -> None:
        super().__init__(poke_interval=poke_interval, **kwargs)
        self.pause_s = pause_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the path of the class, and its arguments."""
        return f"{__name__}.{type(self).__name__}", {**super().serialize()[1], "pause_s": self.pause_s}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Pause, then look until there is a response or the time is over."""
        await asyncio.sleep(self.pause_s)
        async for event in super().run():
            yield event
