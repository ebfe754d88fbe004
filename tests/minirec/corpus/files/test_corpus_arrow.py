"""Arrow and Parquet files as record batches."""

import json

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from helpers.small_corpora import read

from minirec.corpus.files.arrow import column_names, record_batches
from minirec.errors import CorpusError

ROWS = pa.table({"a": list(range(10)), "b": [f"t{n}" for n in range(10)], "c": [None] * 10})


def write(path, table=ROWS, *, kind):
    """Write a file of one kind in batches of four rows; returns its format."""
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=4)
        return "parquet"
    if kind == "feather":
        pyarrow.feather.write_feather(table, str(path), compression="lz4", chunksize=4)
        return "arrow"
    make = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
    with make(str(path), table.schema) as out:
        out.write_table(table, max_chunksize=4)
    return "arrow"


KINDS = pytest.mark.parametrize("kind", ["parquet", "stream", "file", "feather"])


@KINDS
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_batches_hold_all_rows_in_order(tmp_path, kind, rows):
    format = write(tmp_path / "x", kind=kind)
    assert column_names(tmp_path / "x", format) == ("a", "b", "c")
    batches = [*record_batches(tmp_path / "x", format, columns=["b", "a", "absent"], rows=rows)]
    assert all(0 < len(batch) <= rows for batch in batches)
    assert pa.Table.from_batches(batches).to_pylist() == ROWS.select(["a", "b"]).to_pylist()


@KINDS
def test_labels_have_the_names_in_the_schema(tmp_path, kind):
    features = {"k": {"_type": "ClassLabel", "names": ["view", "buy"]}, "a": {"_type": "Value"}}
    known = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    table = pa.table({"k": [1, 0, -1, 2, None], "a": [1, 0, -1, 2, None]})
    format = write(tmp_path / "x", table.replace_schema_metadata(known), kind=kind)
    batches = [*record_batches(tmp_path / "x", format, columns=["k", "a"], rows=9)]
    found = pa.Table.from_batches(batches)
    assert found["k"].to_pylist() == ["buy", "view", None, None, None]
    assert found["a"].to_pylist() == table["a"].to_pylist()


@pytest.mark.parametrize("known", [b"no JSON", b"[]", b'{"info": null}', b'{"info": {"x": 1}}'])
def test_schemas_of_other_programs(tmp_path, known):
    table = ROWS.replace_schema_metadata({b"huggingface": known})
    format = write(tmp_path / "x", table, kind="stream")
    (batch, *_) = record_batches(tmp_path / "x", format, columns=["a"], rows=9)
    assert batch["a"].to_pylist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("raw", "words"),
    [(b"", "x.arrow is empty"), (b"no arrow at all", "x.arrow is not Arrow"), (b"ARROW1", "not A")],
)
def test_files_that_are_not_arrow(tmp_path, raw, words):
    (tmp_path / "x.arrow").write_bytes(raw)
    with pytest.raises(CorpusError) as error:
        read(source="table", path=str(tmp_path))
    assert words in str(error.value) and "give a whole Arrow file" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["stream", "file"])
def test_a_truncated_arrow_file(tmp_path, kind):
    table = pa.table(
        {
            "user": [f"u{n}" for n in range(1000)],
            "item": ["i"] * 1000,
            "time": [1_600_000_000] * 1000,
            "title": ["T"] * 1000,
        }
    )
    write(tmp_path / "x.arrow", table, kind=kind)
    raw = (tmp_path / "x.arrow").read_bytes()
    (tmp_path / "x.arrow").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(CorpusError, match=r"x\.arrow is (damaged|not Arrow)"):
        read(source="table", path=str(tmp_path))


@pytest.mark.parametrize("ending", ["arrow", "feather"])
def test_arrow_files_of_a_folder_are_tables(tmp_path, ending):
    stamps = pa.array([1_600_000_000_000, 1_600_000_001_000], pa.timestamp("ms"))
    table = pa.table({"user": ["u", "v"], "item": [1.0, 2.0], "time": stamps, "title": ["A", "B"]})
    write(tmp_path / f"shop.{ending}", table, kind="feather")
    got = read(source="table", path=str(tmp_path))
    assert got.keys == ["1", "2"]
    assert got.events.time.tolist() == [1_600_000_000_000, 1_600_000_001_000]
    assert len(got.rejected) == 0
