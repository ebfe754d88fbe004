"""The notebooks run from top to bottom."""

from pathlib import Path

import pandas as pd
import pytest
from helpers.notebooks import run

FOLDER = Path(__file__).parents[1] / "notebooks"


@pytest.mark.slow
@pytest.mark.ray
def test_my_own_csv(tmp_path):
    done = run(FOLDER / "my-own-csv.ipynb", tmp_path, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "On test the trained policy has NDCG@10" in done.stdout
    assert (tmp_path / "runs/example-purchases/report.html").exists()


@pytest.mark.long
@pytest.mark.ray
def test_does_selection_pay(tmp_path):
    done = run(FOLDER / "does-selection-pay.ipynb", tmp_path, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    trials = pd.read_parquet(tmp_path / "runs/does-it-pay/comparison/trials.parquet")
    assert sorted(trials["method"]) == ["minirec"] * 2 + ["random"] * 2 + ["supervised"] * 2
    assert set(trials["status"]) == {"finished"}
    assert (trials["rollouts"] > 0).tolist() == (trials["method"] != "supervised").tolist()
