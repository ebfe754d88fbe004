"""Selection from the shards of a run: screened samples, LoRA gradients, baselines."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from helpers.report_run import SAMPLES, config, make_run

from jobs.handover.select_table import select_table
from jobs.stages.select import SELECT
from minirec.config.run import Config
from minirec.config.scoring import ScoringConfig
from minirec.errors import ArtifactError, ConfigError
from minirec.evaluation.report import render
from minirec.selection.from_run import load_features
from minirec.selection.learnability import chance_level
from minirec.store.run import Run
from minirec.store.tables import read_table, write_table


def write_gradients(run: Run, gradient: np.ndarray, goal: np.ndarray) -> None:
    """Two parts of projected LoRA gradients, the later samples first."""
    ids = read_table(run.path("corpus", "train.parquet"))["sample_id"]
    vectors = pa.FixedSizeListArray.from_arrays(
        pa.array(gradient.astype(np.float32).ravel()), gradient.shape[1]
    )
    table = pa.table({"sample_id": ids, "gradient": vectors})
    write_table(run.path("gradients", "part-0.parquet"), table.slice(100))
    write_table(run.path("gradients", "part-1.parquet"), table.slice(0, 100))
    np.save(run.path("gradients", "validation.npy"), goal.astype(np.float32))
    run.stage("gradients", settings={}, inputs=["score"], outputs=[], body=lambda cost: None)


def test_hits_are_those_of_the_shards(tmp_path):
    found = load_features(make_run(tmp_path / "run"), Config().scoring)
    assert set(found.rollouts.tolist()) == {4} and not found.screened.any()
    # The shards of `make_run` count NDCG above 0.4.
    ndcg = np.stack(read_table(tmp_path / "run/features/part-00001.parquet")["ndcg"].to_numpy())
    assert found.hits[:80].tolist() == (ndcg > 0.4).sum(axis=1).tolist()
    assert found.mean_reward[:80] == pytest.approx(0.95 * ndcg.mean(axis=1), rel=1e-6)


def test_shards_of_a_screened_run(tmp_path):
    run = make_run(tmp_path / "run")
    for path in run.path("features").glob("part-*.parquet"):
        table = read_table(path)
        screened = np.arange(table.num_rows) % 2 == 1
        for name in ("rewards", "ndcg"):
            lists = [[] if s else v for s, v in zip(screened, table[name].to_pylist(), strict=True)]
            at = table.schema.get_field_index(name)
            table = table.set_column(at, name, pa.array(lists, pa.list_(pa.float32())))
        hits = np.where(screened, 0, table["hits"].to_numpy()).astype(np.int8)
        table = table.set_column(table.schema.get_field_index("hits"), "hits", pa.array(hits))
        for name, values in {
            "screened": pa.array(screened),
            "screen_reward": pa.array(np.full(len(screened), 0.125, np.float32)),
            "screen_ndcg": pa.array(np.full(len(screened), 0.25, np.float32)),
        }.items():
            table = table.set_column(table.schema.get_field_index(name), name, values)
        write_table(path, table)
    found = load_features(run, Config().scoring)
    assert found.screened.tolist() == [False, True] * (SAMPLES // 2)
    assert set(found.mean_reward[1::2]) == {0.125} and set(found.mean_ndcg[1::2]) == {0.25}
    assert found.rollouts.tolist() == [4, 0] * (SAMPLES // 2)
    said = []
    run.say = said.append
    SELECT.run(run, config(budget=20, learnability="hit_variance"), None)
    assert any("screened and not rolled out: 50% of all" in line for line in said)


def test_selection_from_a_partly_scored_corpus(tmp_path):
    """60 of 160 samples: the budget is a share of the corpus; only scored samples are picked."""
    run = make_run(tmp_path / "run")
    part = run.path("features", "part-00001.parquet")
    write_table(part, read_table(part).slice(20))
    run.path("features", "part-00000.parquet").unlink()
    partly = ScoringConfig(samples=60)
    scored = load_features(run, partly).sample_id.tolist()
    assert scored == list(range(40, 160, 2))
    settings = config(budget=0.25).model_copy(update={"scoring": partly})
    SELECT.run(run, settings, None)
    chosen = read_table(run.path("selection.parquet"))["sample_id"].to_pylist()
    assert len(chosen) == 40 and set(chosen) <= set(scored)
    assert read_table(run.path("scores.parquet"))["sample_id"].to_pylist() == scored

    full = config(method="full", curriculum="shuffled").model_copy(update={"scoring": partly})
    SELECT.run(Run(run.root, overwrite=True, say=lambda _: None), full, None)
    table = read_table(run.path("selection.parquet")).to_pandas().set_index("sample_id")
    assert sorted(table.index) == list(range(0, 2 * SAMPLES, 2))
    assert table["value"].notna()[scored].all() and table["value"].notna().sum() == 60


@pytest.mark.slow
def test_a_report_of_a_partly_scored_corpus(tmp_path):
    run = make_run(tmp_path / "run")
    part = run.path("features", "part-00001.parquet")
    write_table(part, read_table(part).slice(20))
    run.path("features", "part-00000.parquet").unlink()
    SELECT.run(
        run, config(budget=40).model_copy(update={"scoring": ScoringConfig(samples=60)}), None
    )
    html = " ".join(render(run.root).split())
    assert "Of 160 training interactions, 40 (25.0%) were kept" in html
    assert "60 of the 160 training interactions were scored, drawn at random" in html
    # Each planted kind is a third of the corpus.
    assert "<td>trivial</td><td>53</td><td>33.1%</td>" in html


@pytest.mark.parametrize(
    ("selection", "scoring", "error", "message"),
    [
        ({"budget": 61}, 60, ConfigError, "budget 61 exceeds the 60 scored training samples"),
        ({"method": "full"}, 60, ConfigError, "grouped orders by reward, but only 60 of 160"),
        ({}, 0.5, ArtifactError, "has 160 samples; expected 80 of the 160 in train.parquet"),
    ],
)
def test_scores_that_do_not_fit_the_settings(tmp_path, selection, scoring, error, message):
    run = make_run(tmp_path / "run")
    partly = {"scoring": ScoringConfig(samples=scoring)}
    with pytest.raises(error, match=message):
        SELECT.run(run, config(**selection).model_copy(update=partly), None)


def test_lora_gradients_are_read_where_the_settings_ask(tmp_path):
    run = make_run(tmp_path / "run")
    rng = np.random.default_rng(5)
    gradient, goal = rng.normal(size=(SAMPLES, 6)), rng.normal(size=6)
    write_gradients(run, gradient, goal)
    cosine = gradient @ goal / np.linalg.norm(gradient, axis=1)
    SELECT.run(run, config(method="less", budget=10, curriculum="shuffled"), None)
    chosen = read_table(run.path("selection.parquet"))["sample_id"].to_pylist()
    assert set(chosen) == set((2 * np.argsort(-cosine)[:10]).tolist())

    run = make_run(tmp_path / "other")
    write_gradients(run, gradient, goal)
    SELECT.run(run, config(directions="lora_projected", budget=10), None)
    mean = gradient.astype(np.float32).mean(axis=0)
    aligned = gradient @ mean / np.linalg.norm(gradient, axis=1)
    found = read_table(run.path("scores.parquet"))["representativeness"].to_numpy()
    expected = (aligned - aligned.min()) / (aligned.max() - aligned.min())
    assert found == pytest.approx(expected, abs=1e-5)


def test_lora_gradients_that_are_absent_or_do_not_fit(tmp_path):
    run = make_run(tmp_path / "run")
    for settings in ({"method": "less"}, {"directions": "lora_projected"}):
        with pytest.raises(
            ArtifactError, match="run `minirec gradients` with these settings first"
        ):
            SELECT.run(run, config(**settings), None)
    write_gradients(run, np.full((SAMPLES, 2), np.nan), np.ones(2))
    with pytest.raises(ArtifactError, match="a part holds NaN"):
        SELECT.run(run, config(method="less"), None)
    write_gradients(run, np.ones((SAMPLES, 2)), np.ones(2))
    run.path("gradients", "part-1.parquet").unlink()
    with pytest.raises(ArtifactError, match="has 60 rows for 160 samples"):
        SELECT.run(run, config(method="less"), None)


def test_a_run_and_its_bare_features_give_the_same_selection(tmp_path):
    run = make_run(tmp_path / "run")
    settings = config(budget=12, lift=True, min_lift=0.1)
    SELECT.run(run, settings, None)
    select_table(
        run.path("features"),
        settings,
        out=tmp_path / "bare",
        chance=chance_level(40),
        overwrite=False,
        say=lambda line: None,
    )
    for name in ("scores.parquet", "selection.parquet"):
        assert (tmp_path / "bare" / name).read_bytes() == run.path(name).read_bytes()


@pytest.mark.slow
def test_a_report_of_a_baseline_claims_no_novelty(tmp_path):
    from jobs.stages.report import REPORT

    run = make_run(tmp_path / "run")
    SELECT.run(run, config(method="kcenter"), None)
    assert REPORT.run(run, Config(), None)
    html = run.path("report.html").read_text()
    assert "Picked by the method of the settings" in html and "nan%" not in html
