"""The Python API: `minirec.run`, `minirec.compare` and `minirec.RunResults`."""

from __future__ import annotations

import subprocess
import sys

import pytest

import minirec
from jobs.handover.recommend import recommend
from minirec.errors import ArtifactError, ConfigError
from minirec.store.tables import read_table


@pytest.fixture
def results(with_prior):
    return minirec.RunResults(with_prior)


def loaded(code: str) -> set[str]:
    """The modules that a new Python has loaded after some code."""
    shown = [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"]
    return set(subprocess.run(shown, capture_output=True, text=True, check=True).stdout.split())


def test_importing_minirec_loads_nothing_else():
    ours = {name for name in loaded("import minirec") if name.startswith(("minirec", "jobs"))}
    assert ours == {"minirec"}
    assert not loaded("import minirec") & {"pydantic", "numpy", "pyarrow", "yaml"}


def test_the_public_names():
    assert {"select", "run", "compare", "RunResults"} <= {*dir(minirec)}
    with pytest.raises(AttributeError, match="no attribute 'selct'"):
        _ = minirec.selct


def test_results_load_neither_ray_nor_torch(with_prior):
    code = f"import minirec\nminirec.RunResults({str(with_prior)!r}).selection()"
    assert not loaded(code) & {"ray", "torch", "transformers"}


def test_the_selection_has_titles(results):
    chosen = results.selection()
    corpus = results.path("corpus")
    assert chosen["sample_id"].tolist() == [200, 3, 150, 60, 9, 310, 42, 17]
    titles = read_table(corpus / "items.parquet", ["title"])["title"].to_pylist()
    samples = {row["sample_id"]: row for row in read_table(corpus / "train.parquet").to_pylist()}
    for row in chosen.to_dict("records"):
        sample = samples[row["sample_id"]]
        assert row["user"] == sample["user"] and row["target"] == titles[sample["target"]]
        assert row["history"] == [titles[item] for item in sample["history"]]


def test_recommendations_are_those_of_the_command(results, with_prior):
    items = read_table(results.path("corpus", "items.parquet")).to_pylist()
    last: dict[str, dict] = {}
    for split in ("train", "valid", "test"):  # by time, so a later split has later targets
        rows = read_table(results.path("corpus", f"{split}.parquet")).to_pylist()
        last |= {row["user"]: row for row in sorted(rows, key=lambda row: row["time"])}
    users = sorted(last)[:2]
    kept = results.config.corpus.history
    events = [[*last[user]["history"], last[user]["target"]][-kept:] for user in users]
    keys = [[items[item]["key"] for item in history] for history in events]
    by_key = results.recommend(keys, k=3, analysis=False)
    found, titles = recommend(str(with_prior), ",".join(keys[0]), top=3, analysis=False)
    first = by_key[by_key["history"] == 0]
    assert first["title"].tolist() == titles and first["rank"].tolist() == [1, 2, 3]
    assert first["score"].tolist() == found.scores
    assert first["item"].tolist() == [items[item]["key"] for item in found.items]
    by_user = results.recommend(users=users, k=3, analysis=False)
    assert by_user["user"].tolist() == [user for user in users for _ in range(3)]
    assert by_user["item"].tolist() == by_key["item"].tolist()
    text = results.recommend(",".join(keys[0]), k=3, analysis=False)
    assert text["item"].tolist() == first["item"].tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give either histories or users"),
        ({"histories": ["x"], "users": ["y"]}, "give either histories or users"),
        ({"users": ["nobody"]}, "user 'nobody' is not in the corpus, which has users such as"),
        ({"histories": [[]]}, "a history is empty"),
        ({"histories": [["no such title"]]}, "no item is titled 'no such title'"),
        ({"users": ["x"], "k": 0}, "k is 0; give a number of items"),
    ],
)
def test_wrong_arguments_are_one_sentence(results, arguments, message):
    with pytest.raises(ConfigError, match=message):
        results.recommend(**arguments)


def test_a_report_of_what_there_is(results):
    report = results.report()
    assert report["evaluation"] == {"policies": {}} and report["headline"] is None
    assert set(report["cost"]) >= {"prepare", "model", "train", "evaluate"}
    assert report["html"] is None and report["selection"]["samples"] > 100


def test_what_a_run_does_not_have_is_named(results, tmp_path):
    with pytest.raises(ArtifactError, match="is not a run directory"):
        minirec.RunResults(tmp_path)
    with pytest.raises(ArtifactError, match=r"call minirec\.compare"):
        results.trials()


def test_settings_are_refused_before_anything_starts(tmp_path):
    with pytest.raises(ConfigError, match=r"did you mean training\.steps"):
        minirec.run(run_dir=str(tmp_path / "run"), **{"training.stps": 3})
    with pytest.raises(ConfigError, match="cannot be read"):
        minirec.compare(tmp_path / "none.yaml")
    assert not list(tmp_path.iterdir())


@pytest.mark.long  # tests/test_notebooks.py calls the same functions
@pytest.mark.ray
def test_a_small_run(tmp_path):
    from helpers.small import SETTINGS

    file = tmp_path / "small.yaml"
    file.write_text(SETTINGS)
    folder = str(tmp_path / "run")
    overrides = {"rollout.engine": "transformers", "training.steps": 2, "proxy.training.steps": 2}
    done = minirec.run(file, run_dir=folder, **overrides)
    assert done.config.training.steps == 2
    report = done.report()
    assert report["headline"].startswith("On test the trained policy has NDCG@10")
    assert report["html"].exists() and report["selection"]["chosen"] == len(done.selection())
    exported = done.export("jsonl", tmp_path / "subset")
    assert (exported / "README.md").exists()
