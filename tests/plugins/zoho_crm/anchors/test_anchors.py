"""Each row of the table of attacks in docs/audit-proof.md: what finds it, and what does not."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.support.databases import set_connection
from tests.support.ledger import MOMENT, RUN, drive, pairs, planned
from tests.support.operators import make_job
from zoho_crm.anchors.anchor_check import check_anchors
from zoho_crm.anchors.anchor_files import Anchor, AnchorFolder, load_private_key, load_public_key
from zoho_crm.core.outcomes import RunEventKind
from zoho_crm.errors import AnchorError, ZohoConfigError
from zoho_crm.ledger import tables
from zoho_crm.ledger.audit import change_run
from zoho_crm.ledger.chain import pseudonym
from zoho_crm.ledger.ledger import Ledger
from zoho_crm.operators.report import anchor_seals

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
"""Airflow looks for the file systems of providers, and with them for ignored files of its bundles."""

PAGE = (Path(__file__).parents[4] / "docs" / "audit-proof.md").read_text(encoding="utf-8")
KEY, OTHER_KEY = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
LAST = "the last run"
AUDIT, EVENTS, RUNS, LINKS, SEALS = tables.audit, tables.run_events, tables.runs, tables.links, tables.seals
OF_RUNS = (AUDIT, EVENTS, LINKS, tables.chunks, SEALS, RUNS)


def write_runs(path: Path, *, links: int = 4) -> Ledger:
    """Return the ledger of two finished and sealed runs."""
    ledger = Ledger(sa.create_engine(f"sqlite:///{path}"))
    ledger.ensure_schema()
    for run_key in (RUN, LAST):
        add_run(ledger, run_key, links=links)
    return ledger


def add_run(ledger: Ledger, run_key: str, *, links: int = 4) -> None:
    planned(ledger, pairs(links), run_key=run_key)
    drive(ledger, run_key=run_key)
    ledger.runs.finish(run_key, status="succeeded", detail=None, finished_at=MOMENT)
    ledger.finalizer.seal(run_key)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = write_runs(tmp_path / "ledger.db")
    yield ledger
    ledger.close()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "anchors" / "of this database"


@pytest.fixture
def folder(ledger: Ledger, place: Path) -> AnchorFolder:
    """Signed anchors of all seals."""
    folder = AnchorFolder(place.as_uri().replace("%20", " "), KEY)
    assert folder.write_missing(ledger) == 2
    return folder


def change(ledger: Ledger, *statements: sa.Executable) -> None:
    with ledger.engine.begin() as connection:
        for statement in statements:
            connection.execute(statement)


def found(ledger: Ledger, folder: AnchorFolder) -> dict[str, list[str]]:
    """Return the kinds of findings of the chain, of chain and anchors, and with signatures as well."""
    chain = [str(each.kind) for each in ledger.chain.verify()]
    anchors = [str(each.kind) for each in check_anchors(ledger, folder)]
    signed = [str(each.kind) for each in check_anchors(ledger, folder, public_key=KEY.public_key())]
    return {"chain": chain, "anchor": anchors, "signature": signed}


def assert_found_first_by(what: str, ledger: Ledger, folder: AnchorFolder) -> None:
    by = found(ledger, folder)
    names = ["chain", "anchor", "signature"]
    first = next((name for name in names if by[name]), "nothing")
    assert first == what, by


def rows_of_table() -> dict[str, str]:
    """Return what finds each attack, by the attack, as the page says it."""
    table = PAGE[PAGE.index("| attack |") :].split("\n\n")[0]
    rows = re.findall(r"^\| (.*?) \| (.*?) \|$", table, re.MULTILINE)
    return dict(rows[1:])


TABLE = rows_of_table()


def test_untouched_audit_has_no_findings(ledger: Ledger, folder: AnchorFolder) -> None:
    assert found(ledger, folder) == {"chain": [], "anchor": [], "signature": []}


@pytest.mark.parametrize(
    ("attack", "statement"),
    [
        ("an audit row is changed, removed or added", sa.update(AUDIT).values(outcome="already_absent")),
        ("an audit row is changed, removed or added", sa.delete(AUDIT).where(AUDIT.c.seq == 3)),
        ("an event is changed, removed or added", sa.update(EVENTS).values(kind="failed")),
        ("an event is changed, removed or added", sa.delete(EVENTS).where(EVENTS.c.event_no == 2)),
        ("the row of a run is changed, such as its approver", sa.update(RUNS).values(approved_by="ada")),
        ("an earlier run is removed whole", None),
        ("the newest run is removed whole, with its seal", None),
        ("all tables are emptied", None),
        (
            "a text is replaced by its own SHA-256, as retention does",
            sa.update(AUDIT).where(AUDIT.c.external_id == "c-00000").values(external_id=pseudonym("c-00000")),
        ),
        ("the plan is changed after it was worked on", sa.update(LINKS).values(external_id="x")),
    ],
)
def test_attack_is_found_by_what_the_page_says(
    ledger: Ledger, folder: AnchorFolder, attack: str, statement: sa.Executable | None
) -> None:
    if statement is not None:
        change(ledger, statement)
    elif attack == "all tables are emptied":
        change(ledger, *(sa.delete(table) for table in OF_RUNS))
    else:
        key = LAST if "newest" in attack else RUN
        change(ledger, *(sa.delete(table).where(table.c.run_key == key) for table in OF_RUNS))

    assert_found_first_by(TABLE[attack], ledger, folder)


@pytest.mark.parametrize("forged", ["decision", "run"])
def test_invention_is_found_until_a_report_anchors_it(
    ledger: Ledger, folder: AnchorFolder, forged: str
) -> None:
    if forged == "run":
        add_run(ledger, "a run that never happened")
    else:
        with ledger.engine.begin() as connection:
            values = {"approval": "approved", "approved_by": "ada"}
            change_run(connection, LAST, RunEventKind.APPROVAL_DECIDED, values, now=MOMENT)
        ledger.finalizer.seal(LAST)
    assert_found_first_by(
        TABLE["a decision or a whole run is invented, with its hashes and a seal"], ledger, folder
    )

    add_run(ledger, "the next run")
    folder.write_missing(ledger)
    assert_found_first_by(TABLE["the same, once the next report has anchored it"], ledger, folder)


def test_rewritten_database_is_found_by_its_anchors(
    ledger: Ledger, folder: AnchorFolder, tmp_path: Path
) -> None:
    rewritten = write_runs(tmp_path / "rewritten.db", links=3)
    assert_found_first_by(TABLE["the whole database is rewritten, with all hashes"], rewritten, folder)
    with pytest.raises(AnchorError, match=r"seal-0000000002\.json is of another seal than seal 2 of run"):
        folder.write_missing(rewritten)
    rewritten.close()


def test_rewritten_anchors_are_found_by_their_signatures(
    ledger: Ledger, folder: AnchorFolder, place: Path, tmp_path: Path
) -> None:
    rewritten = write_runs(tmp_path / "rewritten.db", links=3)
    for path in place.iterdir():
        path.unlink()
    AnchorFolder(f"file://{place}", OTHER_KEY).write_missing(rewritten)

    assert_found_first_by(TABLE["database and anchors are rewritten"], rewritten, folder)
    rewritten.close()


def test_removed_and_broken_anchors_are_found(ledger: Ledger, folder: AnchorFolder, place: Path) -> None:
    first, second = sorted(place.iterdir())
    first.unlink()
    assert_found_first_by(TABLE["an anchor is removed or changed"], ledger, folder)
    assert folder.write_missing(ledger) == 0
    assert folder.write_missing(ledger, check_all=True) == 1

    second.write_text(json.dumps(json.loads(second.read_text()) | {"head": "0" * 64}))
    assert found(ledger, folder)["anchor"] == ["broken_seal"]
    second.write_text("[]")
    assert found(ledger, folder)["anchor"] == ["broken_anchor", "unanchored"]


def test_anchors_of_an_outage_are_written_by_the_next_report(ledger: Ledger, place: Path) -> None:
    blocked = place.parent
    blocked.write_text("a file where the folder belongs")
    job = make_job(audit_anchor=f"file://{place}")

    fault = anchor_seals(ledger, job)
    assert fault is not None
    assert "the anchors cannot be read or written" in fault

    blocked.unlink()
    assert anchor_seals(ledger, job) is None
    assert sorted(path.name for path in place.iterdir()) == ["seal-0000000001.json", "seal-0000000002.json"]
    assert anchor_seals(ledger, job) is None
    assert anchor_seals(ledger, make_job()) is None


def test_killed_writer_leaves_no_anchor_and_the_next_report_writes_it(
    ledger: Ledger, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = AnchorFolder(f"file://{place}")
    with monkeypatch.context() as patch:
        patch.setattr("zoho_crm.anchors.anchor_files.os.fsync", kill)
        with pytest.raises(KeyboardInterrupt):
            folder.write_missing(ledger)
    assert list(place.glob("*.json")) == []

    assert folder.write_missing(ledger) == 2
    assert list(check_anchors(ledger, folder)) == []
    assert len(list(place.iterdir())) == 2


def kill(_: int) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "data", ["", '{"seal_no": 1', "[" * 100_000, None], ids=["empty", "half", "deep", "a folder"]
)
def test_file_that_is_not_readable_does_not_block_the_other_anchors(
    ledger: Ledger, place: Path, data: str | None
) -> None:
    place.mkdir(parents=True)
    bad = place / "seal-0000000001.json"
    if data is None:
        bad.mkdir()
    else:
        bad.write_text(data)
    folder = AnchorFolder(f"file://{place}")

    with pytest.raises(
        AnchorError, match=r"seal-0000000001\.json is not a readable anchor: move it away, then"
    ):
        folder.write_missing(ledger)

    found = [(finding.kind, finding.detail) for finding in check_anchors(ledger, folder)]
    assert found == [
        ("broken_anchor", "seal-0000000001.json is not a readable anchor"),
        ("unanchored", "seal 1 has no anchor"),
    ]
    bad.rename(place / "moved away")
    assert folder.write_missing(ledger, check_all=True) == 1
    assert list(check_anchors(ledger, folder)) == []


def test_concurrent_reports_anchor_all_seals(tmp_path: Path, place: Path) -> None:
    ledger = write_runs(tmp_path / "many.db", links=1)
    folder = AnchorFolder(f"file://{place}", KEY)

    def report(thread: int) -> None:
        for number in range(8):
            add_run(ledger, f"run {thread}.{number}", links=1)
            folder.write_missing(ledger)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(report, range(4)))

    assert list(check_anchors(ledger, folder, public_key=KEY.public_key())) == []
    ledger.close()


@pytest.mark.parametrize(
    "content",
    [
        '{"seal_no": 9, "signature": 7}',
        '{"seal_no": 9, "run_key": ' + "[" * 900 + "]" * 900 + "}",
        '{"seal_no": 9, "run_key": ' + "[" * 50_000 + "]" * 50_000 + "}",
        '{"seal_no": 9, "run_key": "\\ud800"}',
        None,
    ],
    ids=["signature", "nested", "deep", "surrogate", "a folder"],
)
def test_hostile_file_is_a_finding_and_hides_no_other(
    ledger: Ledger, folder: AnchorFolder, place: Path, content: str | None
) -> None:
    bad = place / "seal-0000000009.json"
    if content is None:
        bad.mkdir()
    else:
        bad.write_text(content)
    (place / "seal-0000000001.json").unlink()

    for key in (None, KEY.public_key()):
        kinds = [finding.kind for finding in check_anchors(ledger, folder, public_key=key)]
        assert kinds in (["broken_anchor", "unanchored"], ["missing", "unanchored"])


def test_report_during_the_check_is_not_a_finding(
    ledger: Ledger, folder: AnchorFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = AnchorFolder.read

    def read_between_reports(self: AnchorFolder) -> Iterator[Anchor]:
        add_run(ledger, "before the folder is read")
        folder.write_missing(ledger)
        found = list(read(self))
        add_run(ledger, "after the folder was read")
        folder.write_missing(ledger)
        yield from found

    monkeypatch.setattr(AnchorFolder, "read", read_between_reports)

    assert list(check_anchors(ledger, folder)) == []


def test_report_names_a_key_that_does_not_exist(ledger: Ledger, place: Path) -> None:
    job = make_job(audit_anchor=f"file://{place}", audit_anchor_key_conn_id="no_such_connection")

    fault = anchor_seals(ledger, job)

    assert fault is not None
    assert "audit_anchor_key_conn_id: the connection 'no_such_connection' does not exist" in fault


def test_nothing_that_anchoring_raises_keeps_a_report_from_notifying(
    ledger: Ledger, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise RuntimeError("the secrets backend or the database is away")

    monkeypatch.setattr(AnchorFolder, "write_missing", unreachable)

    fault = anchor_seals(ledger, make_job(audit_anchor=f"file://{place}"))

    assert fault == "RuntimeError; the log of report has the reason"


def test_keys_are_read_from_a_connection_and_a_file(
    ledger: Ledger, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    set_connection(monkeypatch, "anchor_key", conn_type="generic", password=pem)
    set_connection(monkeypatch, "no_key", conn_type="generic", password="no key")
    public = tmp_path / "public.pem"
    public.write_bytes(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    job = make_job(audit_anchor=f"file://{place}", audit_anchor_key_conn_id="anchor_key")
    assert anchor_seals(ledger, job) is None

    folder = AnchorFolder(f"file://{place}")
    assert list(check_anchors(ledger, folder, public_key=load_public_key(public))) == []
    with pytest.raises(ZohoConfigError, match="the password of 'no_key' is not an Ed25519 key in PEM"):
        load_private_key("no_key")
    with pytest.raises(ZohoConfigError, match="not an Ed25519 public key in PEM"):
        load_public_key(place / "seal-0000000001.json")
