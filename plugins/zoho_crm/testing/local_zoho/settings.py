"""How this local Zoho behaves where Zoho's documentation leaves room, and how tight its limits are."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

ALL_SCOPES = ("ZohoCRM.modules.ALL", "ZohoCRM.settings.ALL", "ZohoCRM.org.ALL", "ZohoCRM.users.ALL")

# Requests in flight per org, by edition (Kaizen #203).
CONCURRENCY_BY_EDITION = {"free": 5, "standard": 10, "professional": 15, "enterprise": 20, "ultimate": 25}

_CHOICES: dict[str, tuple[object, ...]] = {
    "edition": tuple(CONCURRENCY_BY_EDITION),
    "environment": ("production", "sandbox", "developer", "bigin"),
    "daily_body": ("envelope", "legacy"),
    "token_throttle_status": (200, 400),
    "shape_wrong_external_id": ("T", "R"),
    "already_unlinked": ("documented", "relation_not_found", "mandatory_not_found", "ambiguous"),
    "encoded_slash": ("accept", "reject"),
    "success_message": ("relation removed", "record deleted"),
    "partial_status": (200, 207),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """
    Hold every knob of the local Zoho; the defaults follow the best evidence about the real one.

    :param latency_s: seconds each API response is held back, after its work is done.
    :param jitter_s: up to this many further seconds, drawn from a generator seeded with ``jitter_seed``.
    :param edition: free, standard, professional, enterprise or ultimate; decides the concurrency limit.
    :param environment: what ``/org`` returns as ``type``.
    :param concurrency_limit: requests in flight per org; None takes the edition's (5 to 25, Kaizen #203).
    :param credit_limit: API credits in any 24 hours; one call costs one.
    :param daily_body: form of the 429 when the credits are used up: the usual envelope, or the legacy one.
    :param retry_after_s: send ``Retry-After`` with a 429; Zoho documents none, so None.
    :param token_lifetime_s: life of an access token in seconds (3600, Zoho's token validity page).
    :param token_throttle_status: HTTP status of "Access Denied" (200 in Kaizen #43, 400 seen in the field).
    :param tokens_per_window: access tokens per refresh token in ``token_window_s`` seconds (10 in 600).
    :param token_lockout_s: a request during the lock-out makes it last at least this much longer.
    :param max_alive_tokens: one more kills the oldest (15, token validity page).
    :param granted_scopes: what a token may do.
    :param api_domain: ``api_domain`` of the token response; None is this server's own base URL.
    :param shape_wrong_external_id: "T" top level, "R" inside ``data[]``; the documentation shows neither.
    :param already_unlinked: response, for calls with external ids, when there is no such link. "documented":
        ``data[]`` entry INVALID_DATA "relation not found", but MANDATORY_NOT_FOUND for ``Contact_Roles``;
        "relation_not_found": the former for every list; "mandatory_not_found": top level MANDATORY_NOT_FOUND;
        "ambiguous": top level INVALID_DATA without details, as for a wrong external id.
    :param encoded_slash: "reject" responds 404 INVALID_URL_PATTERN to ``%2F`` in a path, as some gateways do.
    :param success_message: message of a removed link (the official OpenAPI shows "record deleted" too).
    :param success_with_external_id: add the external field to ``details`` of a removed link.
    :param partial_status: HTTP status when some ids of a plural call failed.
    :param plural_external_ids: whether ``ids`` may hold external values (probable, undocumented).
    :param journal_size: requests and harms remembered.
    """

    latency_s: float = 0.0
    jitter_s: float = 0.0
    jitter_seed: int = 0
    edition: str = "enterprise"
    environment: str = "production"
    concurrency_limit: int | None = None
    credit_limit: int = 5_000_000
    daily_body: Literal["envelope", "legacy"] = "envelope"
    retry_after_s: int | None = None
    token_lifetime_s: float = 3600.0
    token_throttle_status: int = 200
    tokens_per_window: int = 10
    token_window_s: float = 600.0
    token_lockout_s: float = 180.0
    max_alive_tokens: int = 15
    granted_scopes: tuple[str, ...] = ALL_SCOPES
    api_domain: str | None = None
    shape_wrong_external_id: Literal["T", "R"] = "T"
    already_unlinked: Literal["documented", "relation_not_found", "mandatory_not_found", "ambiguous"] = (
        "documented"
    )
    encoded_slash: Literal["accept", "reject"] = "accept"
    success_message: Literal["relation removed", "record deleted"] = "relation removed"
    success_with_external_id: bool = False
    partial_status: int = 207
    plural_external_ids: bool = True
    journal_size: int = 500_000

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                msg = f"setting {name} must be one of {', '.join(map(str, allowed))}"
                raise ValueError(msg)

    @property
    def max_in_flight(self) -> int:
        """Return the concurrency limit in force."""
        if self.concurrency_limit is not None:
            return self.concurrency_limit
        return CONCURRENCY_BY_EDITION[self.edition]

    def changed(self, changes: dict[str, Any]) -> Settings:
        """
        Return these settings with some of them changed.

        :param changes: values by setting name, as from JSON.
        :raises ValueError: for an unknown name or a value outside its choices.
        """
        unknown = sorted(set(changes) - {field.name for field in fields(self)})
        if unknown:
            msg = f"unknown settings: {', '.join(unknown)}"
            raise ValueError(msg)
        if "granted_scopes" in changes:
            changes = {**changes, "granted_scopes": tuple(changes["granted_scopes"])}
        return replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Return the settings by name."""
        return asdict(self)
