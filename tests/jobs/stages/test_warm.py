"""The stage `warm`, and what starts from it."""

from __future__ import annotations

import shutil
import signal

import pytest
from helpers.here import Here
from helpers.loop import one_process
from helpers.small import SETTINGS, finish, start, steps_logged, wait_for
from safetensors.torch import load_file

from jobs.handover.export import export
from jobs.run import STAGES, stages_of
from jobs.stages.evaluate import EVALUATE
from jobs.stages.gradients import GRADIENTS
from jobs.stages.model import MODEL
from jobs.stages.prepare import PREPARE
from jobs.stages.proxy import PROXY
from jobs.stages.score import SCORE
from jobs.stages.train import TRAIN
from jobs.stages.warm import WARM
from jobs.training_log import read_log
from minirec.config.reading import dump, load
from minirec.errors import ArtifactError, ConfigError
from minirec.store.run import Run
from minirec.trials.checks import check, check_warm

STEPS = ["warm.training.steps=6", "warm.training.checkpoint_steps=2"]
SMALL = [*STEPS, "warm.training.prompts_per_step=16", "warm.training.prompts_per_micro_batch=8"]
ALONE = ["scoring.policy=warm", "training.start=warm"]


def names(*words):
    everything = tuple(stage.name for stage in STAGES)
    return [stage.name for stage in stages_of(load(None, ["preset=paper", *words]), everything)]


def test_a_run_has_a_warm_start_only_where_something_starts_from_it():
    rest = ["score", "select", "train", "evaluate", "report"]
    assert names() == ["prepare", "sasrec", "model", "proxy", *rest]
    assert names(*ALONE) == ["prepare", "sasrec", "model", "warm", *rest]
    both = ["prepare", "sasrec", "model", "warm", "proxy", *rest]
    assert names("training.start=warm") == both
    assert names("proxy.training.start=warm") == both
    assert names("scoring.policy=warm", "training.start=proxy") == both
    # A proxy that nobody needs cannot need the warm start.
    assert "warm" not in load(None, ["preset=paper"]).earlier_policies
    found = load(None, ["scoring.policy=warm", "proxy.training.start=warm"]).earlier_policies
    assert found == ("warm",)


@pytest.mark.parametrize(
    ("words", "proxy", "score", "train", "evaluate"),
    [
        ([], [], ["proxy"], ["select"], ["proxy", "train"]),
        (ALONE, [], ["warm"], ["select", "warm"], ["train"]),
        (
            [*ALONE, "evaluation.policies=[base, warm, proxy, trained]"],
            *([], ["warm"], ["select", "warm"], ["warm", "train"]),
        ),
        (["proxy.training.start=warm"], ["warm"], ["proxy"], ["select"], ["proxy", "train"]),
        (["training.start=proxy"], [], ["proxy"], ["select", "proxy"], ["proxy", "train"]),
    ],
)
def test_inputs_follow_the_settings(words, proxy, score, train, evaluate):
    config = load(None, ["preset=paper", *words])
    first = ["prepare", "model"]
    assert PROXY.inputs(config) == first + proxy
    assert SCORE.inputs(config) == first + score
    assert TRAIN.inputs(config) == first + train
    assert EVALUATE.inputs(config) == [*first, *evaluate, "sasrec"]
    assert GRADIENTS.inputs(config) == ["score"]
    assert WARM.inputs(config) == first


def test_new_settings_leave_the_fingerprints_of_runs_without_them(tmp_path):
    config, run = load(None, [f"run_dir={tmp_path}", "preset=paper"]), Run(tmp_path)
    for stage in (PROXY, TRAIN):
        found = stage.settings(run, config)
        training = found.get("training") or found["proxy"]["training"]
        assert not {"loss", "item_negatives"} & set(training)
    assert "policy" not in SCORE.settings(run, config)["scoring"]
    other = load(None, [f"run_dir={tmp_path}", "training.item_negatives=null", *ALONE])
    assert TRAIN.settings(run, other)["training"]["item_negatives"] is None
    assert SCORE.settings(run, other)["scoring"]["policy"] == "warm"


def test_too_few_samples_for_a_step_are_one_sentence():
    words = "the warm start has 100 training samples, but one step takes warm.training.pr"
    with pytest.raises(ConfigError, match=words):
        load(None, ["training.start=warm", "warm.samples=100"])
    assert load(None, ["preset=paper", "warm.samples=100"]), "nothing starts from it"
    share = load(None, ["training.start=warm", "warm.samples=0.1"])
    check(share, 1280)
    with pytest.raises(ConfigError, match=f"{words}ompts_per_step 128; lower it, or raise warm.s"):
        check(share, 1000)
    with pytest.raises(ConfigError, match="has 60 training samples"):
        check_warm(load(None, []), 60)


@pytest.mark.parametrize("scorer", ["proxy", "warm"])
def test_an_exported_subset_has_the_policy_that_scored(tmp_path, scorer):
    config = load(None, [f"run_dir={tmp_path}", f"scoring.policy={scorer}"])
    (tmp_path / "config.yaml").write_text(dump(config))
    for to, policy, stage in (("jsonl", None, scorer), ("merged", "warm", "warm")):
        with pytest.raises(ArtifactError, match=f"has not finished {stage}; run `minirec {stage}"):
            export(str(tmp_path), to, tmp_path / "out", policy=policy)


