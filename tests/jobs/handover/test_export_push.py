"""`minirec export --push`, and a subset that `datasets` reads, as commands of a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from helpers.alone import alone
from helpers.small_hub import SmallHub

from jobs.cli import main
from minirec.corpus.table import load_catalogue, load_samples
from minirec.store.tables import read_table

pytestmark = pytest.mark.slow


def export(run, out, to, *words, hub=None, token="hf_writes", home=None):
    """Status and error output of the command; large files go by LFS, for which xet is off."""
    variables = {"HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home or out.parent / "home")}
    variables |= {"HF_ENDPOINT": hub.url} if hub else {}
    variables |= {"HF_TOKEN": token} if token else {}
    kept = {name: value for name, value in os.environ.items() if name != "HF_TOKEN"}
    command = ["export", "--run", str(run), "--to", to, "--out", str(out), *words]
    result = subprocess.run(
        [sys.executable, "-m", "jobs.cli", *command],
        env=kept | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return result.returncode, result.stdout, result.stderr


def content(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture
def hub():
    one = SmallHub(large=10_000)
    yield one
    one.close()


def test_a_subset_goes_to_the_hub(with_prior, tmp_path, hub):
    out = tmp_path / "out"
    status, said, wrong = export(with_prior, out, "datasets", "--push", "hf://me/subset", hub=hub)
    assert status == 0, wrong
    assert f"export: pushed to {hub.url}/datasets/me/subset" in said
    assert hub.files == {"datasets/me/subset": content(out)}
    assert hub.private == {"datasets/me/subset": True}
    # The weights of scorer/ are large, the card is not.
    sizes = {len(blob) for blob in hub.blobs.values()}
    assert (out / "scorer" / "model.safetensors").stat().st_size in sizes
    assert (out / "README.md").read_bytes().startswith(b"---\nlicense: ")


def test_without_a_right_the_local_export_stays(with_prior, tmp_path, hub):
    out = tmp_path / "out"
    push = ("--push", "hf://me/policy")
    status, _, wrong = export(with_prior, out, "adapter", *push, hub=hub, token=None)
    assert (status, wrong.count("\n")) == (2, 1)
    assert "--push has no token for the Hugging Face hub; log in with `hf auth login`" in wrong
    assert not out.exists()
    status, _, wrong = export(with_prior, out, "adapter", *push, hub=hub, token="hf_wrong")
    assert status == 1 and "does not know the token" in wrong
    assert f"hf upload me/policy {out} . --repo-type model --private" in wrong
    assert "Traceback" not in wrong and (out / "adapter_model.safetensors").exists()
    assert not hub.files


LOADED = """
import json, os
from datasets import load_dataset
here = os.getcwd()
subset, items = load_dataset(here, split="train"), load_dataset(here, "items", split="train")
print(json.dumps([subset.to_list(), items.to_list()]))
"""


@pytest.mark.parametrize("to", ["datasets", "jsonl"])
def test_datasets_loads_the_folder_without_minirec(with_prior, tmp_path, to, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    out = tmp_path / "subset"
    assert main(["export", "--run", str(with_prior), "--to", to, "--out", str(out)]) == 0
    subset, items = json.loads(alone(out, LOADED).splitlines()[-1])
    order = read_table(with_prior / "selection.parquet").sort_by("rank")["sample_id"].to_pylist()
    assert [row["sample_id"] for row in subset] == order
    samples = {s.sample_id: s for s in load_samples(with_prior / "corpus", "train")}
    titles = list(load_catalogue(with_prior / "corpus").titles)
    for row in subset:
        sample = samples[row["sample_id"]]
        assert (row["target"], row["history"]) == (sample.target, list(sample.history))
        assert row["target_title"] == titles[sample.target]
    assert [row["title"] for row in items] == titles
