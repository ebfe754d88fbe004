"""The log of a training as commands read it, and the note beside the progress bar."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.training_log import LogReader, last_step, read_log
from minirec.errors import ArtifactError
from minirec.store.files import atomic

CHOICE = {"chosen_in_band": 5, "chosen_value": 2, "chosen_unknown": 1, "chosen_nearest": 0}


@pytest.mark.parametrize(
    ("log", "found"),
    [
        ([], (0, "")),
        ([{"step": 0, "reward": 0.25, "loss": 1}], (1, "reward 0.250")),
        ([{"step": 2, "loss": 1.5}], (3, "loss 1.500")),
        (
            [{"step": 0, "reward": 0.25} | CHOICE],
            (1, "reward 0.250, 7 of 8 prompts known to be learnable"),
        ),
        # With staleness 1 the last step chooses nothing: the step before chose its prompts.
        (
            [{"step": 0, "loss": 2} | CHOICE, {"step": 1, "loss": 1}],
            (2, "loss 1.000, 7 of 8 prompts known to be learnable"),
        ),
    ],
)
def test_the_note_says_reward_or_loss_and_what_live_selection_knew(log, found):
    assert last_step(log) == found


def lines(count, reward=0.5):
    return b"".join(
        json.dumps({"step": i, "reward": reward}).encode() + b"\n" for i in range(count)
    )


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        (b"", 0),
        (lines(2), 2),
        (lines(2)[:-1], 2),  # whole, but without its line break
        (lines(3)[:-5], 2),  # torn
        (lines(1)[:3], 0),
    ],
)
def test_a_torn_last_line_is_left_out(tmp_path, text, steps):
    path = tmp_path / "log.jsonl"
    path.write_bytes(text)
    assert [entry["step"] for entry in read_log(path)] == list(range(steps))
    assert read_log(tmp_path / "none.jsonl") == LogReader(tmp_path / "none.jsonl").read() == []


def test_a_line_before_the_last_is_never_left_out(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step"\n' + lines(1))
    for read in (lambda: read_log(path), LogReader(path).read):
        with pytest.raises(ArtifactError, match="log.jsonl is damaged"):
            read()


@given(st.lists(st.integers(1, 40), max_size=12))
def test_a_reader_sees_whole_lines_however_the_file_grows(tmp_path_factory, pieces):
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    text, reader, end = lines(6), LogReader(path), 0
    for piece in pieces:
        with path.open("ab") as file:
            file.write(text[end : end + piece])
        end += piece
        whole = text[:end].count(b"\n")
        assert [entry["step"] for entry in reader.read()] == list(range(whole))


def test_a_reader_starts_again_when_an_attempt_replaces_the_log(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(lines(4) + b'{"st')
    reader = LogReader(path)
    before = reader.read()
    with atomic(path) as file:
        file.write(lines(5, reward=0.75))
    after = reader.read()
    assert [entry["reward"] for entry in after] == [0.75] * 5
    assert len(before) == 4  # an earlier answer stays as it was


def test_a_reader_reads_only_what_is_new(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(lines(2))
    reader = LogReader(path)
    first = reader.read()
    with path.open("r+b") as file:  # what was read before is not looked at again
        file.write(b"x")
        file.seek(0, 2)
        file.write(lines(3).splitlines(keepends=True)[-1])
    assert [entry["step"] for entry in reader.read()] == [0, 1, 2]
    assert first == reader.read()[:2]
