"""`prepare` end to end."""

import errno
import json
import os
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers.paths import SHARED

from jobs.cluster.task import in_task
from jobs.stages import prepare as stage
from minirec.config.reading import load
from minirec.config.run import Config
from minirec.corpus.schema import ITEMS, REJECTED, SAMPLES, TRUTH
from minirec.errors import ArtifactError, CorpusError, EngineError
from minirec.store.run import Run

DATA = SHARED / "data"
SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    started = not ray.is_initialized()
    if started:
        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=300_000_000)
    yield
    if started:
        ray.shutdown()


class RayIsThere:
    """A session for tests: the fixture has started Ray, or the demo needs none."""

    def start_ray(self):
        pass

    def wait_for_room(self, bundles):
        pass


def prepare(run, config):
    return stage.PREPARE.run(run, config, RayIsThere())


def tables(run: Run) -> dict:
    return {p.stem: pq.read_table(p) for p in run.path("corpus").glob("*.parquet")}


def test_demo(tmp_path):
    said: list[str] = []
    run = Run(tmp_path / "run", say=said.append)
    assert prepare(run, load())
    got = tables(run)
    assert got.keys() == {"items", *SPLITS, "rejected", "truth"}
    assert said[1] == "prepare: No sample shares its time with another event of its user."
    assert got["items"].schema == ITEMS and got["truth"].schema == TRUTH
    assert all(got[name].schema == SAMPLES for name in SPLITS)
    assert got["items"]["item_id"].to_pylist() == list(range(len(got["items"])))
    ids = [i for name in SPLITS for i in got[name]["sample_id"].to_pylist()]
    assert ids == list(range(len(ids))) == got["truth"]["sample_id"].to_pylist()
    summary = json.loads(run.path("corpus", "corpus.json").read_text())
    assert summary["samples"] == {name: len(got[name]) for name in SPLITS}
    assert summary["category"] == "hobbies" and summary["notes"] == []
    times = [t for name in SPLITS for row in got[name].to_pylist() for t in row["history_time"]]
    times += [t for name in SPLITS for t in got[name]["time"].to_pylist()]
    days = [str(datetime.fromtimestamp(t / 1000, UTC).date()) for t in (min(times), max(times))]
    assert [summary["first_day"], summary["last_day"]] == days
    assert f"items from {days[0]} to {days[1]}; samples" in said[0]
    # Trivial targets are bestsellers, so the labels belong to the right samples.
    titles = got["items"]["title"].to_pylist()
    labels = got["truth"]["label"].to_pylist()
    for row in got["test"].to_pylist():
        if labels[row["sample_id"]] == "trivial":
            assert titles[row["target"]].startswith("Bestseller")
    assert f"{len(got['train']):,} train" in said[0]
    assert not prepare(run, load())
    assert said[2].startswith("prepare: Of the references without training, shortcut")
    assert summary["shortcuts"]["samples"] == len(got["valid"])
    assert said[3] == "prepare: finished before, skipped"


def test_demo_is_the_same_byte_for_byte(tmp_path):
    one, two = Run(tmp_path / "one"), Run(tmp_path / "two")
    for run in (one, two):
        prepare(run, load())
    for path in one.path("corpus").iterdir():
        assert path.read_bytes() == two.path("corpus", path.name).read_bytes()


def test_download_needs_a_category(tmp_path):
    config = load(None, ["corpus.source=amazon", f"corpus.path={tmp_path}", "corpus.download=true"])
    with pytest.raises(CorpusError, match="corpus.category"):
        prepare(Run(tmp_path / "run"), config)


def test_dates_on_the_command_line(tmp_path):
    run = Run(tmp_path / "run", say=lambda _: None)
    prepare(run, load(None, ["corpus.start=2022-07-01", "corpus.end=2023-07-01"]))
    train = pq.read_table(run.path("corpus", "train.parquet"))
    assert min(train["time"].to_pylist()) >= 1_656_633_600_000
    with pytest.raises(CorpusError, match="no event between corpus.start=2030-01-01"):
        prepare(Run(tmp_path / "none"), load(None, ["corpus.start=2030-01-01"]))


def shop(folder: Path, *, bad: int) -> Config:
    """Settings for 300 events of 60 users in two files, with `bad` malformed rows."""
    folder.mkdir()
    for part in range(2):
        rows = ["user_id,parent_asin,rating,timestamp"]
        for n in range(part, 300, 2):
            rating = "bad" if n < bad else 1 + n % 5
            rows.append(f"u{n % 60},i{(n * 7) % 50},{rating},{1_500_000_000_000 + n * 1000}")
        (folder / f"part{part}.csv").write_text("\n".join(rows) + "\n")
    items = (json.dumps({"parent_asin": f"i{n}", "title": f"Thing {n}"}) for n in range(50))
    (folder / "meta.jsonl").write_text("\n".join(items))
    return load(None, ["corpus.source=amazon", f"corpus.path={folder}"])


