from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from zoho_crm.core.request import ZohoRequest, delete_related
from zoho_crm.errors import ClaimLostError, ZohoError, ZohoNotSentError

if TYPE_CHECKING:
    from zoho_crm.core.links import Link, Relation
    from zoho_crm.hooks.zoho_crm import ZohoCRMHook


@pytest.fixture
def delete(relation: Relation, link: Link) -> ZohoRequest:
    return delete_related("v7", relation, link)


@dataclass
class Right:
    """A right that expires after a number of looks at it, until it is renewed."""

    looks: list[int]
    slots: int = 1
    renewals: int = 0
    failure: ZohoError | None = None

    @property
    def held(self) -> int:
        if self.looks and self.looks[0] > 0:
            self.looks[0] -= 1
            return self.slots
        return 0 if self.looks else self.slots

    async def renew(self) -> None:
        self.renewals += 1
        if self.failure:
            raise self.failure
        self.looks.pop(0)


async def test_expired_right_is_renewed_before_a_request_leaves(
    zoho: Any, hook: ZohoCRMHook, delete: ZohoRequest
) -> None:
    right = Right([0])
    async with hook.async_client() as client:
        client.require(right)
        assert (await client.send(delete)).status == 200
    assert (right.renewals, len(zoho.seen)) == (1, 1)


async def test_right_that_expires_while_connecting_is_renewed_before_the_request_is_written(
    zoho: Any, hook: ZohoCRMHook, delete: ZohoRequest
) -> None:
    right = Right([1])
    async with hook.async_client() as client:
        client.require(right)
        assert (await client.send(delete)).status == 200
    assert (right.renewals, len(zoho.api_lines)) == (1, 1)


async def test_nothing_is_written_without_the_right(
    zoho: Any, hook: ZohoCRMHook, delete: ZohoRequest
) -> None:
    right = Right([1], failure=ClaimLostError("a newer try"))
    async with hook.async_client() as client:
        client.require(right)
        with pytest.raises(ClaimLostError):
            await client.send(delete)
    assert zoho.api_lines == []


async def test_request_sent_again_for_a_new_token_needs_the_right_too(
    zoho: Any, hook: ZohoCRMHook, delete: ZohoRequest
) -> None:
    zoho.script = [
        zoho.answer(401, {"code": "INVALID_TOKEN", "status": "error", "message": "", "details": {}})
    ]
    right = Right([2], failure=ClaimLostError("a newer try"))
    async with hook.async_client() as client:
        client.require(right)
        with pytest.raises(ClaimLostError):
            await client.send(delete)
    assert len(zoho.api_lines) == 1


async def test_gives_up_when_the_right_always_expires_while_connecting(
    zoho: Any, hook: ZohoCRMHook, delete: ZohoRequest
) -> None:
    async with hook.async_client() as client:
        client.require(Right([1, 1, 1, 1]))
        with pytest.raises(ZohoNotSentError, match="nothing was sent"):
            await client.send(delete)
    assert zoho.api_lines == []


async def test_never_has_more_in_flight_than_the_right_allows(
    zoho: Any, hook: ZohoCRMHook, delete: ZohoRequest
) -> None:
    running = most = 0
    right = Right([], slots=2)
    async with hook.async_client(max_connections=8) as client:
        client.require(right)

        async def send() -> None:
            nonlocal running, most
            async with client._turns.turn():
                running += 1
                most = max(most, running)
                await asyncio.sleep(0)
                running -= 1

        await asyncio.gather(*(send() for _ in range(20)))
        assert (running, most) == (0, 2)
        await asyncio.gather(*(client.send(delete) for _ in range(6)))
    assert len({seen.connection for seen in zoho.seen}) <= 2
