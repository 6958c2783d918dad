"""Compare the seals of an audit database with their anchors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoho_crm.anchors.anchor_files import content_of
from zoho_crm.ledger.chain import Finding, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from zoho_crm.anchors.anchor_files import Anchor, AnchorFolder
    from zoho_crm.ledger.finalize import Seal
    from zoho_crm.ledger.ledger import Ledger


def check_anchors(
    ledger: Ledger,
    folder: AnchorFolder,
    *,
    public_key: Ed25519PublicKey | None = None,
    run_key: str | None = None,
) -> Iterator[Finding]:
    """
    Yield where seals and anchors differ.

    :param public_key: every anchor must be signed with its private key; None: signatures are ignored
    :param run_key: compare the seals of this run alone; None: of all runs
    :raises AnchorError: the anchors cannot be read
    """
    # Reports seal and anchor meanwhile: an anchor's seal is in the later reading, and what was sealed after the first
    # may have been anchored too late for this one.
    newest = ledger.finalizer.seals(limit=1)
    anchors = list(folder.read())
    seals = _all_seals(ledger)
    anchored = set()
    for anchor in anchors:
        if run_key not in {None, anchor.run_key}:
            continue
        if anchor.seal_no is not None:
            anchored.add(anchor.seal_no)
        if finding := _finding(anchor, seals, public_key):
            yield finding
    for seal_no, seal in sorted(seals.items()):
        is_old = bool(newest) and seal_no <= newest[0].seal_no
        if is_old and seal_no not in anchored and run_key in {None, seal.run_key}:
            yield Finding(seal.run_key, Kind.UNANCHORED, None, f"seal {seal_no} has no anchor")


def _finding(anchor: Anchor, seals: dict[int, Seal], public_key: Ed25519PublicKey | None) -> Finding | None:
    run_key = anchor.run_key
    if anchor.content is None:
        return Finding(run_key, Kind.BROKEN_ANCHOR, None, f"{anchor.name} is not a readable anchor")
    if anchor.seal_no is None:
        return Finding(run_key, Kind.BROKEN_ANCHOR, None, f"{anchor.name} is not an anchor of that number")
    if public_key and not anchor.is_signed_by(public_key):
        return Finding(run_key, Kind.BROKEN_ANCHOR, None, f"{anchor.name} is not signed with this key")
    seal = seals.get(anchor.seal_no)
    if seal is None:
        why = f"seal {anchor.seal_no} is anchored, and the database does not have it"
        return Finding(run_key, Kind.MISSING, None, why)
    if anchor.content != content_of(seal):
        why = f"seal {anchor.seal_no} differs from its anchor {anchor.name}"
        return Finding(run_key, Kind.BROKEN_SEAL, None, why)
    return None


def _all_seals(ledger: Ledger) -> dict[int, Seal]:
    seals: dict[int, Seal] = {}
    while page := ledger.finalizer.seals(before=min(seals, default=None)):
        seals |= {seal.seal_no: seal for seal in page}
    return seals
