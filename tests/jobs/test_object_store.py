"""A run on an object store has the bytes of a local run, even after the store refused a write."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers.small import command, finish, start, wait_for

from jobs.cli import main
from jobs.trials.result import read_rows
from minirec.store.files import write_json
from minirec.store.remote import located
from minirec.store.run import Run

SHARED = (
    "scores.parquet",
    "selection.parquet",
    "policy/adapter/adapter_model.safetensors",
    "evaluation.json",
)


def run(tmp_path, folder, *words):
    head, *rest = words or ("run",)
    return subprocess.run(
        command(tmp_path / "none", head, f"run_dir={folder}", *rest),
        capture_output=True,
        text=True,
        timeout=500,
    )


def test_plan_asks_the_store_and_loads_no_torch(bucket_folder):
    write_json(located(bucket_folder) / "corpus" / "corpus.json", {"samples": {"train": 12345}})
    code = (
        "import sys; from jobs.cli import main\n"
        f"status = main(['plan', 'run_dir={bucket_folder}'])\n"
        "print(status, 'heavy', *{'torch', 'ray', 'transformers'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "12,345" in result.stdout, result.stderr
    assert result.stdout.endswith("0 heavy\n")


@pytest.mark.parametrize(
    ("run_dir", "said"),
    [
        ("s3://bucket", "names no folder in a bucket"),
        ("s3://not-there/run", "s3://not-there/run: the bucket not-there does not exist"),
        ("ftp://host/run", "ftp:// is not known"),
    ],
)
def test_a_place_that_cannot_be_is_one_sentence(object_store, capsys, run_dir, said):
    assert main(["prepare", f"run_dir={run_dir}"]) in (1, 2)
    assert said in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_on_an_object_store(undisturbed, bucket_folder, gate, tmp_path):
    gate.refuse("PUT", r"/features/part-000002\.parquet$")
    refused = run(tmp_path, bucket_folder, "score")
    assert refused.returncode == 1, refused.stdout[-2000:] + refused.stderr[-2000:]
    assert "not finished" in refused.stderr  # proxy has not finished
    refused = run(tmp_path, bucket_folder)
    assert refused.returncode == 1, refused.stdout[-2000:] + refused.stderr[-2000:]
    assert "part-000002.parquet: the store denies access" in refused.stderr
    assert "Traceback" not in refused.stderr
    gate.rule = None
    finished = run(tmp_path, bucket_folder)
    assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-3000:]
    for name in SHARED:
        assert (located(bucket_folder) / name).read_bytes() == (undisturbed / name).read_bytes()
    again = run(tmp_path, bucket_folder)
    assert again.stdout.count("finished before, skipped") == 8, again.stdout + again.stderr
    recommended = subprocess.run(
        [*command(tmp_path / "none")[:3], "recommend", "--run", bucket_folder, "--history", "x"],
        capture_output=True,
        text=True,
    )
    assert "no item is titled 'x'" in recommended.stderr


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_on_an_object_store(undisturbed, bucket_folder, tmp_path):
    far = located(bucket_folder)
    far.fs.put(str(undisturbed), far.path, recursive=True)
    sweep = ("sweep", f"run_dir={bucket_folder}", "sweep.budget=[0.25, 0.1]", "training.steps=2")
    process = start(tmp_path / "none", *sweep)
    first = far / "sweep" / "budget-0.1_seed-7" / "evaluation.json"
    wait_for(first.exists, process, "the first trial")
    process.kill()
    process.wait(30)
    assert "continuing with the trials that have not finished" in finish(tmp_path / "none", *sweep)
    assert [row["status"] for row in read_rows(Run(bucket_folder), "sweep")] == ["finished"] * 2
    assert "nothing to do" in finish(tmp_path / "none", *sweep)
