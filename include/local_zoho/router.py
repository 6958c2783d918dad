"""From a call to its answer, in the order of Zoho's checks."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from include.local_zoho import answers, metadata, records, related, scopes
from include.local_zoho.wire import RefusedError, Reply

if TYPE_CHECKING:
    from include.local_zoho.oauth import AccessToken
    from include.local_zoho.state import LocalState
    from include.local_zoho.wire import Call

VERSIONS = ("v7", "v8")
VERSION_PATTERN = re.compile(r"v\d+(\.\d+)?")
AUTH_PREFIX = "Zoho-oauthtoken "
OPERATIONS = {"GET": scopes.READ, "PUT": scopes.WRITE, "POST": scopes.WRITE, "DELETE": scopes.DELETE}


def answer(state: LocalState, call: Call) -> Reply:
    """
    Answer any call but the admin ones.

    API calls are checked in this order: token, limits, scope, version, URL pattern, module and what follows.
    """
    if call.raw_query:
        state.journal.check_query(state.clock(), call)
    if call.segments == ["oauth", "v2", "token"]:
        call.kind = "token"
        if call.method != "POST":
            return answers.invalid_url()
        return state.tokens.answer(call, state.settings, state.clock, state.base_url or f"http://{call.host}")
    if call.segments[:1] != ["crm"]:
        return answers.invalid_url()
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
        raise answers.refuse(401, "AUTHENTICATION_FAILURE", "Authentication failed")
    token = state.tokens.find(header.removeprefix(AUTH_PREFIX), now)
    if token is None:
        raise answers.refuse(401, "INVALID_TOKEN", "invalid oauth token")
    return token


def _authorized(state: LocalState, call: Call, token: AccessToken) -> Reply:
    version, path = (call.segments[1:2] or [""])[0], call.segments[2:]
    if not _covered(token, call.method, path):
        raise answers.refuse(401, "OAUTH_SCOPE_MISMATCH", "invalid oauth scope to access this URL")
    if version not in VERSIONS and VERSION_PATTERN.fullmatch(version):
        raise answers.refuse(
            400, "API_NOT_SUPPORTED", "API not supported", {"supported_version": ", ".join(VERSIONS)}
        )
    if version not in VERSIONS or not 1 <= len(path) <= 4 or "" in path or _has_refused_slash(state, call):
        return answers.invalid_url()
    if path[0] in {"settings", "org", "users"}:
        return metadata.answer(state, call, path)
    if len(path) <= 2:
        return records.answer(state, call, path)
    return related.answer(state, call, path)


def _has_refused_slash(state: LocalState, call: Call) -> bool:
    return state.settings.encoded_slash == "reject" and "%2f" in call.raw_path.lower()


def _covered(token: AccessToken, method: str, path: list[str]) -> bool:
    """Say whether the token's scopes cover a call; removing contact roles needs both modules' (its page says so)."""
    service = path[0] if path else ""
    if service in {"org", "users"}:
        return scopes.grants(token.scopes, service, "", scopes.READ)
    if service == "settings":
        return scopes.grants(token.scopes, service, (path[1:2] or [""])[0], scopes.READ)
    operations = OPERATIONS.get(method, scopes.WRITE)
    needed = [service, "Contacts"] if path[2:3] == ["Contact_Roles"] and method == "DELETE" else [service]
    return all(scopes.grants(token.scopes, "modules", scopes.scope_name(one), operations) for one in needed)
