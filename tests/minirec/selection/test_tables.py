"""Features from tables: every format gives the same features; errors are one sentence."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minirec.errors import ArtifactError, MiniRecError
from minirec.selection.features import Features
from minirec.selection.readers import COLUMNS
from minirec.selection.tables import read_features

ROWS = {
    "sample_id": [7, 3, 5],
    "rewards": [[0.0, 0.5], [1.0, 0.0], [0.25, 0.75]],
    "ndcg": [[0.0, 0.4], [1.0, 0.2], [0.3, 0.3]],
    "el2n": [0.5, 1.5, 2.5],
    "embedding": [[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]],
    "gradient": [[1.0], [0.0], [2.0]],
    "hvp": [[1.0, 1.0], [0.0, 0.0], [2.0, 0.0]],
    "user": ["a", "b", "c"],
}


def write(folder: Path, columns: dict, suffix: str) -> Path:
    path = folder / f"table{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    elif suffix == ".npz":
        np.savez(path, **columns)
    else:
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".npz"])
def test_vectors_that_are_not_asked_for_are_not_read(tmp_path, suffix):
    columns = {name: values for name, values in ROWS.items() if name != "user"}
    found = read_features(write(tmp_path, columns, suffix), vectors=["hvp"])
    assert found.embedding is found.gradient is None
    assert found.hvp.tolist() == [[0, 0], [2, 0], [1, 1]]


def refused(path: Path) -> str:
    with pytest.raises(ArtifactError, match=str(path)) as caught:
        read_features(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".npz"])
def test_every_format_gives_the_same_features(tmp_path, suffix):
    found = read_features(write(tmp_path, ROWS, suffix), chance=0.35)
    assert found.sample_id.tolist() == [3, 5, 7]
    assert found.mean_reward.tolist() == [0.5, 0.5, 0.25]
    assert found.mean_ndcg == pytest.approx([0.6, 0.3, 0.2])
    assert found.rollouts.tolist() == [2, 2, 2]
    assert found.hits.tolist() == [1, 0, 1]
    assert found.screened.tolist() == [False] * 3
    assert found.el2n.tolist() == [1.5, 2.5, 0.5]
    assert found.embedding.tolist() == [[0, 2], [3, 4], [1, 0]]
    assert found.gradient.tolist() == [[0], [2], [1]]
    assert found.hvp.tolist() == [[0, 0], [2, 0], [1, 1]]


@pytest.mark.parametrize("name", ["rewards", "reward", "mean_reward", "ndcg"])
@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".npz"])
def test_a_number_counts_as_one_rollout(tmp_path, suffix, name):
    found = read_features(write(tmp_path, {"sample_id": [1, 2], name: [0.0, 1]}, suffix))
    assert found.mean_reward.tolist() == [0, 1]
    assert (found.hits.tolist(), found.rollouts.tolist()) == ([0, 1], [1, 1])
    assert found.embedding is None and found.hvp is None
    assert (found.mean_ndcg is None) == (name != "ndcg")


def test_counts_may_stand_beside_a_mean(tmp_path):
    columns = {"sample_id": [1, 2], "reward": [0.5, 0.1], "hits": [3, 0], "rollouts": [4, 8]}
    found = read_features(write(tmp_path, columns, ".jsonl"))
    assert (found.hits.tolist(), found.rollouts.tolist()) == ([3, 0], [4, 8])


def test_lists_of_several_lengths_and_screened_samples(tmp_path):
    columns = {
        "sample_id": [1, 2, 3, 4],
        "rewards": [[0.5, 0.7, 0.1, 0.3], [], [0.2, 0.4], [0.6, 0.8]],
        "ndcg": [[0.5, 0.7, 0.1, 0.3], [], [0.2, 0.4], [0.5, 0.5]],
        "screened": [False, True, False, True],  # the last one is a control, which has rollouts
        "screen_reward": [None, 0.05, None, 0.9],
        "screen_ndcg": [None, 0.04, None, 0.9],
    }
    for suffix in (".parquet", ".jsonl"):
        found = read_features(write(tmp_path, columns, suffix), chance=0.25)
        assert found.rollouts.tolist() == [4, 0, 2, 2]
        assert found.mean_reward == pytest.approx([0.4, 0.05, 0.3, 0.7])
        assert found.mean_ndcg == pytest.approx([0.4, 0.04, 0.3, 0.5])
        assert found.hits.tolist() == [3, 0, 1, 2]
        assert found.screened.tolist() == [False, True, False, False]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".npz", ".PARQUET", ".ndjson"])
def test_ids_that_a_tool_has_made_floats(tmp_path, suffix):
    ids = [3.0, -1.0, 2.0**53 - 1]
    written = write(tmp_path, ids_and(sample_id=ids), suffix.lower())
    path = written.rename(tmp_path / f"ids{suffix}")
    assert read_features(path).sample_id.tolist() == [-1, 3, 9007199254740991]


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (np.array([1, 2**53], np.float64), "row 1, column sample_id: 9007199254740992.0; expected"),
        (np.array([1, 2**24], np.float32), "a whole number, as float32 below 2^24"),
        (np.array([1, np.nan]), "row 1, column sample_id: nan; expected a whole number"),
        (np.array([1, np.inf]), "row 1, column sample_id: inf; expected a whole number"),
        (np.array([1, 2**63], np.uint64), "9223372036854775808; expected a whole number of 64"),
    ],
)
def test_ids_that_are_not_exact(tmp_path, ids, words):
    assert words in refused(write(tmp_path, ids_and(sample_id=ids), ".npz"))


def test_one_row_per_rollout_is_an_error_that_explains_grouping(tmp_path):
    said = refused(write(tmp_path, ids_and(sample_id=[1, 1, 2, 2]), ".jsonl"))
    assert "sample 1 occurs twice; expected each id once" in said
    assert "group the rows by sample_id and make rewards a list" in said


def test_what_is_no_part_of_a_folder(tmp_path):
    write(tmp_path, ROWS, ".parquet").rename(tmp_path / "part-0.PARQUET")
    for name in ("._part-0.parquet", "_metadata.parquet", ".part-1.parquet.crc"):
        (tmp_path / name).write_bytes(b"no table")
    assert read_features(tmp_path).sample_id.tolist() == [3, 5, 7]


def test_a_folder_of_parts_and_a_validation_gradient(tmp_path):
    table = pa.table(ROWS)
    for number, part in enumerate((table.slice(1), table.slice(0, 1))):
        pq.write_table(part, tmp_path / f"part-{number}.parquet")
    assert read_features(tmp_path).sample_id.tolist() == [3, 5, 7]
    path = write(tmp_path, ROWS | {"validation_gradient": [2.0]}, ".npz")
    assert read_features(path).validation_gradient.tolist() == [2]


def test_features_hold_their_order(tmp_path):
    ids, zeros = np.array([1, 1]), np.zeros(2)
    with pytest.raises(ValueError, match="sample_id row 1 is 1"):
        Features(ids, zeros, ids, ids, zeros > 0)
    with pytest.raises(ValueError, match="el2n has 3 rows; expected 2"):
        Features(np.arange(2), zeros, ids, ids, zeros > 0, el2n=np.zeros(3))


def ids_and(**columns) -> dict:
    count = len(next(iter(columns.values())))
    return {"sample_id": list(range(count)), "reward": [0.5] * count} | columns


BAD = [
    (ids_and(sample_id=[1, 2, 1]), "row 2, column sample_id: sample 1 occurs twice"),
    (ids_and(sample_id=[0.5, 1.0]), "row 0, column sample_id: 0.5; expected a whole number"),
    ({"reward": [0.5]}, "column sample_id is missing"),
    ({"sample_id": [1]}, "has none of the columns rewards, reward, mean_reward, ndcg"),
    (ids_and(reward=[0.1, float("nan")]), "row 1, column reward: nan; expected a finite"),
    (ids_and(reward=[0.1, float("inf")]), "row 1, column reward: inf; expected a finite"),
    (ids_and(reward=[0.1, 1e31]), "row 1, column reward: 1e+31; expected a finite"),
    (ids_and(rewards=[[0.1], [float("nan")]]), "row 1, column rewards: nan; expected finite"),
    (ids_and(embedding=[[1.0], [0.0]]), "row 1, column embedding: a vector of length 0"),
    (ids_and(hvp=[[1.0], [float("nan")]]), "row 1, column hvp: nan; expected finite"),
    (ids_and(embedding=[1.0, 2.0]), "column embedding holds numbers; expected a list"),
    (ids_and(hits=[0, 2]), "row 1, column hits: 2; expected at most its 1 rollouts"),
    (ids_and(hits=[0, -1]), "row 1, column hits: -1; expected a whole number"),
    (ids_and(hits=[[0], [1]]), "column hits holds lists; expected a number per row"),
    (ids_and(rollouts=[4, 0]), "row 1, column rollouts: none; expected 1 rollout or more"),
]


def shown_as(message: str, suffix: str) -> str:
    if suffix != ".jsonl":
        return message
    return (
        message.replace("row 2,", "line 3,").replace("row 1,", "line 2,").replace("row 0", "line 1")
    )


@pytest.mark.parametrize(("columns", "message"), BAD, ids=[message for _, message in BAD])
@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".npz"])
def test_bad_tables_are_refused_in_one_sentence(tmp_path, suffix, columns, message):
    path = write(tmp_path, columns, suffix)
    with pytest.raises(ArtifactError) as caught:
        read_features(path)
    assert str(caught.value).startswith(str(path))
    assert shown_as(message, suffix) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (ids_and(embedding=[[1.0], [1.0, 2.0]]), "column embedding: 2 numbers; expected 1, as in"),
        (ids_and(gradient=[[], [1.0]]), "column gradient: 0 numbers; expected 1 or more"),
        (
            ids_and(rewards=[[0.1], [0.2]], ndcg=[[0.1], [0.2, 0.3]]),
            "column ndcg: 2 rollouts and 1 in rewards; expected the same",
        ),
        (ids_and(rewards=[[0.1], []]), "column rewards: none; expected 1 rollout or more"),
        (
            ids_and(rewards=[[0.1], []], screened=[False, True]),
            "column screen_reward: missing; expected a number",
        ),
    ],
)
@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_ragged_columns_are_refused(tmp_path, suffix, columns, message):
    with pytest.raises(ArtifactError, match=message):
        read_features(write(tmp_path, columns, suffix))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"sample_id": 1, "reward": 1}\n\n{"sample_id": 2', "line 3 is not JSON"),
        ("[1, 2]", "line 1 is a list; expected an object"),
        ("", "is empty"),
        ('{"sample_id": 1, "reward": 1}\n{"reward": 1}', "line 2, column sample_id: missing"),
        ('{"sample_id": "x", "reward": 1}', "line 1, column sample_id: 'x'; expected a number"),
        ('{"sample_id": 1, "reward": true}', "line 1, column reward: True; expected a number"),
        ('{"sample_id": 1, "reward": [[1]]}', "line 1, column reward: a list; expected a number"),
        ('{"sample_id": 1, "reward": null}', "line 1, column reward: nan; expected a finite"),
        ('{"sample_id": 1e99, "reward": 1}', "line 1, column sample_id: 1e+99"),
        (f'{{"sample_id": {2**63}, "reward": 1}}', "column sample_id: 9223372036854775808"),
        ("[" * 100_000, "line 1 is not JSON"),
        ("\xff", "line 1 is not JSON"),
    ],
)
def test_bad_lines_are_named(tmp_path, text, message):
    path = tmp_path / "table.jsonl"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ArtifactError) as caught:
        read_features(path)
    assert message in str(caught.value)


def test_bad_files_are_named(tmp_path):
    assert "does not exist" in refused(tmp_path / "none.parquet")
    assert "holds no .parquet file" in refused(tmp_path)
    (tmp_path / "table.csv").write_text("sample_id,reward\n1,2\n")
    assert "ends in '.csv'; expected .parquet, .jsonl, .ndjson, .npz or a folder" in refused(
        tmp_path / "table.csv"
    )
    for suffix in (".parquet", ".npz"):
        whole = write(tmp_path, ROWS, suffix).read_bytes()
        for damaged in (b"", b"x" * 30, whole[: len(whole) // 2], whole[:100] + whole[140:]):
            (tmp_path / f"bad{suffix}").write_bytes(damaged)
            assert "cannot be read as" in refused(tmp_path / f"bad{suffix}")
    strings = write(tmp_path, ids_and(el2n=["a", "b"]), ".parquet")
    assert "column el2n holds string; expected numbers" in refused(strings)
    objects = tmp_path / "objects.npz"
    np.savez(objects, sample_id=np.array([1, "a"], dtype=object), reward=np.ones(2))
    assert "cannot be read as NPZ" in refused(objects)
    np.savez(objects, sample_id=np.arange(3), reward=np.ones(2))
    assert "array reward has 2 rows and sample_id 3" in refused(objects)


def test_parts_that_do_not_fit_are_refused(tmp_path):
    first, second = tmp_path / "part-0.parquet", tmp_path / "part-1.parquet"
    pq.write_table(pa.table({"sample_id": [1, 2], "reward": [0.1, 0.2]}), first)
    pq.write_table(pa.table({"sample_id": [3, 2], "reward": [0.1, 0.2]}), second)
    with pytest.raises(ArtifactError, match=f"{second} row 1, column sample_id: sample 2 occurs"):
        read_features(tmp_path)
    pq.write_table(pa.table({"sample_id": [3], "reward": [0.1], "el2n": [0.2]}), second)
    with pytest.raises(ArtifactError, match="differ: only one has el2n"):
        read_features(tmp_path)


numbers = st.one_of(st.integers(), st.floats(), st.floats(0, 1), st.integers(0, 9))
values = st.one_of(
    numbers,
    st.lists(numbers, max_size=3),
    st.none(),
    st.booleans(),
    st.text(max_size=3),
    st.lists(st.one_of(st.text(max_size=2), st.none(), st.lists(numbers, max_size=1)), max_size=2),
    st.dictionaries(st.text(max_size=2), numbers, max_size=1),
)
anything = st.one_of(st.dictionaries(st.sampled_from(COLUMNS), values), values)
pair = st.lists(st.floats(-9, 9, width=16), min_size=2, max_size=2)
PLAUSIBLE = {
    "rewards": pair,
    "ndcg": st.one_of(pair, st.floats(0, 1)),
    "hits": st.integers(0, 2),
    "rollouts": st.integers(1, 4),
    "el2n": st.floats(0, 2),
    "screened": st.booleans(),
    "embedding": pair,
    "gradient": pair,
}


@st.composite
def tables(draw) -> list[str]:
    """Lines with the same columns, sometimes with other content between them."""
    names = draw(st.sets(st.sampled_from(sorted(PLAUSIBLE)), max_size=3))
    row = st.fixed_dictionaries(
        {"sample_id": st.integers(0, 99), "reward": st.floats(0, 1)}
        | {name: PLAUSIBLE[name] for name in sorted(names)}
    )
    lines = draw(st.lists(row, min_size=1, max_size=4))
    if draw(st.booleans()):
        lines[0] |= draw(st.dictionaries(st.sampled_from(COLUMNS), values, max_size=1))
    return [json.dumps(line) for line in lines]


free = st.lists(st.one_of(anything.map(json.dumps), st.text(max_size=8)), max_size=4)


@settings(max_examples=150)
@given(st.one_of(tables(), free))
@example(['{"sample_id": 0, "reward": 0, "hits": 1e400}'])
@example(['{"sample_id": 0, "reward": 0, "screen_ndcg": 1e999, "screened": 2}'])
def test_any_lines_are_features_or_one_sentence(lines):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.jsonl"
        path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
        try:
            found = read_features(path)
        except MiniRecError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            return
    assert (np.diff(found.sample_id) > 0).all()
    assert np.isfinite(found.mean_reward).all()
    assert (found.hits <= found.rollouts).all() and (found.hits >= 0).all()
    assert found.embedding is None or np.isfinite(found.embedding).all()
