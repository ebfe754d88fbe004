"""One command at a time in a run directory, local or on an object store."""

import json
import multiprocessing
import time

import pytest
from botocore.exceptions import ClientError

from minirec.errors import ArtifactError
from minirec.store import files, lease, remote
from minirec.store.remote import located


def test_one_command_holds_a_run(place):
    with (
        lease.held(place, lost=pytest.fail),
        pytest.raises(ArtifactError, match="another minirec command works in"),
        lease.held(place, lost=pytest.fail),
    ):
        pass
    with lease.held(place, lost=pytest.fail):
        pass


def lease_of_another(folder, **changes):
    other = lease._lease(host="elsewhere", user="somebody", pid=7, **changes)
    files.write_json(located(folder) / ".lock" / "000000004", other)


def test_a_folder_of_which_nothing_came_is_removed(tmp_path):
    old, typo, new = (tmp_path / name for name in ("old", "typo", "new"))
    old.mkdir()
    for folder in (old, typo, new):
        with pytest.raises(ValueError), lease.held(folder, lost=pytest.fail):
            if folder == new:
                (folder / "corpus").mkdir()
            raise ValueError
    assert old.is_dir() and (new / "corpus").is_dir()
    assert not typo.exists()


def test_a_lease_of_another_machine_is_said_and_taken_over_when_it_expires(bucket_folder):
    lease_of_another(bucket_folder, since=0.0, expires=time.time() + 100)
    said = r"somebody on elsewhere, process 7, since 1970-01-01 00:00:00 UTC; .*until \d+-"
    with pytest.raises(ArtifactError, match=said), lease.held(located(bucket_folder), lost=print):
        pass
    lease_of_another(bucket_folder, expires=time.time() - 1)
    with lease.held(located(bucket_folder), lost=pytest.fail):
        assert sorted(remote.files(located(bucket_folder) / ".lock")) == ["000000005"]


def test_a_lease_is_renewed_and_its_loss_noticed(bucket_folder, monkeypatch):
    monkeypatch.setattr(lease, "RENEWAL_S", 0.05)
    lost = []
    with lease.held(located(bucket_folder), lost=lost.append):
        (mine,) = (located(bucket_folder) / ".lock").glob("*")

        def expires():
            # Read in one request: s3fs fails if a lease is renewed between two requests.
            return json.loads(mine.fs.cat_file(mine.path))["expires"]

        before = expires()
        wait(lambda: expires() > before)
        files.write_json(mine.parent / "999999999", {})
        wait(lambda: lost)
    assert lost == [f"another minirec command has taken over {bucket_folder}"]


def test_a_lease_that_cannot_be_renewed_is_given_up(bucket_folder, monkeypatch):
    monkeypatch.setattr(lease, "RENEWAL_S", 0.05)
    monkeypatch.setattr(lease, "EXPIRY_S", 0.5)

    def fail(path, value):
        raise OSError("the store does not answer")

    lost = []
    with lease.held(located(bucket_folder), lost=lost.append):
        monkeypatch.setattr(lease, "write_json", fail)
        wait(lambda: lost)
    assert lost == [
        f"{bucket_folder} could not be reached for 0.5 s, so another command may take over"
    ]


def wait(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def lease_of_a_dead_process(folder, **changes):
    process = multiprocessing.get_context("spawn").Process(target=int)
    process.start()
    process.join()
    mine = lease._lease(pid=process.pid, **changes)
    files.write_json(located(folder) / ".lock" / "000000001", mine)


def test_a_dead_process_of_this_machine_holds_nothing(bucket_folder):
    lease_of_a_dead_process(bucket_folder)
    with lease.held(located(bucket_folder), lost=pytest.fail):
        pass


@pytest.mark.parametrize("other", [{"boot": "another"}, {"pid_namespace": "pid:[1]"}])
def test_a_pid_of_another_container_with_this_hostname_says_nothing(bucket_folder, other):
    lease_of_a_dead_process(bucket_folder, **other)
    with (
        pytest.raises(ArtifactError, match="another minirec command works in"),
        lease.held(located(bucket_folder), lost=pytest.fail),
    ):
        pass


def test_only_one_command_creates_a_number(bucket_folder):
    path = located(bucket_folder) / ".lock" / "000000001"
    assert [lease._create(path, {}), lease._create(path, {})] == [True, False]


@pytest.mark.parametrize(
    ("code", "lost"), [("ConditionalRequestConflict", True), ("NoSuchKey", False)]
)
def test_a_refusal_is_recognised_by_the_code_of_the_store(bucket_folder, monkeypatch, code, lost):
    path = located(bucket_folder) / ".lock" / "000000001"

    def refuse(*args, **kwargs):
        raise OSError("refused") from ClientError({"Error": {"Code": code}}, "PutObject")

    monkeypatch.setattr(path.fs, "pipe_file", refuse)
    if lost:
        assert lease._create(path, {}) is False
    else:
        with pytest.raises(OSError, match="refused"):
            lease._create(path, {})


@pytest.mark.slow
def test_a_lease_that_may_not_be_read_is_not_taken_over(bucket_folder, gate):
    lease_of_another(bucket_folder, expires=time.time() - 1)
    gate.refuse("GET", r"\.lock/000000004$")
    with (
        pytest.raises(ArtifactError, match="000000004: the store denies access"),
        lease.held(located(bucket_folder), lost=pytest.fail),
    ):
        pass
