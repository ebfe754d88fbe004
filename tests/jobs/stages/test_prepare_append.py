"""`prepare` of a run whose corpus has all events but those of further files."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.corpus import from_files
from jobs.stages.prepare import PREPARE, made_with
from minirec.config.reading import load
from minirec.config.run import Config
from minirec.corpus.files.sources import locate
from minirec.corpus.reading import LocalReader
from minirec.errors import ArtifactError, CorpusError
from minirec.store.run import Run

START = 1_600_000_000
DAY = 86_400


class NoRay:
    """A session for tests in which nothing may start Ray."""


def write_events(path: Path, days: range) -> None:
    """Two events of each of three users a day."""
    rows = [
        f"u{n % 3},i{(n * 7 + day) % 9},4,{START + DAY * day + 60 * n}"
        for day in days
        for n in range(6)
    ]
    path.write_text("\n".join(["user,item,rating,time", *rows]) + "\n")


@pytest.fixture
def shop(tmp_path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "items.csv").write_text(
        "item,title\n" + "".join(f"i{n},Item {n}\n" for n in "012345678")
    )
    write_events(folder / "base.csv", range(10))
    write_events(folder / "day1.csv", range(10, 11))
    write_events(folder / "day2.csv", range(11, 12))
    return folder


def config(folder: Path, *files: str, **more: str) -> Config:
    words = ["corpus.source=table", f"corpus.path={folder}", "corpus.ratings=base.csv"]
    words += [f"corpus.appended=[{','.join(files)}]"] if files else []
    return load(None, [*words, *(f"corpus.{key}={value}" for key, value in more.items())])


def run_of(folder: Path, settings: Config) -> tuple[Run, list[str]]:
    """A run with the corpus of the settings without appended files, made without Ray."""
    said: list[str] = []
    run = Run(folder, say=said.append)

    def body(cost):
        beside = folder.with_name("rejected.parquet")
        from_files(
            locate(settings.corpus),
            settings.corpus,
            run.path("corpus"),
            beside,
            None,
            LocalReader(),
        )

    run.stage(
        "prepare",
        settings=PREPARE.settings(run, settings),
        inputs=[],
        outputs=("corpus",),
        body=body,
    )
    return run, said


def prepare(run: Run, settings: Config) -> bool:
    return PREPARE.run(run, settings, NoRay())


def contents(run: Run) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.path("corpus").iterdir()}


def test_a_file_is_added_without_the_old_ones(shop, tmp_path):
    run, said = run_of(tmp_path / "run", config(shop))
    samples = sum(
        pq.read_metadata(run.path("corpus", f"{s}.parquet")).num_rows
        for s in ("train", "valid", "test")
    )
    (shop / "base.csv").unlink()
    assert prepare(run, config(shop, "day1.csv"))
    assert said[0] == "prepare: day1.csv adds 6 events, 6 samples, 0 users and 0 items"
    assert f"{samples + 6}" == str(
        sum(
            pq.read_metadata(run.path("corpus", f"{s}.parquet")).num_rows
            for s in ("train", "valid", "test")
        )
    )
    assert not prepare(run, config(shop, "day1.csv"))
    (shop / "day1.csv").unlink()
    assert not prepare(run, config(shop, "day1.csv"))
    said.clear()
    assert prepare(run, config(shop, "day1.csv", "day2.csv"))
    assert [line for line in said if "adds" in line] == [
        "prepare: day2.csv adds 6 events, 6 samples, 0 users and 0 items"
    ]
    assert made_with(run, config(shop, "day1.csv", "day2.csv").corpus)
    assert not made_with(run, config(shop, "day1.csv").corpus)
    assert not made_with(run, config(shop).corpus)


def test_fewer_files_are_another_corpus(shop, tmp_path):
    run, _ = run_of(tmp_path / "run", config(shop))
    prepare(run, config(shop, "day1.csv", "day2.csv"))
    for files in ((), ("day1.csv",), ("day2.csv", "day1.csv")):
        with pytest.raises(ArtifactError, match="was made with appended="):
            prepare(run, config(shop, *files))
    write_events(shop / "day1.csv", range(10, 12))
    with pytest.raises(ArtifactError, match="was made with appended="):
        prepare(run, config(shop, "day1.csv", "day2.csv"))


def test_later_commands_ask_for_prepare(shop, tmp_path):
    run, _ = run_of(tmp_path / "run", config(shop))
    with pytest.raises(ArtifactError, match="give these settings to `minirec prepare` first"):
        PREPARE.compare(run, config(shop, "day1.csv"))
    with pytest.raises(ArtifactError, match="to `minirec prepare --overwrite` first"):
        PREPARE.compare(run, config(shop, "day1.csv", history="3"))


def test_a_refused_file_leaves_the_corpus(shop, tmp_path):
    run, said = run_of(tmp_path / "run", config(shop))
    before = contents(run)
    write_events(shop / "day1.csv", range(9, 10))
    with pytest.raises(CorpusError, match="the first new event is at 2020-09-22"):
        prepare(run, config(shop, "day1.csv"))
    assert contents(run) == before
    assert not prepare(run, config(shop))
    assert said[-1] == "prepare: finished before, skipped"


def test_of_several_files_all_or_none_are_added(shop, tmp_path):
    run, said = run_of(tmp_path / "run", config(shop))
    before = contents(run)
    late = (shop / "day2.csv").read_text()
    write_events(shop / "day2.csv", range(9, 10))
    with pytest.raises(CorpusError, match="the first new event is at"):
        prepare(run, config(shop, "day1.csv", "day2.csv"))
    assert contents(run) == before
    assert not [path for path in run.root.iterdir() if path.name.startswith(".corpus")]
    (shop / "base.csv").unlink()
    assert not prepare(run, config(shop))
    assert said[-1] == "prepare: finished before, skipped"
    (shop / "day2.csv").write_text(late)
    assert prepare(run, config(shop, "day1.csv", "day2.csv"))


def test_a_command_that_was_killed_before_its_record_goes_on(shop, tmp_path):
    """The new corpus is in place, and the record is still that of the old one."""
    run, said = run_of(tmp_path / "run", config(shop))
    record = run.path("stages", "prepare.json")
    old = record.read_bytes()
    prepare(run, config(shop, "day1.csv"))
    after = contents(run)
    record.write_bytes(old)
    (shop / "base.csv").unlink()
    said.clear()
    assert prepare(run, config(shop, "day1.csv"))
    assert contents(run) == after and not any("adds" in line for line in said)
    assert not prepare(run, config(shop, "day1.csv"))


def test_another_catalogue_must_be_named(shop, tmp_path):
    run, _ = run_of(tmp_path / "run", config(shop))
    (shop / "base.csv").unlink()
    (shop / "items.csv").rename(shop / "new.csv")
    with (shop / "new.csv").open("a") as file:
        file.write("i9,Item 9\n")
    with (shop / "day1.csv").open("a") as file:
        file.write(f"u0,i9,4,{START + DAY * 10 + 999}\n")
    (shop / "items.csv").write_bytes((shop / "new.csv").read_bytes())
    with pytest.raises(CorpusError, match="the catalogue has changed since the corpus was made"):
        prepare(run, config(shop, "day1.csv"))
    assert prepare(run, config(shop, "day1.csv", appended_metadata="[new.csv]"))
    titles = pq.read_table(run.path("corpus", "items.parquet"))["title"].to_pylist()
    assert titles == [f"Item {n}" for n in range(10)]


def test_one_by_one_or_all_at_once_gives_the_same_bytes(shop, tmp_path):
    one, _ = run_of(tmp_path / "one", config(shop))
    for files in (("day1.csv",), ("day1.csv", "day2.csv")):
        prepare(one, config(shop, *files))
    two = Run(tmp_path / "two", say=lambda line: None)
    prepare(two, config(shop, "day1.csv", "day2.csv"))
    assert contents(one) == contents(two)
    assert one.fingerprint("prepare") == two.fingerprint("prepare")


def test_a_damaged_corpus_is_made_again(shop, tmp_path):
    one, said = run_of(tmp_path / "one", config(shop))
    two, _ = run_of(tmp_path / "two", config(shop))
    prepare(two, config(shop, "day1.csv"))
    one.path("corpus", "valid.parquet").write_bytes(b"damaged")
    prepare(one, config(shop, "day1.csv"))
    assert said[0].startswith("prepare: the corpus is damaged or cannot be extended")
    assert contents(one) == contents(two)
