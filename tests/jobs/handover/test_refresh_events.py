"""Events that `refresh` reads: those that `prepare` would keep."""

import pyarrow as pa
import pytest

from jobs.handover.refresh import read_events
from minirec.config.corpus import CorpusConfig
from minirec.errors import CorpusError
from minirec.store.tables import write_table


@pytest.fixture
def corpus(tmp_path):
    """A folder with the tables of a corpus that `read_events` looks at."""
    write_table(tmp_path / "items.parquet", pa.table({"key": ["a", "b"]}))
    for split in ("train", "valid", "test"):
        write_table(tmp_path / f"{split}.parquet", pa.table({"user": ["u1"]}))
    return tmp_path


def settings(**events):
    return CorpusConfig(source="table", path="x", columns={"event": "kind"}, events=events)


def test_events_of_a_dropped_type_are_left_out(corpus, capsys):
    file = corpus / "new.csv"
    file.write_text(
        "user,item,kind,time\n"
        "u1,a,view,1600000000\nu1,b,buy,1600000001\nu2,b,cart,1600000002\nu2,b,wish,1600000003\n"
    )
    config = settings(view="drop", buy="keep", cart=2)
    new = read_events([file], config, corpus)
    assert new.user.to_pylist() == ["u1", "u2"]
    assert new.item.tolist() == [1, 1]
    said = capsys.readouterr().out
    assert "1 view event is dropped (corpus.events)" in said
    assert "1 rows cannot be read" in said and "event type not in corpus.events" in said
    best = config.model_copy(update={"min_rating": 3})
    assert read_events([file], best, corpus).user.to_pylist() == ["u1"]


def test_a_file_with_dropped_events_only(corpus):
    file = corpus / "new.csv"
    file.write_text("user,item,kind,time\nu1,a,view,1600000000\n")
    with pytest.raises(CorpusError, match=r"drops all events \(1 view\)"):
        read_events([file], settings(view="drop", buy="keep"), corpus)
