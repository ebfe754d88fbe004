"""Exercise: a selection method of your own.

A method is a function of the features of the samples, the budget and a seed, and returns sample
ids. Here it is named by the setting as ``package.module:function``. To ship it with MiniRec
instead, move it to `minirec.selection.baselines` and add the line ``"disputed": disputed`` to
`METHODS` there: it then has a name of its own, also in `minirec compare`.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs import cli
from minirec.selection.features import Features
from minirec.store.tables import read_table, write_table


def disputed(features: Features, *, budget: int, seed: int) -> NDArray[np.int64]:
    """Samples of which half the rollouts are hits; ties by sample_id."""
    share = features.hits / np.maximum(features.rollouts, 1)
    return features.sample_id[np.argsort(np.abs(share - 0.5), kind="stable")[:budget]]


def twice_the_first(features: Features, *, budget: int, seed: int) -> NDArray[np.int64]:
    """A mistake: the same sample again and again."""
    return np.repeat(features.sample_id[:1], budget)


def select(tmp_path, method: str) -> int:
    rewards = [[0.0, 0.0], [0.9, 0.0], [1.0, 0.9], [0.0, 0.7], [0.8, 0.9]]
    table = pa.table({"sample_id": [10, 11, 12, 13, 14], "rewards": rewards})
    write_table(tmp_path / "table.parquet", table)
    words = ["--features", str(tmp_path / "table.parquet"), "--out", str(tmp_path / "out")]
    settings = [f"selection.method={__name__}:{method}", "selection.budget=2", "selection.groups=1"]
    return cli.main(["select", *words, "--chance", "0.5", *settings])


def test_the_setting_names_the_method(tmp_path):
    assert select(tmp_path, "disputed") == 0
    chosen = read_table(tmp_path / "out" / "selection.parquet")
    assert sorted(chosen["sample_id"].to_pylist()) == [11, 13]


def test_a_wrong_choice_is_refused(tmp_path, capsys):
    assert select(tmp_path, "twice_the_first") == 1
    assert "returned 2 samples, with 1 different ids; expected 2" in capsys.readouterr().err
