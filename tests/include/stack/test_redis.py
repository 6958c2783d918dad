from __future__ import annotations

import shutil
import socket
import stat

import pytest

from include.stack.network import listeners_of
from include.stack.processes import Keeper, StackError
from include.stack.redis import HOW_TO_GET_IT, LocalRedis


def test_says_what_to_install_where_there_is_no_redis(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with Keeper() as keeper, pytest.raises(StackError, match="apt-get install redis-server"):
        LocalRedis(tmp_path / "redis", keeper).start()


@pytest.mark.systems
@pytest.mark.skipif(shutil.which("redis-server") is None, reason=HOW_TO_GET_IT)
def test_answers_on_the_loopback_address_alone_and_only_with_its_password(tmp_path):
    with Keeper() as keeper:
        redis = LocalRedis(tmp_path / "redis", keeper)
        redis.start()
        assert {str(one.address) for one in listeners_of(keeper.living())} == {"127.0.0.1"}
        with socket.create_connection(("127.0.0.1", redis.port), timeout=5) as connection:
            connection.sendall(b"KEYS *\r\n")
            assert connection.recv(100).startswith(b"-NOAUTH")
        settings = tmp_path / "redis" / "redis.conf"
        assert stat.S_IMODE(settings.stat().st_mode) == 0o600
