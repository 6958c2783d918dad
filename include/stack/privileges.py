"""Run PostgreSQL as an unprivileged user where everything else runs as root, as in most containers."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from typing import TYPE_CHECKING

from include.stack.processes import StackError

if TYPE_CHECKING:
    from pathlib import Path

_USER = "nobody"

# PostgreSQL refuses to run as root. Below a folder that only root may enter, such as /root, the other user needs this
# one capability to reach its files; opening the folders to everybody instead would last, and be felt elsewhere.
_PASS_ANY_FOLDER = [
    "--securebits=+no_setuid_fixup",
    "--inh-caps=+dac_override",
    "--ambient-caps=+dac_override",
]


def hand_over(folder: Path) -> None:
    """Give a folder and all in it to the user that PostgreSQL runs as."""
    if os.geteuid() != 0:
        return
    user = pwd.getpwnam(_USER)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)


def unprivileged(program: Path, folder: Path) -> list[str]:
    """
    Return the words to put before a command so that it does not run as root; none when nothing here does.

    :param program: a program that must be able to run.
    :param folder: a folder that must be writable; see :func:`hand_over`.
    """
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise StackError(
            "PostgreSQL does not run as root: install setpriv (package util-linux), or be another user."
        )
    user = pwd.getpwnam(_USER)
    become = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    for extra in ([], _PASS_ANY_FOLDER):
        prefix = [setpriv, *extra, *become]
        if _works(prefix, program, folder):
            return prefix
    raise StackError(
        f"The user {_USER} cannot run {program} or write to {folder}: put the project somewhere else."
    )


def _works(prefix: list[str], program: Path, folder: Path) -> bool:
    probe = ["/bin/sh", "-c", '"$1" --version && test -w "$2"', "probe", str(program), str(folder)]
    return subprocess.run([*prefix, *probe], check=False, capture_output=True).returncode == 0  # noqa: S603 - fixed
