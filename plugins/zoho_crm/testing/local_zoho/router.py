"""Route a call to its response, in the order of Zoho's checks."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from zoho_crm.testing.local_zoho.access import DELETE, READ, WRITE, grants_scope, scope_name
from zoho_crm.testing.local_zoho.metadata_calls import handle_metadata_call
from zoho_crm.testing.local_zoho.record_calls import handle_record_call
from zoho_crm.testing.local_zoho.related_list_calls import handle_related_list_call
from zoho_crm.testing.local_zoho.wire import RefusedError, Reply, invalid_url, refuse

if TYPE_CHECKING:
    from zoho_crm.testing.local_zoho.access import AccessToken
    from zoho_crm.testing.local_zoho.state import LocalState
    from zoho_crm.testing.local_zoho.wire import Call

VERSIONS = ("v7", "v8")
VERSION_PATTERN = re.compile(r"v\d+(\.\d+)?")
AUTH_PREFIX = "Zoho-oauthtoken "
OPERATIONS = {"GET": READ, "PUT": WRITE, "POST": WRITE, "DELETE": DELETE}


def handle_call(state: LocalState, call: Call) -> Reply:
    """
    Respond to any call except the admin ones.

    API calls are checked in this order: token, limits, scope, version, URL pattern, module and what follows.
    """
    if call.raw_query:
        state.journal.check_query(state.clock(), call)
    if call.segments == ["oauth", "v2", "token"]:
        call.kind = "token"
        if call.method != "POST":
            return invalid_url()
        return state.tokens.respond(
            call, state.settings, state.clock, state.base_url or f"http://{call.host}"
        )
    if call.segments[:1] != ["crm"]:
        return invalid_url()
    try:
        reply = _api(state, call)
    except RefusedError as refused:
        reply = refused.reply
    return reply


def _api(state: LocalState, call: Call) -> Reply:
    now = state.clock()
    token = _authenticate(state, call, now)
    reply = state.limits.refusal(state.settings, now)
    if reply is None:
        try:
            reply = _authorized(state, call, token)
        except RefusedError as refused:
            reply = refused.reply
        reply.headers.append(token.reset_header)
    credits_header = state.limits.header(state.settings, now)
    if credits_header is not None:
        reply.headers.append(credits_header)
    return reply


def _authenticate(state: LocalState, call: Call, now: float) -> AccessToken:
    header = call.authorization or ""
    if not header.startswith(AUTH_PREFIX):
        raise refuse(401, "AUTHENTICATION_FAILURE", "Authentication failed")
    token = state.tokens.find(header.removeprefix(AUTH_PREFIX), now)
    if token is None:
        raise refuse(401, "INVALID_TOKEN", "invalid oauth token")
    return token


def _authorized(state: LocalState, call: Call, token: AccessToken) -> Reply:
    version, path = (call.segments[1:2] or [""])[0], call.segments[2:]
    if not _covered(token, call.method, path):
        raise refuse(401, "OAUTH_SCOPE_MISMATCH", "invalid oauth scope to access this URL")
    if version not in VERSIONS and VERSION_PATTERN.fullmatch(version):
        raise refuse(
            400, "API_NOT_SUPPORTED", "API not supported", {"supported_version": ", ".join(VERSIONS)}
        )
    if version not in VERSIONS or not 1 <= len(path) <= 4 or "" in path or _has_refused_slash(state, call):
        return invalid_url()
    if path[0] in {"settings", "org", "users"}:
        return handle_metadata_call(state, call, path)
    if len(path) <= 2:
        return handle_record_call(state, call, path)
    return handle_related_list_call(state, call, path)


def _has_refused_slash(state: LocalState, call: Call) -> bool:
    return state.settings.encoded_slash == "reject" and "%2f" in call.raw_path.lower()


def _covered(token: AccessToken, method: str, path: list[str]) -> bool:
    """Return whether the token's scopes cover a call; removing contact roles needs both modules' (its page says so)."""
    service = path[0] if path else ""
    if service in {"org", "users"}:
        return grants_scope(token.scopes, service, "", READ)
    if service == "settings":
        return grants_scope(token.scopes, service, (path[1:2] or [""])[0], READ)
    operations = OPERATIONS.get(method, WRITE)
    needed = [service, "Contacts"] if path[2:3] == ["Contact_Roles"] and method == "DELETE" else [service]
    return all(grants_scope(token.scopes, "modules", scope_name(one), operations) for one in needed)
