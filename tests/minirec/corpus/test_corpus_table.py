"""Samples read row group by row group, against the whole table."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from minirec.corpus.table import SampleFile, count_samples, load_samples, load_users
from minirec.errors import ArtifactError
from minirec.store.tables import write_table

COUNT = 11


@pytest.fixture
def corpus(tmp_path):
    table = pa.table(
        {
            "sample_id": [10 + 2 * row for row in range(COUNT)],
            "history": [[row, row + 1] for row in range(COUNT)],
            "target": [100 + row for row in range(COUNT)],
        }
    )
    pq.write_table(table, tmp_path / "train.parquet", row_group_size=4)
    return tmp_path


def targets(samples):
    return [sample.target - 100 for sample in samples]


@pytest.mark.parametrize("rows", [[], [0], [3, 4], [0, 5, 10], range(2, 9), range(COUNT)])
def test_rows_across_groups(corpus, rows):
    samples = SampleFile(corpus, "train")
    assert targets(samples.take(rows)) == list(rows)
    assert samples.ids(rows) == [10 + 2 * row for row in rows]


def test_all_samples(corpus):
    assert count_samples(corpus, "train") == COUNT
    found = load_samples(corpus, "train")
    assert targets(found) == list(range(COUNT))
    assert found[3].sample_id == 16 and found[3].history == [3, 4]


def test_items_of_the_same_time_are_excluded_with_the_history(tmp_path):
    columns = {"sample_id": [0, 1], "history": [[4], [5, 6]], "target": [1, 2]}
    pq.write_table(pa.table(columns), tmp_path / "valid.parquet")
    assert [s.excluded for s in load_samples(tmp_path, "valid")] == [[4], [5, 6]]
    table = pa.table(columns).append_column("same_time", pa.array([[7, 8], []]))
    pq.write_table(table, tmp_path / "test.parquet")
    found = load_samples(tmp_path, "test")
    assert [s.history for s in found] == [[4], [5, 6]]
    assert [s.excluded for s in found] == [[4, 7, 8], [5, 6]]


def test_users_are_coded_in_file_order(tmp_path):
    write_table(tmp_path / "valid.parquet", pa.table({"user": ["b", "a", "b", "c"]}))
    assert load_users(tmp_path, "valid").tolist() == [0, 1, 0, 2]


def test_samples_by_id_come_in_file_order(corpus):
    assert targets(SampleFile(corpus, "train").find({30, 12, 18})) == [1, 4, 10]


def test_an_unknown_sample_is_named(corpus):
    with pytest.raises(ArtifactError, match="lacks sample 11"):
        SampleFile(corpus, "train").find([10, 11])


def test_a_missing_split_is_named(corpus):
    with pytest.raises(ArtifactError, match="valid.parquet is missing"):
        SampleFile(corpus, "valid")
