"""Run the local Zoho as a process: ``python -m zoho_crm.testing.local_zoho --port 0 --seed FILE.json``."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from zoho_crm.testing.local_zoho.server import LOOPBACK, LocalZoho

BANNER = """\
LOCAL ZOHO - an imitation of Zoho CRM for demo and tests. It is not Zoho, and holds no real data.
Accounts and API: {url}   Admin: {url}/_local/state
"""


def main(arguments: list[str] | None = None) -> int:
    """
    Start the local Zoho and serve until the process is stopped.

    :param arguments: the command line without the program's name.
    :return: the exit code.
    """
    options = _parser().parse_args(arguments)
    try:
        zoho = LocalZoho(options.seed, port=options.port, host=options.host, **dict(options.set))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2

    def announce(bound: LocalZoho) -> None:
        sys.stdout.write(BANNER.format(url=bound.url))
        sys.stdout.flush()
        if options.port_file is not None:
            written = options.port_file.with_name(f"{options.port_file.name}.tmp")
            written.write_text(f"{bound.port}\n")
            written.replace(options.port_file)

    with contextlib.suppress(KeyboardInterrupt):
        zoho.serve(announce)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m zoho_crm.testing.local_zoho", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 (the default) takes a free port")
    parser.add_argument("--host", default=LOOPBACK, help=f"only {LOOPBACK} is accepted")
    parser.add_argument("--seed", type=Path, help="a JSON file with records, links, settings, ...")
    parser.add_argument("--port-file", type=Path, help="write the chosen port to this file once it is bound")
    parser.add_argument(
        "--set", type=_setting, action="append", default=[], metavar="NAME=VALUE",
        help="change a setting, such as latency_s=0.05 or already_unlinked=ambiguous; may be repeated",
    )  # fmt: skip
    return parser


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        msg = "a setting has the form NAME=VALUE"
        raise argparse.ArgumentTypeError(msg)
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


if __name__ == "__main__":
    raise SystemExit(main())
