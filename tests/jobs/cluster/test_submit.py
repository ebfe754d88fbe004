"""What `minirec submit` refuses before it sends anything, and what a job refuses."""

import asyncio
import socket
import threading
import zipfile
from functools import partial

import pytest
from aiohttp import web

import jobs.cluster.submit
from jobs import cli
from jobs.arguments import parse
from jobs.cluster.submit import EXCLUDES, JOB_CONFIG, _packed, check_size, follow, submit
from minirec.errors import ConfigError, MiniRecError

check_command = partial(jobs.cluster.submit.check_command, parse=parse)

NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "run.yaml").write_text("seed: 1\n")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        ("", "nothing to submit"),
        ("run", "run_dir=runs/demo is relative"),
        ("run run_dir=runs/x", "run_dir=runs/x is relative"),
        ("run run_dir=/x selection.buget=3", "did you mean selection.budget"),
        ("train run_dir=runs/x", "run_dir=runs/x is relative"),
        ("run run_dir=/x selection.buget=3 --config configs/run.yaml", "selection.b"),
        ("run --config other.yaml run_dir=/x", "is not a file in the working directory"),
        ("run --config /etc/hosts run_dir=/x", "is not a file in the working directory"),
        (
            "run --config configs/run.yaml run_dir=/x corpus.source=amazon corpus.download=true "
            "corpus.path=data",
            "corpus.path=data is relative",
        ),
        ("select --features f.parquet --out /x", "--features=f.parquet is relative"),
        ("select --features /x/f.parquet", "--out=. is relative"),
        ("select --features /x/f.parquet --out s3://b/x", "not on an object"),
        ("recommend --run runs/x --history A", "--run=runs/x is relative"),
        ("recommend --run /x --users /u --out o", "--out=o is relative"),
        ("export --run /x --to trl --out o", "--out=o is relative"),
        ("export --run /x --to trl --out s3://b/o", "not on an object"),
        ("recommend --run /x --users u.jsonl --out /o", "--users=u.jsonl is"),
        ("serve --run runs/x", "--run=runs/x is relative"),
        ("run run_dir=~/x", "run_dir=~/x: in a job, ~ is the home folder on another"),
        ("run run_dir=/x corpus.path=~/x", "corpus.path=~/x: in a job, ~ is the home"),
        ("serve --run ~/x", "~/x: in a job, ~ is the home"),
        ("serve --run=~/x", "--run=~/x: in a job, ~ is the home"),
    ],
)
def test_a_mistake_is_refused_here(folder, words, refusal):
    with pytest.raises(ConfigError, match=refusal):
        check_command(words.split(), folder)


@pytest.mark.parametrize("run_dir", ["/shared/run", "s3://bucket/run"])
def test_shared_paths_are_accepted(folder, run_dir):
    check_command(["run", "--config", "configs/run.yaml", f"run_dir={run_dir}"], folder)
    check_command(["select", f"run_dir={run_dir}", "--overwrite"], folder)
    check_command(["recommend", "--run", run_dir, "--history", "A"], folder)
    check_command(["select", "--features", "/shared/f.parquet", "--out", "/shared/out"], folder)
    # A users file in the working directory is copied with it.
    users = ["--users", "configs/run.yaml", "--out", "/shared/out.jsonl"]
    check_command(["recommend", "--run", run_dir, *users], folder)