@pytest.mark.slow
def test_no_engine_is_started_and_the_policy_can_start_from_it(tmp_path):
    """A session without engines trains `warm`, and `train` by supervision from it."""
    file = tmp_path / "small.yaml"
    file.write_text(SETTINGS)
    words = [*SMALL, *ALONE, "tracking.tensorboard=false", "training.loss=supervised"]
    words += ["training.steps=2", "training.learning_rate=1e-9", "training.validation_steps=1"]
    config = load(file, [f"run_dir={tmp_path / 'run'}", *words])
    run, session = Run(config.run_dir, say=lambda line: None), Here(config)
    with pytest.raises(ArtifactError, match="stage prepare has not finished"):
        WARM.run(run, config, session)
    with one_process():
        for stage in (PREPARE, MODEL, WARM):
            assert stage.run(run, config, session)
        assert not WARM.run(run, config, session), "finished"
        run.stage("select", settings={}, inputs=[], outputs=[], body=lambda cost: None)
        select(run)
        assert TRAIN.run(run, config, session)
    assert session.rooms == ["warm", "train"]
    log = read_log(run.path("warm", "log.jsonl"))
    assert len(log) == 6 and not run.path("warm", "checkpoints").exists()
    (cost,) = [cost for cost in run.costs() if cost["stage"] == "warm"]
    assert (cost["rollouts"], cost["generated_tokens"], cost["optimizer_steps"]) == (0, 0, 6)
    assert run.done("train")["inputs"]["warm"] == run.fingerprint("warm")
    warm, trained = (
        load_file(run.path(folder, "adapter", "adapter_model.safetensors"))
        for folder in ("warm", "policy")
    )
    assert any(warm[name].abs().max() > 1e-3 for name in warm if "lora_B" in name)
    assert all(abs(trained[name] - warm[name]).max() < 1e-6 for name in warm)
    assert "start_valid_ndcg@10" in read_log(run.path("policy", "log.jsonl"))[0]


def select(run):
    """A selection of the first 32 samples."""
    import pyarrow as pa

    from minirec.store.tables import read_table, write_table

    ids = read_table(run.path("corpus", "train.parquet"))["sample_id"].to_pylist()[:32]
    table = pa.table({"sample_id": ids, "rank": range(32)})
    write_table(run.path("selection.parquet"), table)


# --- With Ray ---


def warm_log(run_dir):
    return read_log(run_dir / "warm" / "log.jsonl")


def bytes_of(run_dir, folder="warm"):
    return (run_dir / folder / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Directory of a small run with corpus and model; not to be changed."""
    run_dir = tmp_path_factory.mktemp("prepared") / "run"
    for command in ("prepare", "model"):
        finish(run_dir, command)
    return run_dir


@pytest.fixture(scope="module")
def warm(prepared, tmp_path_factory):
    """Directory of a small run with a warm start; not to be changed."""
    run_dir = shutil.copytree(prepared, tmp_path_factory.mktemp("warm") / "run")
    finish(run_dir, "warm", *SMALL)
    return run_dir


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", [2, 3])
def test_two_workers_and_small_micro_batches_follow_the_same_curve(warm, tmp_path, stage):
    run_dir = shutil.copytree(warm, tmp_path / "two")
    shared = ["resources.training_workers=2", f"resources.zero_stage={stage}"]
    finish(
        *(run_dir, "warm", "--overwrite", *SMALL, *shared),
        "warm.training.prompts_per_micro_batch=4",
    )
    one, two = warm_log(warm)[:4], warm_log(run_dir)[:4]
    first = ("item_loss", "grad_norm")
    assert [two[0][k] for k in first] == pytest.approx([one[0][k] for k in first], rel=1e-4)
    for a, b in zip(one, two, strict=True):
        assert b["item_loss"] == pytest.approx(a["item_loss"], rel=0.1, abs=5e-3)
    assert one[-1]["item_loss"] != pytest.approx(one[0]["item_loss"], rel=1e-3)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_warm_start_ends_with_the_same_bytes(warm, prepared, tmp_path):
    run_dir = shutil.copytree(prepared, tmp_path / "run")
    process = start(run_dir, "warm", *SMALL)
    wait_for(lambda: steps_logged(run_dir, "warm") >= 3, process, "the third step")
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = [entry["seconds"] for entry in warm_log(run_dir)[:2]]
    finish(run_dir, "warm", *SMALL)
    assert bytes_of(run_dir) == bytes_of(warm)
    assert [entry["seconds"] for entry in warm_log(run_dir)[:2]] == before, "not repeated"


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_without_a_proxy(warm, tmp_path):
    run_dir = tmp_path / "run"
    words = [*SMALL, *ALONE, "evaluation.policies=[base, warm, proxy, trained]"]
    printed = finish(run_dir, "run", *words)
    assert "this run trains no proxy, left out" in printed
    assert bytes_of(run_dir) == bytes_of(warm)
    assert not (run_dir / "proxy").exists() and not Run(run_dir).done("proxy")
    assert (run_dir / "report.html").exists()
