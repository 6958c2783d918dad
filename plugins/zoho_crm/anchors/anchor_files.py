"""
Anchor files: one small JSON file for each seal, in a folder or object store outside of the audit database.

A file is created once and never overwritten. All audits of one folder are of one database: seals have numbers.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from zoho_crm.airflow_compat import AirflowNotFoundException
from zoho_crm.errors import AnchorError, ZohoConfigError
from zoho_crm.ledger.chain import canonical, moment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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

    def is_signed_by(self, key: Ed25519PublicKey) -> bool:
        """Return whether the signature is of this content, and was made with the private key of this one."""
        with suppress(InvalidSignature, TypeError, ValueError):
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
        :raises AnchorError: an anchor cannot be written, or one of the same number says something else
        """
        missing: list[Seal] = []
        before: int | None = None
        while page := ledger.finalizer.seals(before=before):
            for seal in page:
                if not self._has(seal):
                    missing.append(seal)
                elif not check_all:
                    page = []
                    break
            if not page:
                break
            before = page[-1].seal_no
        for seal in reversed(missing):
            self._write(seal)
        return len(missing)

    def read(self) -> Iterator[Anchor]:
        """
        Yield all anchors, by name.

        :raises AnchorError: the folder cannot be read
        """
        try:
            for path in sorted(self._folder().iterdir(), key=lambda path: path.name):
                if path.name.endswith(".json"):
                    yield _parse(path.name, path.read_bytes())
        except Exception as error:
            raise self._fault(error) from error

    def _has(self, seal: Seal) -> bool:
        name = file_name(seal.seal_no)
        try:
            path = self._folder() / name
            if not path.exists():
                return False
            found = _parse(name, path.read_bytes())
        except Exception as error:
            raise self._fault(error) from error
        if found.content != content_of(seal):
            raise AnchorError(
                f"{self._url}: {name} is of another seal than seal {seal.seal_no} of run {seal.run_key!r}: the audit "
                "was changed, or another audit database uses the same folder. Nothing was overwritten; run "
                "zoho-delink audit verify --anchor"
            )
        return True

    def _write(self, seal: Seal) -> None:
        content = content_of(seal)
        if self._key:
            signature = self._key.sign(canonical(content).encode())
            content = {**content, _SIGNATURE: b64encode(signature).decode()}
        try:
            folder = self._folder()
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / file_name(seal.seal_no)).open(self._create_mode(folder)) as file:
                file.write(json.dumps(content, indent=1, sort_keys=True).encode())
        except FileExistsError as error:
            # Another report has just written it, unless a file stands where the folder belongs.
            if not self._has(seal):
                raise self._fault(error) from error
        except Exception as error:
            raise self._fault(error) from error

    @staticmethod
    def _create_mode(folder: Any) -> str:
        """Return the mode that creates a file; not every object store can refuse to overwrite one."""
        return "xb" if folder.protocol in {"file", "local"} else "wb"

    def _folder(self) -> Any:
        from airflow.sdk import ObjectStoragePath

        return ObjectStoragePath(self._url)

    def _fault(self, error: Exception) -> AnchorError:
        return AnchorError(
            f"{self._url}: the anchors cannot be read or written: {type(error).__name__}: {error}"
        )


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

    :raises ZohoConfigError: it is no such key
    """
    from airflow.sdk import BaseHook

    text = (BaseHook.get_connection(conn_id).password or "").replace("\\n", "\n")
    with suppress(ValueError, TypeError):
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
    with suppress(ValueError, OSError):
        key = load_pem_public_key(path.read_bytes())
        if isinstance(key, Ed25519PublicKey):
            return key
    raise ZohoConfigError(f"{path}: not an Ed25519 public key in PEM")


def _parse(name: str, data: bytes) -> Anchor:
    with suppress(RecursionError, ValueError):
        content = json.loads(data)
        if isinstance(content, dict):
            return Anchor(name, content, content.pop(_SIGNATURE, None))
    return Anchor(name, None)
