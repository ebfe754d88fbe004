"""`minirec.select`: a subset from a table in memory or a file."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import minirec
from jobs import cli
from minirec.errors import ArtifactError, ConfigError, FeatureError
from minirec.store.tables import read_table, write_table


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rewards = rng.choice([0.0, 0.3, 1.0], size=(60, 4), p=[0.6, 0.2, 0.2])
    return pd.DataFrame(
        {
            "sample_id": np.arange(60) * 5,
            "rewards": list(rewards),
            "embedding": list(rng.normal(size=(60, 4))),
            "title": ["ignored"] * 60,
        }
    )


def test_the_function_and_the_command_choose_the_same(frame, tmp_path, capsys):
    table = pa.Table.from_pandas(frame, preserve_index=False)
    write_table(tmp_path / "table.parquet", table)
    words = ["--features", str(tmp_path / "table.parquet"), "--budget", "12", "--chance", "0.1"]
    words += ["--out", str(tmp_path / "out"), "seed=3", "selection.groups=3"]
    assert cli.main(["select", *words]) == 0
    wanted = read_table(tmp_path / "out" / "selection.parquet")
    settings = {"budget": 12, "chance": 0.1, "seed": 3, "groups": 3}
    file = str(tmp_path / "table.parquet")
    found = [minirec.select(table, **settings), minirec.select(file, **settings)]
    assert all(one.schema.equals(wanted.schema) for one in found)
    for frame_of in (*(one.to_pandas() for one in found), minirec.select(frame, **settings)):
        pd.testing.assert_frame_equal(frame_of, wanted.to_pandas())  # NaN equals NaN
    assert capsys.readouterr().out.count("kept 12") == 1  # the functions print nothing


def test_the_only_undecided_sample_is_chosen():
    rollouts = pd.DataFrame({"sample_id": [7, 8, 9], "rewards": [[0, 1], [0, 0], [1, 1]]})
    assert minirec.select(rollouts, budget=1, groups=1)["sample_id"].tolist() == [7]
    by_index = rollouts.set_index("sample_id")
    assert minirec.select(by_index, budget=1, groups=1)["sample_id"].tolist() == [7]


def test_lines_are_said_on_request(frame):
    lines: list[str] = []
    minirec.select(frame, budget=12, say=lines.append)
    assert any(line.startswith("kept 12 of 60 samples") for line in lines)


@pytest.mark.parametrize(
    ("change", "settings", "error", "message"),
    [
        ({}, {"buget": 3}, ConfigError, "did you mean selection.budget"),
        ({}, {"budget": 61}, ConfigError, "selection.budget 61 exceeds the 60 samples"),
        ({}, {"shards": 2}, ConfigError, "shards has no effect"),
        ({}, {"chance": 1}, ConfigError, "chance is 1; expected"),
        ({}, {"chance": "low"}, ConfigError, "chance is 'low'; expected"),
        ({}, {"method": "el2n"}, FeatureError, "el2n needs el2n"),
        ({"rewards": "good"}, {}, ArtifactError, "the table column rewards holds"),
        ({"rewards": float("nan")}, {}, ArtifactError, "the table row 0, column rewards: nan"),
        ({"sample_id": 1}, {}, ArtifactError, "sample 1 occurs twice"),
    ],
)
def test_refusals_name_the_place(frame, change, settings, error, message):
    with pytest.raises(error, match=message):
        minirec.select(frame.assign(**change), **settings)


def test_what_is_no_table_is_refused(frame):
    with pytest.raises(ArtifactError, match="the table is a list"):
        minirec.select([1, 2])
    with pytest.raises(ArtifactError, match="the table has no rows"):
        minirec.select(frame.iloc[:0])
    with pytest.raises(ArtifactError, match="the table has several columns rewards"):
        minirec.select(pd.concat([frame, frame["rewards"]], axis=1))
    with pytest.raises(ArtifactError, match=r"none\.parquet does not exist"):
        minirec.select("none.parquet")


def test_neither_torch_nor_ray_is_loaded(frame, tmp_path):
    write_table(tmp_path / "t.parquet", pa.Table.from_pandas(frame, preserve_index=False))
    code = (
        f"import sys, minirec\nminirec.select({str(tmp_path / 't.parquet')!r})\n"
        "print({'torch', 'ray', 'rich'} & {*sys.modules}, *sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("set()")
    assert "jobs" not in shown.stdout.split()
