"""A new stage: declare it, and add it to `STAGES`."""

import json
from collections import Counter

import pytest

from jobs import cli, run
from jobs.stage import Stage, Work
from minirec.corpus.table import load_users
from minirec.store.files import write_json

SMALL = ["corpus.demo.users=20", "corpus.demo.items=20", "corpus.demo.tastes=2"]


def count_samples_per_user(work: Work) -> None:
    users = load_users(work.run.path("corpus"), "train").tolist()
    most = Counter(users).most_common(work.config.selection.groups)
    write_json(work.run.path("users.json"), {str(user): count for user, count in most})
    work.run.say(f"users: {len(most)} users with the most samples")


USERS = Stage(
    name="users",
    help="count the samples of the most active users",
    inputs=lambda config: ["prepare"],
    outputs=("users.json",),
    settings=lambda run, config: {"groups": config.selection.groups},
    body=count_samples_per_user,
)


@pytest.fixture
def minirec(tmp_path, monkeypatch, capsys):
    """A function that runs a command in a small prepared run and returns its status and output."""
    monkeypatch.setattr(run, "STAGES", (*run.STAGES, USERS))

    def command(name: str, *words: str) -> tuple[int, str]:
        status = cli.main([name, f"run_dir={tmp_path}", *SMALL, *words])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    assert command("prepare")[0] == 0
    return command


def test_it_has_a_command_runs_is_skipped_and_refuses_other_settings(minirec, tmp_path):
    assert "users: 3 users" in minirec("users", "selection.groups=3")[1]
    found = json.loads((tmp_path / "users.json").read_text())
    assert len(found) == 3 and min(found.values()) > 0
    status, printed = minirec("users", "selection.groups=3")
    assert status == 0 and "users: finished before, skipped" in printed
    status, printed = minirec("users", "selection.groups=2")
    assert status == 1 and "stage users" in printed and "was made with groups=3" in printed
    assert minirec("users", "selection.groups=2", "--overwrite")[0] == 0
    assert len(json.loads((tmp_path / "users.json").read_text())) == 2


def test_its_help_is_listed(capsys, monkeypatch):
    monkeypatch.setattr(run, "STAGES", (*run.STAGES, USERS))
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    assert USERS.help in capsys.readouterr().out


def test_the_stages_before_it_are_compared_with_the_settings(minirec):
    status, printed = minirec("users", "corpus.demo.users=21")
    assert status == 1 and "stage prepare" in printed
    assert "give these settings to `minirec prepare --overwrite` first" in printed
