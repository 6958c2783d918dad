"""
What a response to a relink means. This is the one place that decides it.

Every row below is a row of the test's table. What is not here is as for a delink: see :mod:`zoho_crm.core.verdict`.
After an ambiguous request, a missing record keeps its outcome, as the link does not exist; the detail names that
request.

=========================  ==========================================  =======================================
status                     body                                        verdict
=========================  ==========================================  =======================================
2xx, 207, 4xx with one     ``status: success``, ``code: SUCCESS``       ``relinked`` (2xx and 207 only)
item in ``data[]``
any of those               success that names another external id      verify
any of those               success and error at once, several or no    verify
                           items, no ``data[]``, not JSON, empty
2xx, 207, 4xx              INVALID_DATA naming the parent's field      ``parent_not_found``
2xx, 207, 4xx              INVALID_DATA naming the related field       ``related_not_found``
2xx, 207, 4xx              INVALID_DATA naming an attribute            ``rejected``
2xx, 207, 4xx              INVALID_DATA about module or list           stop the run
2xx, 207, 4xx              any other INVALID_DATA                      verify
2xx, 207, 4xx              MANDATORY_NOT_FOUND of another field        ``rejected``
2xx, 207, 4xx              any other MANDATORY_NOT_FOUND               stop the run: a part of the body was lost
2xx, 207, 4xx              a refusal of this link (RECORD_LOCKED, ..)   ``rejected``
4xx                        scope, permission, module, method, version  stop the run
401                        any other                                   refresh the token, then try again
429, or 400 and 403 with   "24 hours", credits                         stop the run: out of credits
TOO_MANY_REQUESTS          anything else                               later; known not to have been applied
2xx, 207, 4xx              INTERNAL_ERROR, a code not listed           verify
3xx, 5xx, 1xx              anything                                    verify
=========================  ==========================================  =======================================

Sources: https://www.zoho.com/crm/developer/docs/api/v7/update-related-records-ext.html for the call and its errors;
"relation added" and "relation updated" are both successes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from zoho_crm.core.outcomes import Outcome
from zoho_crm.core.verdict import (
    MISSING_OUTCOMES,
    Verdict,
    judge_refusal,
    named_fields,
    parse_clear_item,
    settle,
    stop,
    verify,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from zoho_crm.core.links import Link, Relation
    from zoho_crm.core.response import ClassifiedResponse, ResponseItem

SEEN_GONE_THEN_LINKED = "this run saw it not linked; linked after a request that may have been applied"
LINKED_AND_NOT_SEEN_GONE = "linked; this run did not see it not linked, so it may have been linked before"

MISSING_AFTER_A_REQUEST = "an earlier request may have linked it before the record was gone"


def judge_relink(
    response: ClassifiedResponse,
    *,
    relation: Relation,
    link: Link,
    attributes: Collection[str] = (),
    ambiguous_before: bool = False,
) -> Verdict:
    """
    Judge the response to a relink; see the table above.

    :param relation: the relation of the link; its field names identify the id that an error is about
    :param link: the link that was sent
    :param attributes: names of the attributes that were sent with it
    :param ambiguous_before: whether an earlier request for this link may have been applied
    """
    item = parse_clear_item(response)
    if isinstance(item, Verdict):
        return item
    status, wait_s = response.status, response.retry_after_s
    if not item.says_success:
        verdict = _judge_error(status, item, relation, attributes, wait_s)
        if verdict.outcome in MISSING_OUTCOMES:
            return replace(verdict, detail=detail_of_missing(ambiguous=ambiguous_before))
        return verdict
    named = item.details.get(relation.related_external_field)
    if named is not None and named != link.related_external_id:
        return verify(status, item, "success for another link", wait_s)
    return settle(status, item, Outcome.RELINKED)


def judge_linked(*, ambiguous: bool, seen_gone: bool) -> tuple[Outcome, str]:
    """
    Judge a link that exists.

    :param ambiguous: whether a request for this link may have been applied
    :param seen_gone: whether this run has verified before its last request that the link did not exist
    :return: the outcome, and the detail that says what is known
    """
    if not ambiguous:
        return Outcome.ALREADY_LINKED, "exists already"
    if seen_gone:
        return Outcome.RELINKED, SEEN_GONE_THEN_LINKED
    return Outcome.PRESUMED_RELINKED, LINKED_AND_NOT_SEEN_GONE


def detail_of_missing(*, ambiguous: bool) -> str | None:
    """
    Return what is known about a link of which a record does not exist, beside that; None if nothing is.

    :param ambiguous: whether a request for this link may have been applied, while the record existed
    """
    return MISSING_AFTER_A_REQUEST if ambiguous else None


def _judge_error(
    status: int, item: ResponseItem, relation: Relation, attributes: Collection[str], wait_s: float | None
) -> Verdict:
    named = named_fields(item.details)
    ids = {"data", "id", relation.external_field, relation.related_external_field}
    if item.code == "MANDATORY_NOT_FOUND":
        api_name = item.details.get("api_name")
        if isinstance(api_name, str) and api_name not in ids:
            return settle(status, item, Outcome.REJECTED)
        # The body named the related record: Zoho received less of it than was sent.
        return stop(status, item)
    is_about_attributes = ids.isdisjoint(named) and not named.isdisjoint(attributes)
    if item.code == "INVALID_DATA" and not item.is_about_the_relation and is_about_attributes:
        return settle(status, item, Outcome.REJECTED)
    return judge_refusal(status, item, relation, wait_s)
