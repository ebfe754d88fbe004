"""A run with live selection: its stages, its settings, its outputs."""

from __future__ import annotations

import pytest
from helpers.here import Here
from helpers.loop import one_process
from helpers.small import SETTINGS

from jobs.run import STAGES, stages_of
from jobs.stages.evaluate import EVALUATE
from jobs.stages.model import MODEL
from jobs.stages.prepare import PREPARE
from jobs.stages.report import REPORT
from jobs.stages.train import TRAIN
from jobs.stages.warm import WARM
from jobs.training_log import read_log
from minirec.config.reading import load
from minirec.corpus import schema
from minirec.errors import ConfigError
from minirec.selection.from_run import known_lifts
from minirec.store.run import Run
from minirec.store.tables import read_table, write_table
from minirec.trials.checks import check

LIVE = ["preset=paper", "selection.mode=live"]
NAN = float("nan")


def names(*words):
    everything = tuple(stage.name for stage in STAGES)
    return [stage.name for stage in stages_of(load(None, [*LIVE, *words]), everything)]


def test_a_live_run_neither_scores_nor_selects():
    rest = ["train", "evaluate", "report"]
    assert names() == ["prepare", "sasrec", "model", *rest]
    assert names("training.start=warm") == ["prepare", "sasrec", "model", "warm", *rest]
    assert names("training.start=proxy") == ["prepare", "sasrec", "model", "proxy", *rest]
    assert names("live.scores=true") == ["prepare", "sasrec", "model", "proxy", "score", *rest]
    assert "gradients" not in names("selection.directions=lora_projected")


def test_inputs_follow_the_mode():
    config = load(None, LIVE)
    assert TRAIN.inputs(config) == ["prepare", "model"]
    assert "score" in TRAIN.inputs(load(None, [*LIVE, "live.scores=true"]))
    assert REPORT.inputs(config) == ["prepare", "train", "evaluate"]
    assert "select" in REPORT.inputs(load(None, LIVE[:1]))
    assert TRAIN.also(config) == ("selection.parquet",)
    assert TRAIN.also(load(None, LIVE[:1])) == ()


def test_only_what_the_rule_reads_is_in_the_fingerprint(tmp_path):
    run = Run(tmp_path)

    def settings(stage, *words):
        return stage.settings(run, load(None, [*LIVE, *words]))

    assert settings(TRAIN) == settings(TRAIN, "selection.alpha=7", "scoring.rollouts=9")
    assert settings(TRAIN) != settings(TRAIN, "live.share=0.3")
    assert settings(TRAIN) != settings(TRAIN, "selection.budget=0.5")
    value = ["live.rule=value", "warm.live=false"]
    assert settings(TRAIN, *value) != settings(TRAIN, *value, "selection.alpha=7")
    assert "live" not in TRAIN.settings(run, load(None, LIVE[:1]))
    assert settings(WARM) == settings(WARM, "live.share=0.3")
    assert settings(WARM, "warm.live=true") != settings(WARM, "warm.live=true", "live.share=0.3")


@pytest.mark.parametrize("method", ["less", "kmeans", "random"])
def test_a_method_that_needs_all_scores_is_refused(method):
    with pytest.raises(ConfigError, match=f"selection.method {method} chooses from the features"):
        load(None, [*LIVE, f"selection.method={method}"])


def test_the_rule_value_needs_rollouts():
    for word in ("training.loss=supervised", "warm.live=true"):
        with pytest.raises(ConfigError, match="set live.rule to band"):
            load(None, [*LIVE, "live.rule=value", word])
    assert load(None, ["preset=paper", "live.rule=value", "training.loss=supervised"])


def test_a_budget_above_what_is_scored_is_no_matter_in_live_mode():
    words = ["selection.budget=2000", "scoring.samples=1000"]
    assert load(None, [*LIVE, *words])
    with pytest.raises(ConfigError, match="exceeds scoring.samples 1000"):
        load(None, [*LIVE[:1], *words])


def test_a_band_must_rise():
    with pytest.raises(ConfigError, match="must rise: the lowest and the highest lift"):
        load(None, ["live.band=[0.5, 0.5]"])


def test_a_corpus_smaller_than_a_step_is_one_sentence():
    config = load(None, [*LIVE, "training.prompts_per_step=64"])
    check(config, 64)
    with pytest.raises(ConfigError, match="prompts_per_step 64 different samples, but there are 6"):
        check(config, 63)


