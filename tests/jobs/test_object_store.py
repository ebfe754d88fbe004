"""A run on an object store: the bytes of a local one, also after the store has refused a write."""

from __future__ import annotations

import subprocess

import pytest
from small import command

from minirec.artifacts import located

pytestmark = [pytest.mark.ray, pytest.mark.slow]

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


@pytest.mark.timeout(900)
def test_a_run_on_an_object_store(undisturbed, bucket_folder, gate, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", gate.url)
    gate.refuse("PUT", r"/features/part-000002\.parquet$")
    refused = run(tmp_path, bucket_folder, "score")
    assert refused.returncode == 1, refused.stdout[-2000:] + refused.stderr[-2000:]
    assert "not finished" in refused.stderr  # of proxy: a stage alone
    refused = run(tmp_path, bucket_folder)
    assert refused.returncode == 1, refused.stdout[-2000:] + refused.stderr[-2000:]
    assert "part-000002.parquet: the store refuses it" in refused.stderr
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
