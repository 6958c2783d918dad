"""One worker at a time gets a new access token: the others wait for it and take the one it got."""

from __future__ import annotations

import logging
import time
import uuid
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zoho_crm.ledger.ledger import Ledger

log = logging.getLogger(__name__)

LEASE_S = 90.0
"""Seconds after which the lock of a dead worker is open again; getting a token takes a few."""

_LOOK_EVERY_S = 0.25


@contextmanager
def refresh_lock(
    ledger: Ledger, zoho_conn_id: str, *, sleep: Callable[[float], None] = time.sleep
) -> Iterator[None]:
    """
    Hold the lock that all workers with the same audit database share.

    Zoho gives ten access tokens in ten minutes: fifty workers that start on an expired one must not each ask. Where the
    database does not answer, one token too many is better than none: the lock is then left out.

    :param sleep: for tests
    """
    from sqlalchemy.exc import SQLAlchemyError

    name, holder = f"{zoho_conn_id}: access token", uuid.uuid4().hex
    try:
        deadline = time.monotonic() + LEASE_S
        while not ledger.slots.lease(name, holder, wanted=1, limit=1, lease_s=LEASE_S):
            if time.monotonic() > deadline:
                log.warning(
                    "Somebody has been renewing the access token for %s s; going on beside them", LEASE_S
                )
                break
            sleep(_LOOK_EVERY_S)
    except SQLAlchemyError as error:
        log.warning("The access token is renewed without a lock: %s", type(error).__name__)
    try:
        yield
    finally:
        with suppress(SQLAlchemyError):
            ledger.slots.release(name, holder)
