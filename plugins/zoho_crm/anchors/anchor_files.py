"""
Anchor files: one small JSON file for each seal, in a folder or object store outside of the audit database.

A file is created once and never overwritten. All audits of one folder are of one database: seals have numbers.
"""

from __future__ import annotations

import json
import os
from base64 import b64decode, b64encode
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from zoho_crm.airflow_compat import AirflowNotFoundException
from zoho_crm.errors import AnchorError, ZohoConfigError
from zoho_crm.ledger.chain import canonical, moment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zoho_crm.core.job import Job
    from zoho_crm.ledger.finalize import Seal
    from zoho_crm.ledger.ledger import Ledger

_SIGNATURE = "signature"


@dataclass(frozen=True, slots=True)
class Anchor:
    """
    An anchor file as it was read.

    :param content: what it says about a seal; None if it is not such a file
    :param signature: Ed25519 signature of the content, in Base64; None without one
    """

    name: str
    content: dict[str, Any] | None
    signature: str | None = None

    @property
    def seal_no(self) -> int | None:
        """The seal that both name and content say it is of; None if they say different things."""
        number = self.content.get("seal_no") if self.content else None
        return number if isinstance(number, int) and self.name == file_name(number) else None

    @property
    def run_key(self) -> str:
        """The run that it says it is of; empty if it does not say so."""
        run_key = self.content.get("run_key") if self.content else None
        return run_key if isinstance(run_key, str) else ""

    def is_signed_by(self, key: Ed25519PublicKey) -> bool:
        """Return whether the signature is of this content, and was made with the private key of this one."""
        with suppress(InvalidSignature, RecursionError, TypeError, ValueError):
            key.verify(b64decode(self.signature or ""), canonical(self.content).encode())
            return True
        return False


class AnchorFolder:
    """
    The anchors of one audit database.

    :param url: folder, as Airflow's ``ObjectStoragePath`` reads it, such as ``s3://aws_default@bucket/anchors``
    :param key: signs new anchors; None: they are not signed
    """

    def __init__(self, url: str, key: Ed25519PrivateKey | None = None) -> None:
        self._url = url
        self._key = key

    @classmethod
    def of_job(cls, job: Job) -> AnchorFolder | None:
        """
        Return the folder that a job sets; None if it sets none.

        :raises ZohoConfigError: the key for signatures cannot be used
        """
        if job.audit_anchor is None:
            return None
        conn_id = job.audit_anchor_key_conn_id
        return cls(job.audit_anchor, load_private_key(conn_id) if conn_id else None)

    def check(self) -> None:
        """
        Check that Airflow can open the folder, without reading or writing there.

        :raises ZohoConfigError: no installed provider knows such a folder, or its connection does not exist
        """
        try:
            _ = self._folder().fs
        except (AirflowNotFoundException, ImportError, ValueError) as error:
            raise ZohoConfigError(
                f"audit_anchor: {self._url} cannot be opened ({error}): correct it, or install Airflow's provider"
            ) from error

    def write_missing(self, ledger: Ledger, *, check_all: bool = False) -> int:
        """
        Write the anchors that are missing, oldest first, and return their number.

        :param check_all: look for every seal; False: only back to the newest seal that has an anchor, before which
            none is missing unless it was deleted
        :raises AnchorError: an anchor cannot be written, one of the same number says something else, or a file of its
            name is not readable; the anchors of the other seals are written before the last is raised
        """
        missing: list[Seal] = []
        unreadable: list[str] = []
        for seal in _newest_first(ledger):
            found = self._find(seal)
            if found is None:
                missing.append(seal)
            elif found.content is None:
                unreadable.append(found.name)
            elif not check_all:
                break
        for seal in reversed(missing):
            self._write(seal)
        if unreadable:
            raise self._not_readable(unreadable)
        return len(missing)

    def read(self) -> Iterator[Anchor]:
        """
        Yield all anchors, by name.

        :raises AnchorError: the folder cannot be read
        """
        try:
            for path in sorted(self._folder().iterdir(), key=lambda path: path.name):
                if path.name.endswith(".json"):
                    try:
                        anchor = _read_file(path)
                    except PermissionError:
                        anchor = Anchor(path.name, None)
                    yield anchor
        except Exception as error:
            raise self._fault(error) from error

    def _find(self, seal: Seal) -> Anchor | None:
        """Return the anchor of a seal, without content if it is not readable; None if there is none."""
        name = file_name(seal.seal_no)
        try:
            path = self._folder() / name
            if not path.exists():
                return None
            found = _read_file(path)
        except Exception as error:
            raise self._fault(error) from error
        if found.content not in (None, content_of(seal)):
            raise AnchorError(
                f"{self._url}: {name} is of another seal than seal {seal.seal_no} of run {seal.run_key!r}: the audit "
                "was changed, or another audit database uses the same folder. Nothing was overwritten; run "
                "zoho-delink audit verify --anchor"
            )
        return found

    def _write(self, seal: Seal) -> None:
        content = content_of(seal)
        if self._key:
            signature = self._key.sign(canonical(content).encode())
            content = {**content, _SIGNATURE: b64encode(signature).decode()}
        data = json.dumps(content, indent=1, sort_keys=True).encode()
        try:
            folder = self._folder()
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / file_name(seal.seal_no)
            if _is_local(path):
                _create(Path(path.path), data)
            else:
                # An object is stored whole; not every store can refuse to overwrite one.
                path.write_bytes(data)
        except FileExistsError as error:
            # Another report has just written it, unless a file stands where the folder belongs.
            found = self._find(seal)
            if found is None:
                raise self._fault(error) from error
            if found.content is None:
                raise self._not_readable([found.name]) from error
        except Exception as error:
            raise self._fault(error) from error

    def _folder(self) -> Any:
        from airflow.sdk import ObjectStoragePath

        return ObjectStoragePath(self._url)

    def _fault(self, error: Exception) -> AnchorError:
        return AnchorError(
            f"{self._url}: the anchors cannot be read or written: {type(error).__name__}: {error}"
        )

    def _not_readable(self, names: list[str]) -> AnchorError:
        which = f"{names[0]} is not a readable anchor: move it"
        if len(names) > 1:
            which = f"{', '.join(sorted(names))} are not readable anchors: move them"
        return AnchorError(f"{self._url}: {which} away, then run zoho-delink audit anchor")


