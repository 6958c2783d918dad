from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from zoho_crm.testing.local_zoho import LocalZoho
from zoho_crm.testing.local_zoho.__main__ import main

ROOT = Path(__file__).resolve().parents[3]


def get_json(port: int, path: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def test_refuses_every_address_but_loopback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"127\.0\.0\.1 only"):
        LocalZoho(host="localhost.example")
    assert main(["--host", "10.0.0.1"]) == 2
    assert "127.0.0.1 only" in capsys.readouterr().err


@pytest.mark.parametrize("settings", [{"nothing": 1}, {"already_unlinked": "maybe"}])
def test_refuses_bad_settings(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="setting"):
        LocalZoho(**settings)


def test_unknown_key_in_a_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="recordz"):
        LocalZoho({"recordz": {}})


def test_seed_adds_modules_of_its_own() -> None:
    module = {
        "api_name": "Boats",
        "fields": [{"api_name": "Boat_No", "external": "org"}],
        "related_lists": [{"api_name": "Crew", "module": "Contacts", "relation": "Boats_Contacts"}],
    }
    state = LocalZoho({"modules": [module]}).state

    state.link("Boats", "b-1", "Crew", "c-1")

    assert state.links("Boats", "Crew") == {("b-1", "c-1")}
    assert "Deals" in state.crm.modules


def test_leaves_no_port_and_no_thread_behind_even_with_a_hanging_request() -> None:
    threads = {thread.name for thread in threading.enumerate()}
    with LocalZoho() as zoho:
        zoho.state.faults.add(do="hang", seconds=600)
        hanging = socket.create_connection((zoho.host, zoho.port))
        hanging.sendall(b"GET /crm/v7/org HTTP/1.1\r\nHost: x\r\n\r\n")
        deadline = time.monotonic() + 5
        while not zoho.state.limits.in_flight:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    with hanging, pytest.raises(ConnectionResetError):
        hanging.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((zoho.host, zoho.port))
    assert {thread.name for thread in threading.enumerate()} <= threads


def test_latency_and_jitter_delay_responses_after_the_work(both: str) -> None:
    with LocalZoho(latency_s=0.05, jitter_s=0.01) as zoho:
        began = time.monotonic()
        connection = http.client.HTTPConnection(zoho.host, zoho.port, timeout=10)
        connection.request(
            "GET", "/crm/v7/org", headers={"Authorization": f"Zoho-oauthtoken {zoho.state.issue_token()}"}
        )
        assert connection.getresponse().status == 200
        connection.close()
        assert time.monotonic() - began >= 0.05


def test_external_values_are_unique_strings() -> None:
    state = LocalZoho({"records": {"Contacts": [{"External_Contact_ID": 7, "id": 12}]}}).state

    assert state.crm.external_id("Contacts", "External_Contact_ID", "7") == "12"
    for record in ({"External_Contact_ID": "7"}, {"id": "12"}):
        with pytest.raises(ValueError, match="already"):
            state.add_record("Contacts", record, record_id=record.get("id"))
    assert state.crm.count("Contacts") == 1


def test_runs_as_a_process(tmp_path: Path) -> None:
    seed, port_file = tmp_path / "seed.json", tmp_path / "port"
    seed.write_text(
        json.dumps({"links": [{"module": "Contacts", "related_list": "Deals", "pairs": [["c", "d"]]}]})
    )
    command = [
        sys.executable,
        "-m",
        "zoho_crm.testing.local_zoho",
        "--seed",
        str(seed),
        "--port-file",
        str(port_file),
    ]
    with subprocess.Popen(
        [*command, "--set", "edition=free"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            banner = process.stdout.readline() + process.stdout.readline()
            deadline = time.monotonic() + 10
            while not port_file.exists():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            port = int(port_file.read_text())
            state = get_json(port, "/_local/state")
            config = get_json(port, "/_local/config")
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    assert "imitation" in banner
    assert f"http://127.0.0.1:{port}" in banner
    assert state["links"][0]["external_id"] == "c"
    assert config["edition"] == "free"
