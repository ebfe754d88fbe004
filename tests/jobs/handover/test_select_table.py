"""`minirec select --features`: select from a table."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from jobs import cli
from minirec.corpus import schema
from minirec.store.tables import read_table, write_table

COUNT = 60


@pytest.fixture
def table(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    columns = {
        "sample_id": np.arange(COUNT) * 5,
        "rewards": list(rng.choice([0.0, 0.3, 1.0], size=(COUNT, 4), p=[0.6, 0.2, 0.2])),
        "embedding": list(rng.normal(size=(COUNT, 4))),
        "gradient": list(rng.normal(size=(COUNT, 3))),
    }
    write_table(tmp_path / "table.parquet", pa.table(columns))
    return tmp_path / "table.parquet"


def run(capsys, *words: object, status: int = 0) -> str:
    assert cli.main(["select", *map(str, words)]) == status
    captured = capsys.readouterr()
    if status:
        assert captured.err.startswith("minirec: ") and len(captured.err.splitlines()) == 1
        return captured.err
    return captured.out


def test_a_table_becomes_an_ordered_selection(capsys, table, tmp_path):
    out = tmp_path / "out"
    said = run(capsys, "--features", table, "--budget", 12, "--out", out, "selection.groups=3")
    chosen, scores = read_table(out / "selection.parquet"), read_table(out / "scores.parquet")
    assert chosen.schema.equals(schema.SELECTION) and scores.schema.equals(schema.SCORES)
    assert chosen["rank"].to_pylist() == list(range(12))
    assert chosen["group"].to_pylist() == [0] * 4 + [1] * 4 + [2] * 4
    assert len(set(chosen["sample_id"].to_pylist())) == 12
    assert scores["sample_id"].to_pylist() == list(range(0, 5 * COUNT, 5))
    for words in ("60 samples in", "kept 12 of 60", "plain top 12", "value at 5/25/50/75/95%"):
        assert words in said
    before = (out / "selection.parquet").read_bytes()
    run(capsys, "--features", table, "--budget", 12, "--out", out, "--overwrite", "seed=42",
        "selection.groups=3")  # fmt: skip
    assert (out / "selection.parquet").read_bytes() == before


def test_the_default_folder_is_the_current_one(capsys, table, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run(capsys, "--features", table)
    assert read_table(Path("selection.parquet")).num_rows == 6  # a tenth


def test_nothing_is_overwritten_without_the_option(capsys, table, tmp_path):
    for name in ("selection.parquet", "scores.parquet"):
        out = tmp_path / name.removesuffix(".parquet")
        out.mkdir()
        (out / name).write_bytes(b"mine")
        error = run(capsys, "--features", table, "--out", out, status=1)
        assert f"{out / name} exists; give another --out, or --overwrite" in error
        assert [path.name for path in out.iterdir()] == [name]
        assert (out / name).read_bytes() == b"mine"
    (tmp_path / "run" / "stages").mkdir(parents=True)
    words = ("--features", table, "--out", tmp_path / "run", "--overwrite")
    assert "is a run directory" in run(capsys, *words, status=1)


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--budget", "61"], 2, "selection.budget 61 exceeds the 60 samples"),
        (["--budget", "5", "selection.budget=9"], 2, "set the same"),
        (["selection.shards=2"], 2, "selection.shards has no effect with --features"),
        (["--chance", "1"], 2, "--chance is 1; expected at least 0 and below 1"),
        (["--chance", "nan"], 2, "--chance is nan"),
        (["run_dir=x"], 2, "run_dir has no effect with --features"),
        (["scoring.rollouts=4"], 2, "scoring.rollouts has no effect"),
        (["selection.buget=3"], 2, "did you mean selection.budget?"),
        (["selection.method=el2n"], 1, "el2n needs el2n, which the features do not hold"),
        (["selection.method=less"], 1, "less needs validation_gradient"),
    ],
)
def test_refusals_write_nothing(capsys, table, tmp_path, words, status, message):
    out = tmp_path / "out"
    error = run(capsys, "--features", table, "--out", out, *words, status=status)
    assert message in error
    assert not out.exists()


@pytest.mark.parametrize("budget", ["many", "50%", "0", "-3", "1.5", "true", "nan"])
def test_a_budget_is_a_number_or_a_share(capsys, table, budget):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["select", "--features", str(table), f"--budget={budget}"])
    error = capsys.readouterr().err
    assert f"'{budget}' is neither a number of samples nor a share below 1" in error


def test_results_do_not_replace_a_file_or_join_the_parts_of_a_table(capsys, table, tmp_path):
    folder, file = tmp_path / "parts", tmp_path / "file"
    folder.mkdir()
    file.write_text("")
    words = ("--features", folder, "--out", folder)
    assert "give another --out" in run(capsys, *words, status=1)
    words = ("--features", table, "--out", file)
    assert "is a file; give a folder as --out" in run(capsys, *words, status=1)


def test_options_are_not_guessed(capsys, table):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["select", "--features", str(table), "--overwrit"])
    assert "select takes no --overwrit; did you mean --overwrite?" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        cli.main(["plan", "--overrides"])
    assert "plan takes no --overrides; see minirec plan --help" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--budget", "--out", "--chance"])
def test_options_of_a_table_need_one(capsys, option):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["select", option, "1"])
    assert f"{option} needs --features" in capsys.readouterr().err


def test_a_list_of_rewards_is_enough(capsys, tmp_path):
    rows = [{"sample_id": i, "rewards": [i / 9, 1 - i / 18]} for i in range(10)]
    table = tmp_path / "table.jsonl"
    table.write_text("\n".join(json.dumps(row) for row in rows))
    said = run(capsys, "--features", table, "--budget", 4, "--out", tmp_path, "--chance", 0.4)
    assert "no gradients" in said and "no embeddings" in said and "chance level 0.4" in said
    assert read_table(tmp_path / "selection.parquet").num_rows == 4


def test_neither_ray_nor_torch_is_loaded(table, tmp_path):
    heavy = {"ray", "torch", "transformers", "vllm", "deepspeed", "peft"}
    words = ["select", "--features", str(table), "--out", str(tmp_path)]
    code = (
        "import sys\nfrom jobs import cli\n"
        f"status = cli.main({words})\n"
        f"print(status, 'heavy', *{heavy} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "0 heavy", result.stderr


def test_a_disk_that_fills_up_leaves_neither_file(capsys, table, tmp_path, monkeypatch):
    """The same command works once there is space."""
    out = tmp_path / "out"
    fsync, written = os.fsync, []

    def fill_up(handle):
        written.append(handle)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", fill_up)
    words = ["--features", table, "--budget", 12, "--out", out]
    said = run(capsys, *words, status=1)
    assert f"the disk of {out / 'selection.parquet'} is full; free some space there" in said
    assert not list(out.iterdir())
    run(capsys, *words)
