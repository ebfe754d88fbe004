"""A full disk gives one sentence that names it, for every library."""

import errno
import os
import pickle

import pytest

from minirec.errors import ArtifactError, DiskError
from minirec.store.disk import full
from minirec.store.files import atomic, atomic_dir, write_json


def no_space(*file):
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *file)


class SafetensorError(Exception):
    """An error of safetensors, which has only the words of the system."""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (no_space(), "the disk of /a/b is full; free some space there"),
        (no_space("/c"), "the disk of /c is full"),
        (no_space("/source", None, "/target"), "the disk of /target is full"),
        (OSError(errno.EDQUOT, "x"), "the disk of /a/b has used up your quota"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "of /a/b is full"),
    ],
)
def test_what_is_said_of_a_full_disk(error, words):
    said = full(error, "/a/b")
    assert words in str(said) and "run the same command again" in str(said)
    assert "None" not in str(said)
    assert str(pickle.loads(pickle.dumps(said))) == str(said), "it comes back from a task of Ray"


def test_other_errors_are_none_of_the_disk():
    for error in (PermissionError(errno.EACCES, "no", "/a"), ValueError("x"), OSError("x")):
        assert full(error, "/a/b") is None


def test_a_writer_names_its_file_and_leaves_nothing(tmp_path):
    said = pytest.raises(DiskError, match=r"the disk of .*/one\.json is full")
    with said, atomic(tmp_path / "one.json"):
        raise no_space()
    said = pytest.raises(DiskError, match="the disk of .*/two is full")
    with said, atomic_dir(tmp_path / "two") as folder:
        write_json(folder / "x.json", 1)
        raise SafetensorError("No space left on device (os error 28)")
    assert not list(tmp_path.iterdir())


def test_a_writer_leaves_other_errors_as_they_are(tmp_path):
    for error in (ArtifactError("No space left on device"), KeyError("x")):
        with pytest.raises(type(error)), atomic(tmp_path / "one.json"):
            raise error


def test_the_device_that_is_always_full():
    """The real error of the system, which does not name a file."""
    with pytest.raises(OSError) as caught, open("/dev/full", "wb") as file:
        file.write(b"x")
        file.flush()
    assert str(full(caught.value, "/runs/a")).startswith("the disk of /runs/a is full")
