"""Preparing with Ray Data gives the bytes of preparing in one process."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from jobs.corpus import from_files
from minirec.config.corpus import CorpusConfig
from minirec.corpus.events import PART
from minirec.corpus.files import sources
from minirec.corpus.reading import LocalReader
from minirec.errors import CorpusError

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=300_000_000)
    yield
    ray.shutdown()


def shop(folder: Path, *, inline: bool, users: int = 300, bad: int = 20) -> CorpusConfig:
    """Two files of events of which some rows are bad, ids are decimals, and times are days."""
    rng = np.random.default_rng(1)
    folder.mkdir()
    for part in (2, 10):
        rows = ["user,item,rating,time,title"]
        for n in range(3000):
            user, item = rng.integers(users), rng.integers(40)
            day = 20_200_101 + rng.integers(12) * 100 + rng.integers(28)
            rating = "bad" if n < bad else rng.integers(1, 6)
            end = ".0" if part == 2 else ""
            rows.append(f"{user}{end},{item}{end},{rating},{day},Title {item} {n % 50 == 0}")
        (folder / f"part-{part}.csv").write_text("\n".join(rows) + "\n")
    if not inline:
        titles = (json.dumps({"item": n, "title": f"Thing {n}"}) for n in [*range(39), 3])
        (folder / "items.jsonl").write_text("\n".join(titles))
    names = ["part-2.csv", "part-10.csv"]
    for name in names:
        (folder / "events").mkdir(exist_ok=True)
        (folder / name).rename(folder / "events" / name)
    settings = {"max_rejected": 1.0, "k_core": 3, "ratings": "events"}
    return CorpusConfig(source="table", path=str(folder), **settings)


@pytest.mark.parametrize("inline", [False, True])
def test_the_bytes_are_those_of_one_process(cluster, tmp_path, inline):
    from actors.corpus.shuffle import RayReader

    corpus = shop(tmp_path / "shop", inline=inline)
    readers = {
        "here": LocalReader(),
        "one": RayReader(part_bytes=1 << 30),
        "many": RayReader(part_bytes=20_000),
    }
    found = {}
    for name, reader in readers.items():
        located = sources.locate(corpus)
        from_files(located, corpus, tmp_path / name, tmp_path / "rejected", None, reader)
        found[name] = {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}
    assert found["one"] == found["many"] == found["here"]
    summary = json.loads(found["here"]["corpus.json"])
    assert any("decimals such as" in note for note in summary["notes"])
    assert any("read as days" in note for note in summary["notes"])
    assert summary["rejected"]["bad number"] == 40
    if not inline:
        assert summary["rejected"]["duplicate item"] == 1 and "unknown item" in summary["rejected"]


def test_too_many_bad_rows(cluster, tmp_path):
    from actors.corpus.shuffle import RayReader

    corpus = shop(tmp_path / "shop", inline=True, bad=500)
    corpus = corpus.model_copy(update={"max_rejected": 0.01})
    said = []
    for name, reader in (("here", LocalReader()), ("there", RayReader(part_bytes=20_000))):
        with pytest.raises(CorpusError, match="1,000 bad number") as error:
            from_files(
                sources.locate(corpus), corpus, tmp_path / name, tmp_path / "bad", None, reader
            )
        said.append((str(error.value), (tmp_path / "bad").read_bytes()))
        assert not (tmp_path / name).exists()
    assert said[0] == said[1]


def test_a_truncated_file(cluster, tmp_path):
    import gzip

    from actors.corpus.shuffle import RayReader

    corpus = shop(tmp_path / "shop", inline=True)
    plain = tmp_path / "shop" / "events" / "part-10.csv"
    plain.with_suffix(".csv.gz").write_bytes(gzip.compress(plain.read_bytes())[:-20])
    plain.unlink()
    with pytest.raises(CorpusError, match=r"part-10\.csv\.gz is a truncated .gz file"):
        from_files(
            sources.locate(corpus),
            corpus,
            tmp_path / "out",
            tmp_path / "bad",
            None,
            RayReader(part_bytes=20_000),
        )


def test_files_without_rows(cluster, tmp_path):
    """A large catalogue is read with Ray, however few interactions there are."""
    from actors.corpus.shuffle import RayReader

    corpus = shop(tmp_path / "shop", inline=False)
    for file in (tmp_path / "shop" / "events").iterdir():
        file.write_text("user,item,rating,time,title\n")
    reader = RayReader(part_bytes=20_000)
    out, bad = tmp_path / "out", tmp_path / "bad"
    with pytest.raises(CorpusError, match="has a header but no rows"):
        from_files(sources.locate(corpus), corpus, out, bad, None, reader)


def test_spellings_of_one_user_share_a_bucket():
    from actors.corpus.shuffle import buckets

    users = ["1", "1.0", None, "a", "1.00", None]
    empty = {field.name: pa.nulls(6, field.type) for field in PART}
    order = pa.array([5, 6, 7, 8, 9, 10])
    table = pa.table(empty | {"user": users, "order": order}, schema=PART)
    found = buckets(table).tolist()
    assert found[0] == found[1] == found[4] != found[3]
    assert found[2] == 7 and found[5] == 10  # rejected rows are spread
    assert len(buckets(PART.empty_table())) == 0