def test_a_job_refuses_a_relative_run_directory(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(JOB_CONFIG, "{}")
    assert cli.main(["run"]) == 2
    assert "run_dir=runs/demo is relative" in capsys.readouterr().err
    assert cli.main(["select", "--features", str(tmp_path / "f.parquet")]) == 2
    assert "--out=. is relative" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_name_of_the_variable_is_that_of_ray():
    from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

    assert JOB_CONFIG == RAY_JOB_CONFIG_JSON_ENV_VAR


def test_a_large_folder_is_refused_with_its_largest_entries(folder):
    (folder / "data").mkdir()
    (folder / ".venv").mkdir()
    (folder / "models").mkdir()
    for name in ("data/a", ".venv/a", "models/a.bin", "kept.log"):
        (folder / name).write_bytes(bytes(2 << 20))
    with pytest.raises(MiniRecError, match=r"has 4 MiB, and Ray accepts 3 \(.*models 2 MiB"):
        check_size(folder, limit_mib=3)
    (folder / ".gitignore").write_text("*.log\n")
    check_size(folder, limit_mib=3)
    (folder / ".rayignore").write_text("models/\n")
    check_size(folder, limit_mib=1)


def test_an_excluded_folder_is_not_entered(folder):
    """A link to itself in .venv would never end."""
    (folder / ".venv" / "lib").mkdir(parents=True)
    (folder / ".venv" / "lib" / "again").symlink_to("..")
    (folder / ".venv" / "large").write_bytes(bytes(2 << 20))
    check_size(folder, limit_mib=1)


def test_ray_packs_what_was_counted(folder):
    """Ray packs the files that `check_size` counts."""
    from ray._private.runtime_env.packaging import create_package

    for name in ("runs/x", "data/x", ".git/x", "build/x", "minirec/data/x", "a/__pycache__/x"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(1000))
    target = folder.parent / f"{folder.name}.zip"
    create_package(str(folder), target, include_gitignore=True, excludes=list(EXCLUDES))
    packed = {name for name in zipfile.ZipFile(target).namelist() if not name.endswith("/")}
    assert {str(path.relative_to(folder)) for path in _packed(folder)} == packed
    assert packed == {"configs/run.yaml", "minirec/data/x"}


def test_a_variable_that_is_not_set_is_refused(folder, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    places = {"address": NOBODY, "working_dir": folder}
    with pytest.raises(ConfigError, match="HF_TOKEN: the variable is not set"):
        submit(["run", "run_dir=/x"], parse=parse, variables=("HF_TOKEN",), **places)


def test_nobody_answers(capsys, folder):
    words = ["submit", "--address", NOBODY, "--working-dir", str(folder)]
    assert cli.main([*words, "--", "run", "run_dir=/x"]) == 1
    assert f"job server at {NOBODY}: Failed to connect" in capsys.readouterr().err
    assert cli.main([*words, "--status", "job"]) == 1


def test_a_server_that_does_not_answer(capsys, monkeypatch):
    monkeypatch.setattr(jobs.cluster.submit, "SILENCE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert cli.main(["submit", "--address", address, "--status", "job"]) == 1
    assert f"job server at {address}" in capsys.readouterr().err


class JobServer:
    """Replaces Ray's job server for one job; the connection of its log breaks if `lost`."""

    def __init__(self):
        self.lost, self.status = False, "RUNNING"
        routes = {
            "/api/version": self.version,
            "/api/jobs/{job}": self.job,
            "/api/jobs/{job}/logs/tail": self.tail,
        }
        app = web.Application()
        app.add_routes([web.get(path, handler) for path, handler in routes.items()])
        self.app, self.ready = app, threading.Event()
        threading.Thread(target=asyncio.run, args=(self.serve(),), daemon=True).start()
        assert self.ready.wait(30)

    async def serve(self):
        self.loop, self.end = asyncio.get_running_loop(), asyncio.Event()
        runner = web.AppRunner(self.app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self.ready.set()
        await self.end.wait()
        await runner.cleanup()

    async def version(self, request):
        return web.json_response({"ray_version": "2.60.0"})

    async def job(self, request):
        name = request.match_info["job"]
        if name != "job1":
            return web.Response(status=404, text=f"Job {name} does not exist")
        details = {"type": "SUBMISSION", "entrypoint": "minirec", "status": self.status}
        return web.json_response(details)

    async def tail(self, request):
        log = web.WebSocketResponse()
        await log.prepare(request)
        await log.send_str("score: 1/20 shards\n")
        if self.lost:
            request.transport.abort()
        await log.close()
        return log


@pytest.fixture
def server():
    running = JobServer()
    yield running
    running.loop.call_soon_threadsafe(running.end.set)


def test_an_unknown_job(server, capsys):
    assert cli.main(["submit", "--address", server.url, "--status", "TYPO"]) == 1
    printed = capsys.readouterr().err
    assert "404: Job TYPO does not exist; `ray job list --address" in printed
    assert cli.main(["submit", "--address", server.url, "--status", "job1"]) == 0
    assert capsys.readouterr().out == "RUNNING\n"


@pytest.mark.parametrize(
    ("lost", "cause"), [(False, "but the job is RUNNING"), (True, "closed unexpectedly")]
)
def test_a_log_that_ends_before_the_job(server, lost, cause):
    server.lost, printed = lost, []
    with pytest.raises(
        MiniRecError, match=rf"{cause}.*--address {server.url} --status\|--logs job1"
    ):
        follow("job1", address=server.url, say=printed.append)
    assert printed == ["score: 1/20 shards\n"]


@pytest.mark.parametrize(("status", "done"), [("SUCCEEDED", True), ("STOPPED", False)])
def test_a_log_that_ends_with_the_job(server, status, done):
    server.status = status
    assert follow("job1", address=server.url, say=print) is done


def test_an_interruption_ends_only_the_view_of_a_job(monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "submit", interrupted)
    assert cli.main(["submit", "--address", NOBODY, "--logs", "x"]) == 130
    assert "the job goes on" in capsys.readouterr().err