def test_files(tmp_path):
    config = shop(tmp_path / "shop", bad=3)
    runs = [Run(tmp_path / name) for name in ("one", "two")]
    for run in runs:
        prepare(run, config)
    got = tables(runs[0])
    assert "truth" not in got
    assert sum(len(got[name]) for name in SPLITS) == 297 - 60
    rejected = got["rejected"]
    assert rejected.schema == REJECTED
    assert [(Path(r["file"]).name, r["line"]) for r in rejected.to_pylist()] == [
        ("part0.csv", 2),
        ("part0.csv", 3),
        ("part1.csv", 2),
    ]
    for path in runs[0].path("corpus").iterdir():
        assert path.read_bytes() == runs[1].path("corpus", path.name).read_bytes()


def test_assumptions_about_the_rows_are_reported(tmp_path):
    days = [f"202301{day:02d}" for day in range(10, 20)]
    rows = [f"{user}.0,{n % 5},{day}" for user in (1, 2) for n, day in enumerate(days)]
    (tmp_path / "events.csv").write_text("\n".join(["user,item,time", *rows, rows[0]]))
    (tmp_path / "items.csv").write_text(
        "item,title\n" + "".join(f"{n},Item {n}\n" for n in range(5))
    )
    said: list[str] = []
    run = Run(tmp_path / "run", say=said.append)
    prepare(run, load(None, ["corpus.source=table", f"corpus.path={tmp_path}"]))
    notes = [
        "there is no rating column: each event counts as 5",
        "2 user ids are decimals such as 1.0; read as whole numbers",
        "21 times are numbers that were read as days: 20230110 is 2023-01-10",
    ]
    assert json.loads(run.path("corpus", "corpus.json").read_text())["notes"] == notes
    assert said[:3] == [f"prepare: note: {note}" for note in notes]
    assert "20 events of 2 users on 5 items from 2023-01-10 to 2023-01-19" in said[3]
    assert said[3].endswith("1 rows rejected, 1 of them as duplicate events")


def test_too_many_rejected_rows_are_kept_beside_the_run(tmp_path):
    config = shop(tmp_path / "shop", bad=30)
    run = Run(tmp_path / "run")
    kept = tmp_path / "run-rejected.parquet"
    with pytest.raises(CorpusError, match="30 of 350 rows are malformed") as error:
        prepare(run, config)
    assert str(kept) in str(error.value) and "part0.csv:2: bad number" in str(error.value)
    assert len(pq.read_table(kept)) == 30
    assert not run.path("corpus").exists()
    assert run.done("prepare") is None


def test_a_truncated_file_is_one_sentence(tmp_path):
    import gzip

    config = shop(tmp_path / "shop", bad=0)
    plain = tmp_path / "shop" / "part1.csv"
    plain.with_suffix(".csv.gz").write_bytes(gzip.compress(plain.read_bytes())[:-20])
    plain.unlink()
    with pytest.raises(CorpusError, match="part1.csv.gz is a truncated .gz file; fetch it again"):
        prepare(Run(tmp_path / "run"), config)


@pytest.mark.parametrize(
    ("folder", "source", "samples", "said"),
    [
        ("amazon2018_office", "amazon", 13_437, "56% of the train and 40% of the test samples"),
        ("amazon2023_all_beauty", "amazon", 2_282, "No sample shares its time"),
        ("movielens_small", "movielens", 98_681, "39% of the train and 4% of the test samples"),
    ],
)
def test_real_data(tmp_path, folder, source, samples, said):
    path = DATA / folder
    if not path.exists():
        pytest.skip(f"{path} is absent")
    lines: list[str] = []
    run = Run(tmp_path / "run", say=lines.append)
    prepare(run, load(None, [f"corpus.source={source}", f"corpus.path={path}"]))
    assert any(said in line for line in lines)
    summary = json.loads(run.path("corpus", "corpus.json").read_text())
    assert sum(summary["samples"].values()) == samples
    assert summary["rejected"] == {}