def file_name(seal_no: int) -> str:
    """Return the name of the anchor of a seal."""
    return f"seal-{seal_no:010}.json"


def content_of(seal: Seal) -> dict[str, Any]:
    """Return what an anchor says about its seal."""
    return {
        "seal_no": seal.seal_no,
        "run_key": seal.run_key,
        "audit_rows": seal.audit_rows,
        "run_head": seal.run_head,
        "head": seal.head,
        "sealed_at": moment(seal.sealed_at),
    }


def load_private_key(conn_id: str) -> Ed25519PrivateKey:
    """
    Return the Ed25519 key in the password of an Airflow connection, in PEM.

    :raises ZohoConfigError: there is no such connection, or it has no such key
    """
    from airflow.sdk import BaseHook

    try:
        password = BaseHook.get_connection(conn_id).password
    except AirflowNotFoundException:
        raise ZohoConfigError(
            f"audit_anchor_key_conn_id: the connection {conn_id!r} does not exist: create it, with the key as password"
        ) from None
    text = (password or "").replace("\\n", "\n")
    with suppress(TypeError, UnsupportedAlgorithm, ValueError):
        key = load_pem_private_key(text.encode(), password=None)
        if isinstance(key, Ed25519PrivateKey):
            return key
    raise ZohoConfigError(
        f"audit_anchor_key_conn_id: the password of {conn_id!r} is not an Ed25519 key in PEM"
    )


def load_public_key(path: Path) -> Ed25519PublicKey:
    """
    Return the Ed25519 public key of a PEM file.

    :raises ZohoConfigError: it is no such key
    """
    with suppress(OSError, UnsupportedAlgorithm, ValueError):
        key = load_pem_public_key(path.read_bytes())
        if isinstance(key, Ed25519PublicKey):
            return key
    raise ZohoConfigError(f"{path}: not an Ed25519 public key in PEM")


def _newest_first(ledger: Ledger) -> Iterator[Seal]:
    before: int | None = None
    while page := ledger.finalizer.seals(before=before):
        yield from page
        before = page[-1].seal_no


def _is_local(path: Any) -> bool:
    return path.protocol in {"", "file", "local"}


def _create(path: Path, data: bytes) -> None:
    """
    Create a file whole or not at all, also if the process is killed meanwhile.

    :raises FileExistsError: there is one of this name
    """
    unfinished = path.with_name(f"{path.name}.{uuid4().hex}.part")
    try:
        with unfinished.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _read_file(path: Any) -> Anchor:
    """Return what a file says; without content if it is no file, or not readable as an anchor."""
    if _is_local(path) and not Path(path.path).is_file():
        return Anchor(path.name, None)
    with suppress(FileNotFoundError, IsADirectoryError):
        data = path.read_bytes()
        with suppress(RecursionError, ValueError):
            content = json.loads(data)
            if isinstance(content, dict):
                return Anchor(path.name, content, content.pop(_SIGNATURE, None))
    return Anchor(path.name, None)
