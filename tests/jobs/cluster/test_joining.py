"""Messages for a RAY_ADDRESS without a cluster, and for a Ray that does not start."""

import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from helpers.ports import free_ports

from jobs.cluster import joining
from jobs.cluster.joining import check_cluster, cluster_address, not_started
from minirec.errors import ConfigError, EngineError


@pytest.fixture
def server():
    """Starts a server that sends `answer` to the first client; returns its address."""
    listeners = []

    def start(answer: bytes | None) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve():
            connection, _ = listener.accept()
            with connection:
                if answer is not None:
                    connection.recv(100)
                    connection.sendall(answer)
                else:
                    time.sleep(2)

        threading.Thread(target=serve, daemon=True).start()
        return f"127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for listener in listeners:
        listener.close()


def refusal(address, kind=EngineError):
    with pytest.raises(kind) as error:
        check_cluster(address)
    assert f"RAY_ADDRESS={address}" in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_nobody_listens(scheme):
    words = refusal(f"{scheme}127.0.0.1:{free_ports(1)[0]}")
    assert words.startswith("no Ray cluster answers at") and "Connection refused" in words
    assert "unset RAY_ADDRESS to work on this machine alone" in words


def test_an_unknown_host():
    assert "no Ray cluster answers" in refusal("no-such-host.invalid:6379")


def test_a_silent_server(server, monkeypatch):
    monkeypatch.setattr(joining, "PATIENCE_S", 0.2)
    assert "nothing answered in 0.2 s" in refusal(server(None))


def test_a_server_that_is_not_ray(server):
    assert "maybe it is a dashboard; give the port" in refusal(server(b"HTTP/1.1 400 Bad\r\n\r\n"))
    assert "is not a Ray cluster" in refusal(server(b""))


def test_a_server_that_answers_like_ray(server):
    check_cluster(server(b"\0\0\x12\4\0\0\0\0\0" + b"\0" * 18))


@pytest.mark.parametrize(
    "address", ["http://h:8265", "host", "h:port", "ftp://h:1", "h:99999", ":1"]
)
def test_invalid_addresses(address):
    words = refusal(address, ConfigError)
    assert "write HOST:6379 or ray://HOST:10001" in words
    assert ("minirec submit --address" in words) == address.startswith("http")


def test_addresses_of_this_machine(monkeypatch):
    check_cluster("auto")
    for given, found in ((" ", ""), ("local", ""), ("auto", "auto"), ("h:1", "h:1")):
        monkeypatch.setenv("RAY_ADDRESS", given)
        assert cluster_address() == found


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_sockets_in_a_folder_with_a_long_path(monkeypatch, name):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(name, "/a/long/path")
    words = str(not_started(OSError("AF_UNIX path length cannot exceed 107 bytes: /a/l"), ""))
    assert "the temporary folder /a/long/path, whose path is too long" in words
    assert f"; set {name} to a shorter path such as /tmp" in words


def test_a_version_mismatch_is_one_line():
    error = RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.9.0\n")
    assert str(not_started(error, "h:6379")) == (
        "cannot join the Ray cluster at RAY_ADDRESS=h:6379: Version mismatch: The cluster was "
        "started with: Ray: 2.9.0"
    )


def command(tmp_path, **variables):
    """`minirec prepare` of a table that is too large for one process, so that it needs Ray."""
    rows = "".join(f"u,i{n},{n},Item {n}\n" for n in range(1, 60_000))
    (tmp_path / "e.csv").write_text("user,item,time,title\n" + rows)
    words = ["prepare", "corpus.source=table", f"corpus.path={tmp_path}", f"run_dir={tmp_path}/r"]
    words.append("resources.corpus_mib=1")
    return subprocess.run(
        [sys.executable, "-m", "jobs.cli", *words],
        env={k: v for k, v in os.environ.items() if k != "RAY_TMPDIR"} | variables,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
def test_a_wrong_address_ends_a_command_at_once(tmp_path):
    address = f"127.0.0.1:{free_ports(1)[0]}"
    done = command(tmp_path, RAY_ADDRESS=address)
    assert done.returncode == 1
    assert f"joining the Ray cluster at RAY_ADDRESS={address}" in done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"minirec: no Ray cluster answers at RAY_ADDRESS={address} (")


@pytest.mark.slow
def test_a_temporary_folder_with_a_long_path(tmp_path):
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    done = command(tmp_path, TMPDIR=str(folder), RAY_ADDRESS="")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"in the temporary folder {folder}, whose path is too long" in line
    assert "set TMPDIR to a shorter path such as /tmp" in line
