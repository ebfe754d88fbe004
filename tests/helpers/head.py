"""A Ray cluster of one node with token authentication, as docs/cluster.md starts it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from helpers.marked import MARK, marked
from helpers.ports import free_ports

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@dataclass
class Head:
    """Addresses and environment of the cluster, and its process."""

    url: str
    gcs: str
    environment: dict[str, str]
    process: subprocess.Popen[bytes]

    def command(self, *words: str, timeout: float = 400) -> str:
        """Output of a command of the venv that must succeed."""
        done = subprocess.run(
            [str(BIN / words[0]), *words[1:]],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def submit(self, *words: str) -> str:
        """`ray job submit` of a minirec command; returns the id at once."""
        job = f"test_{secrets.token_hex(4)}"
        options = ["--address", self.url, "--working-dir", ".", "--submission-id", job, "--no-wait"]
        self.command("ray", "job", "submit", *options, "--", "minirec", *words)
        return job

    def status(self, job: str) -> str:
        """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
        return str(self._get(f"/api/jobs/{job}")["status"])

    def log(self, job: str) -> str:
        """What the job has printed."""
        return str(self._get(f"/api/jobs/{job}/logs")["logs"])

    def stop(self, job: str) -> None:
        """What `ray job stop` asks the job server for; the command itself takes seconds to load."""
        self._get(f"/api/jobs/{job}/stop", method="POST")

    def placement_groups(self) -> list[str]:
        """States of the placement groups that are not removed."""
        answer = self._get("/api/v0/placement_groups?limit=100")
        groups = answer["data"]["result"]["result"]
        return [group["state"] for group in groups if group["state"] != "REMOVED"]

    def processes(self, *titles: str) -> list[psutil.Process]:
        """Processes of the cluster and its jobs whose title holds one of the words.

        Also those that have lost their parent.
        """
        found = []
        for process in marked(self.environment[MARK]):
            try:
                if any(title in " ".join(process.cmdline()) for title in titles):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def _get(self, path: str, method: str = "GET") -> dict:
        token = Path(self.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
        request = urllib.request.Request(
            self.url + path, method=method, headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


@contextmanager
def running_head(folder: Path, *, cpus: int = 8) -> Iterator[Head]:
    """Start it with ports of its own; end it by SIGKILL to all that it started."""
    gcs, dashboard, agent, client = free_ports(4)
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    short = tempfile.mkdtemp(prefix="mr", dir="/tmp")  # sockets have short names
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "OMP_NUM_THREADS": "1",
        MARK: secrets.token_hex(16),
    }
    environment.pop("PYTHONPATH", None)  # a job must find its code by itself
    options = {
        "node-ip-address": "127.0.0.1",
        "port": gcs,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": agent,
        "ray-client-server-port": client,
        "num-cpus": cpus,
        "object-store-memory": 200 << 20,
        "temp-dir": short,
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen(
            [str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats", *words],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    head = Head(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", environment, process)
    try:
        _wait_until_it_answers(head, folder / "head.log")
        yield head
    finally:
        # Ray's own way to the end takes up to half a minute, and nothing here is kept.
        for each in (started := marked(environment[MARK])):
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait(timeout=60)
        psutil.wait_procs(started, timeout=30)
        shutil.rmtree(short, ignore_errors=True)


def _wait_until_it_answers(head: Head, log: Path) -> None:
    deadline = time.monotonic() + 90
    while True:
        assert head.process.poll() is None, log.read_text()[-3000:]
        try:
            head._get("/api/jobs/")
            return
        except OSError:
            assert time.monotonic() < deadline, "the head did not answer within 90 s"
            time.sleep(0.5)