def test_a_changed_file_is_detected(tmp_path):
    files = tmp_path / "files"
    files.mkdir()
    (files / "items.csv").write_text("item,title\n" + "".join(f"i{n},Item {n}\n" for n in range(9)))
    rows = [f"u{n % 3},i{n % 9},4,{1_600_000_000 + 86_400 * n}\n" for n in range(60)]
    ratings = files / "ratings.csv"
    ratings.write_text("user,item,rating,time\n" + "".join(rows))
    config = load(None, ["corpus.source=table", f"corpus.path={files}"])
    run = Run(tmp_path / "run", say=lambda text: None)
    assert prepare(run, config)
    os.utime(ratings, (0, 0))  # as in a copy, with the same content
    assert not prepare(run, config)
    ratings.write_text("user,item,rating,time\n" + "".join(rows).replace("i1,4", "i1,5"))
    with pytest.raises(ArtifactError, match=r"ratings\.csv"):
        prepare(run, config)
    # A finished corpus no longer needs its files, and a wrong path does not delete it.
    ratings.unlink()
    assert not prepare(run, config)
    again = Run(run.root, say=lambda text: None, overwrite=True)
    with pytest.raises(CorpusError):
        prepare(again, load(None, ["corpus.source=table", f"corpus.path={tmp_path / 'none'}"]))
    assert run.path("corpus", "train.parquet").exists()


def test_both_ends_of_a_large_file_count(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "END", 4)
    file = tmp_path / "large"

    def of(text):
        file.write_text(text)
        return stage._hash(str(file))

    assert of("abcdefghij") == of("abcdEFghij") != of("abcdefghiJ") != of("Abcdefghij")
    assert of("abcdefg") != of("abcdeFg") and of("abc") != of("abC")


def test_a_renamed_folder_counts_where_its_name_is_a_column(tmp_path):
    (tmp_path / "items.csv").write_text("item,title\na,A\n")
    (tmp_path / "log" / "day=2024-01-01").mkdir(parents=True)
    (tmp_path / "log" / "day=2024-01-01" / "part-0.csv").write_text("user,item,time\nu,a,1\n")

    def stamps(*more):
        words = ["corpus.source=table", f"corpus.path={tmp_path}", "corpus.ratings=log", *more]
        config = load(None, words)
        return stage.PREPARE.settings(Run(tmp_path / "run"), config)["files"]

    by_day = "corpus.columns={time: day}"
    before = stamps(), stamps(by_day)
    (tmp_path / "log" / "day=2024-01-01").rename(tmp_path / "log" / "day=2024-01-02")
    assert stamps() == before[0]
    assert stamps(by_day) != before[1]


@pytest.mark.ray
def test_a_task_that_dies(cluster):
    with pytest.raises(EngineError, match="prepare ended: its process"):
        in_task("prepare", lambda: os.kill(os.getpid(), signal.SIGKILL))


@pytest.mark.ray
def test_a_full_disk_ends_the_task(cluster, tmp_path):
    with pytest.raises(OSError) as error:
        in_task("prepare", lambda: time.sleep(600), spills_to=tmp_path, spare_bytes=1 << 60)
    assert error.value.errno == errno.ENOSPC and error.value.filename == str(tmp_path)
    assert in_task("prepare", lambda: 1, spills_to=tmp_path) == 1


@pytest.mark.ray
def test_the_exception_of_a_task_is_raised_unchanged(cluster):
    """The same holds for a task inside the task; neither has text or types of Ray."""
    import ray

    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    for function in (full, lambda: ray.get(ray.remote(full).remote())):
        with pytest.raises(OSError) as error:
            in_task("prepare", function)
        assert type(error.value) is OSError
        assert str(error.value) == "[Errno 28] No space left on device"


@pytest.mark.ray
def test_the_death_of_a_task_inside_the_task(cluster):
    import ray

    def inner():
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(EngineError, match="prepare ended: its process"):
        in_task("prepare", lambda: ray.get(ray.remote(inner).options(max_retries=0).remote()))


def test_demo_with_weights(tmp_path):
    said: list[str] = []
    run = Run(tmp_path / "run", say=said.append)
    prepare(run, load(None, ["reward.item_weight=margin"]))
    items, train = tables(run)["items"], tables(run)["train"]
    assert items.column_names == [*ITEMS.names, "margin"]
    facts = json.loads(run.path("corpus", "corpus.json").read_text())["item_weight"]
    margin = items["margin"].to_pylist()
    mean = sum(margin[item] for item in train["target"].to_pylist()) / len(train)
    assert facts["mean"] == pytest.approx(mean) and facts["known"] == len(items)
    assert said[2].startswith(f"prepare: weights of items from the column margin: {len(items)} it")
    with pytest.raises(
        ArtifactError, match="was made with reward.item_weight=margin, now it is No"
    ):
        prepare(run, load())