def test_scoring_tells_the_lift_of_the_forced_answer_and_of_the_rollouts(tmp_path):
    """Three items: chance is (1 + 0.63 + 0.5) / 3 = 0.71."""
    file = tmp_path / "small.yaml"
    file.write_text(SETTINGS)
    chance = (1 + 0.6309297535714575 + 0.5) / 3
    empty = {name: [None] * 2 for name in schema.features(2).names}
    parts = empty | {
        "sample_id": [4, 9],
        "ndcg": [[1.0, 0.5], []],
        "rewards": [[1.0, 0.5], []],
        "hits": [1, 0],
        "screen_ndcg": [chance, 1.0],
        "screen_reward": [0.5, 0.5],
        "screened": [False, True],
        "control": [False, False],
        "el2n": [0.0, 0.0],
        "rollout_tokens": [3, 0],
    }
    import pyarrow as pa

    for folder in ("corpus", "features"):
        (tmp_path / folder).mkdir()
    table = pa.table({k: pa.array(v, schema.features(2).field(k).type) for k, v in parts.items()})
    write_table(tmp_path / "features" / "part-000000.parquet", table)
    write_table(tmp_path / "corpus" / "train.parquet", pa.table({"sample_id": [4, 9]}))
    write_table(tmp_path / "corpus" / "items.parquet", pa.table({"item_id": [0, 1, 2]}))
    words = [f"run_dir={tmp_path}"]
    found = known_lifts(Run(tmp_path), load(file, words))
    assert [number for number, *_ in found] == [4, 9]
    lifts = [one for _, *both in found for one in both]
    expected = [0, (0.75 - chance) / (1 - chance), 1, NAN]
    assert lifts == pytest.approx(expected, abs=1e-6, nan_ok=True)
    forced = known_lifts(Run(tmp_path), load(file, [*words, "scoring.rollouts=0"]))
    assert [one[1] for one in forced] == pytest.approx([expected[1], NAN], nan_ok=True)


@pytest.mark.slow
def test_warm_start_and_training_choose_live(tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(SETTINGS)
    words = ["selection.mode=live", "warm.live=true", "training.start=warm", "live.share=0.9"]
    words += ["warm.training.steps=4", "warm.training.prompts_per_step=16"]
    words += ["warm.training.prompts_per_micro_batch=8", "tracking.tensorboard=false"]
    words += ["training.loss=supervised", "training.steps=3"]
    config = load(file, [f"run_dir={tmp_path / 'run'}", *words])
    said: list[str] = []
    run, session = Run(config.run_dir, say=said.append), Here(config)
    with one_process():
        for stage in (PREPARE, MODEL, WARM, TRAIN):
            assert stage.run(run, config, session)
            assert not stage.run(run, config, session), "finished"
    for folder, steps in (("warm", 4), ("policy", 3)):
        choices = read_table(run.path(folder, "choices.parquet"))
        assert choices.num_rows == 16 * steps
        log = read_log(run.path(folder, "log.jsonl"))
        assert sum(entry["choice_prompts"] for entry in log) > 0
    selection = read_table(run.path("selection.parquet"))
    assert set(selection["sample_id"].to_pylist()) == set(choices["sample_id"].to_pylist())
    assert any(line.startswith("train: 48 prompts of") for line in said)
    assert set(run.done("train")["files"]) >= {"selection.parquet", "policy/choices.parquet"}
    assert "select" not in EVALUATE.inputs(config)


INFLUENCE = [*LIVE, "live.rule=influence", "warm.live=false"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["selection.mode=static"], "set selection.mode to live"),
        (["selection.curriculum=self_paced"], "would both choose the samples of a step"),
        (["training.replays=2"], "set replays to 1, or live.rule to band"),
        (["training.item_candidates=corrected"], "corrected counts with equal chances"),
        (["live.candidates=1"], "leaves nothing to choose; raise live.candidates"),
        (["live.scores=true"], "set live.scores to false"),
    ],
)
def test_the_rule_influence_refuses(words, why):
    assert load(None, [*INFLUENCE, "training.loss=supervised"])
    with pytest.raises(ConfigError, match=why):
        load(None, [*INFLUENCE, *words])


def test_the_rule_influence_needs_a_larger_corpus_and_other_validation_samples():
    config = load(None, [*INFLUENCE, "live.stage_steps=4", "training.prompts_per_step=16"])
    check(config, 65)
    with pytest.raises(ConfigError, match="there are only 64 training samples; lower live.stage"):
        check(config, 64)
    check(config, 65, valid=65)
    with pytest.raises(ConfigError, match="none of the 64 validation samples to validate with"):
        check(config, 65, valid=64)


def test_the_settings_of_the_rule_influence_are_in_no_other_fingerprint(tmp_path):
    run = Run(tmp_path)

    def settings(*words):
        return TRAIN.settings(run, load(None, [*LIVE, *words]))["live"]

    assert settings() == settings("live.stage_steps=7", "live.validation_samples=9")
    assert "stage_steps" not in settings()
    assert settings(*INFLUENCE[2:]) != settings(*INFLUENCE[2:], "live.stage_steps=7")
