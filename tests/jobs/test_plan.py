"""What a run would do, and what is refused before it starts."""

import importlib
import subprocess
import sys

import pytest

from jobs import cli
from jobs.fingerprint import rollout_settings
from jobs.plan import plan
from jobs.run import STAGES
from minirec.config.reading import load
from minirec.errors import ConfigError, CorpusError
from minirec.store.files import write_json
from minirec.store.run import Run, flatten


def planned(*words, **options):
    """The rows of a plan: value by (stage, quantity)."""
    return {(stage, what): value for stage, what, value in plan(load(None, list(words)), **options)}


def test_plan_loads_neither_ray_nor_torch(tmp_path):
    words = ["plan", f"run_dir={tmp_path}", "compare.methods=[minirec]"]
    code = (
        f"import sys; from jobs import cli; cli.main({words})\n"
        "print({'torch', 'ray', 'transformers', 'vllm'} & {*sys.modules})"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "│ compare" in printed and printed.endswith("\nset()\n")


def test_plan_counts_rollouts_of_the_demo(tmp_path):
    words = [f"run_dir={tmp_path}", "corpus.demo.users=100", "scoring.rollouts=3"]
    words += ["scoring.screen=null"]
    words += ["training.steps=7", "training.prompts_per_step=32", "training.rollouts_per_prompt=4"]
    rows = planned(*words)
    samples = int(rows["prepare", "training samples"].removeprefix("about ").replace(",", ""))
    assert rows["score", "rollouts"] == f"about {samples * 4:,} (3 and a greedy one)"
    assert rows["train", "rollouts"] == f"{7 * 32 * 4:,}"


def test_plan_bounds_cheaper_scoring_and_shows_what_it_needed(tmp_path):
    words = [f"run_dir={tmp_path}", "scoring.screen=prefill", "scoring.rollouts=[2, 4]"]
    run = Run(tmp_path, say=lambda _: None)
    write_json(run.path("corpus", "corpus.json"), {"samples": {"train": 1000}})
    rows = planned(*words)
    most = "5,000 (2 to 4 and a greedy one; none where screened)"
    assert rows["score", "rollouts, at most"] == most
    assert ("score", "rollouts made") not in rows

    def body(cost):
        cost.rollouts = 1234

    run.stage("score", settings={"scoring": {"rollouts": (2, 4)}}, inputs=[], outputs=[], body=body)
    assert planned(*words)["score", "rollouts made"] == "1,234 of 5,000"


def test_plan_of_live_selection_scores_nothing(tmp_path):
    words = [f"run_dir={tmp_path}", "selection.mode=live", "selection.budget=0.25"]
    write_json(tmp_path / "corpus" / "corpus.json", {"samples": {"train": 1000}})
    rows = planned(*words)
    assert not {stage for stage, _ in rows} & {"proxy", "score", "gradients", "select"}
    assert rows["train", "prompts in an epoch"] == "250 of 1,000 samples, chosen in each step"
    assert rows["train", "live rule"] == "band, lift from 0.02 to 0.98"
    assert rows["train", "measured, at most"] == "15% of the tokens of the training (live.share)"
    assert rows["train", "optimizer steps"] == "8 of 32 prompts"
    rows = planned(*words, "live.share=0", "live.rule=value", "live.scores=true")
    assert rows["train", "measured, at most"].startswith("0: lifts are known from rollouts only")
    assert rows["train", "live rule"].startswith("value") and ("score", "shards") in rows


def test_plan_of_live_selection_before_the_samples_are_counted(tmp_path):
    files = ["corpus.source=table", f"corpus.path={tmp_path}", "selection.mode=live"]
    rows = planned(f"run_dir={tmp_path / 'run'}", *files, starts=False)
    assert ("train", "live rule") in rows and ("score", "rollouts") not in rows


@pytest.mark.parametrize("command", ["train", "run", "plan"])
def test_live_selection_of_a_corpus_smaller_than_a_step_is_refused(tmp_path, command):
    words = [f"run_dir={tmp_path}", "selection.mode=live", "training.start=base"]
    words.append("training.prompts_per_step=64")
    write_json(tmp_path / "corpus" / "corpus.json", {"samples": {"train": 63}})
    with pytest.raises(ConfigError, match="takes training.prompts_per_step 64 different samples"):
        planned(*words, command=command)


def test_select_has_nothing_to_do_with_live_selection(tmp_path):
    with pytest.raises(
        ConfigError, match="chooses the samples of each step during `minirec train`"
    ):
        planned(f"run_dir={tmp_path}", "selection.mode=live", command="select")


def test_plan_looks_at_the_files_of_the_corpus(tmp_path):
    words = [f"run_dir={tmp_path / 'run'}", "corpus.source=table", f"corpus.path={tmp_path}"]
    with pytest.raises(CorpusError, match="lacks an interactions file"):
        planned(*words)
    assert "lacks an interactions file" in planned(*words, starts=False)["prepare", "files"]
    (tmp_path / "events.csv").write_text("user,item,time\nu,i,1\n")
    with pytest.raises(CorpusError, match="'title'.*or corpus.metadata to a file with the catal"):
        planned(*words)
    (tmp_path / "items.csv").write_text("item,title\ni,Item\n")
    words += ["training.steps=5", "compare.methods=[random, minirec]", "compare.seeds=[1]"]
    rows = planned(*words)
    assert "known once" in rows["score", "rollouts"]
    assert rows["train", "optimizer steps"] == "5 of 32 prompts"
    assert rows["compare", "trials"] == "9"  # two methods at four budgets, and full data
    with pytest.raises(ConfigError, match="budget=0"):
        planned(*words, "compare.budget=[0]")
    # A finished corpus no longer needs its files.
    write_json(tmp_path / "run" / "corpus" / "corpus.json", {"samples": {"train": 177}})
    (tmp_path / "events.csv").unlink()
    for again in (False, True):
        assert planned(*words, again=again)


def test_plan_does_not_take_the_count_of_another_corpus(tmp_path):
    config = load(None, [f"run_dir={tmp_path}", "corpus.demo.users=40"])
    run = Run(tmp_path, say=lambda text: None)
    settings = {"corpus": config.corpus.model_dump(mode="json"), "files": []}

    def body(cost):
        write_json(run.path("corpus", "corpus.json"), {"samples": {"train": 223}})

    run.stage("prepare", settings=settings, inputs=[], outputs=["corpus"], body=body)
    assert plan(config)[0][2] == "223"
    other = planned(f"run_dir={tmp_path}", "corpus.demo.users=400")
    assert other["prepare", "training samples"].startswith("about")


def test_plan_counts_the_part_that_is_scored(tmp_path):
    write_json(tmp_path / "corpus" / "corpus.json", {"samples": {"train": 1000}})
    words = [f"run_dir={tmp_path}", "scoring.samples=0.4", "scoring.rollouts=3"]
    rows = planned(*words)
    most = "1,600 (3 and a greedy one; none where screened)"
    assert rows["score", "rollouts, at most"] == most
    assert rows["score", "shards"] == "7"
    assert rows["select", "budget"] == "100 in 4 groups", "a share is one of the whole corpus"
    with pytest.raises(ConfigError, match="500 exceeds the 400 scored training samples"):
        planned(*words, "selection.budget=500")


def test_plan_counts_the_trials_of_a_comparison(tmp_path):
    two = ["compare.methods=[random, minirec]", "compare.budget=[10, 20]", "compare.seeds=[1]"]
    words = [f"run_dir={tmp_path}", *two, "compare.steps=5", "compare.full_steps=7"]
    rows = planned(*words)
    assert rows["compare", "trials"].startswith("5: 5 settings")
    assert rows["compare", "optimizer steps, at most"] == "27"  # 2 methods x 2 budgets x 5, full
    with pytest.raises(ConfigError, match="budget 99999 exceeds"):
        planned(*words, "compare.budget=[99999]")
    twice = "compare.budget=[0.5, 1176]"
    assert cli.main(["plan", *words, twice]) == 0, "2,352 samples are an estimate"
    write_json(tmp_path / "corpus" / "corpus.json", {"samples": {"train": 2352}})
    with pytest.raises(ConfigError, match="both budgets are 1,176 of 2,352 samples"):
        planned(*words, twice)


def test_plan_says_what_the_trials_of_a_variant_may_cost(tmp_path):
    words = [f"run_dir={tmp_path}", "compare.variants={one: {}, two: {training.start: base}}"]
    rows = planned(*words, "compare.seeds=[1, 2]", "compare.tokens=5000000", "compare.steps=7")
    assert rows["compare", "trials"].startswith("8: 4 settings")
    assert rows["compare", "forward-equivalent tokens"] == "4 trials may each cost 5,000,000 in all"
    assert rows["compare", "optimizer steps, at most"] == "28"  # 2 variants x 2 seeds x 7
    assert (
        planned("training.token_limit=900")["train", "forward-equivalent tokens"] == "ends at 900"
    )


def test_trials_are_checked_only_for_the_commands_that_run_them(tmp_path):
    wrong = [f"run_dir={tmp_path}", "compare.methods=[minirec]", "compare.budget=[99999]"]
    assert planned(*wrong, command="train")
    with pytest.raises(ConfigError, match="trial minirec_steps.*: selection.budget 99999 exceeds"):
        planned(*wrong, command="compare")


def test_plan_counts_validation_rollouts_only_where_they_are_used():
    what = ("gradients", "rollouts, at most")
    assert what not in planned("selection.method=top_reward")
    assert what not in planned("selection.directions=lora_projected")
    less = planned("selection.method=less", "scoring.rollouts=3")
    assert less[what] == "1,024 of validation samples"


def test_plan_shows_staleness_only_if_it_is_set():
    rows = planned("training.staleness=1")
    assert [stage for stage, what in rows if what == "staleness"] == ["train"]
    assert "staleness" not in str(planned())


def test_plan_counts_all_samples_for_full(tmp_path):
    write_json(tmp_path / "corpus" / "corpus.json", {"samples": {"train": 1000}})
    words = [f"run_dir={tmp_path}", "selection.method=full", "selection.budget=3"]
    rows = planned(*words)
    assert rows["select", "budget"] == "1,000 in 4 groups"
    assert rows["train", "optimizer steps"].startswith("32 of 32")


def test_a_command_is_refused_only_for_the_stages_that_it_runs(tmp_path):
    write_json(tmp_path / "corpus" / "corpus.json", {"samples": {"train": 21}})
    # The warm start of the default would need 128 samples.
    words = [f"run_dir={tmp_path}", "preset=paper", "selection.budget=0.1", "selection.groups=4"]
    for command in ("prepare", "proxy", "score", "gradients", "train", "report"):
        assert planned(*words, command=command)
    for command in ("select", "run", "plan"):
        with pytest.raises(ConfigError, match="selection.groups 4 exceeds the budget of 2 samples"):
            planned(*words, command=command)


def test_trackers_are_checked_for_commands_that_train(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    words = [f"run_dir={tmp_path}", "tracking.mlflow=x"]
    assert planned(*words, command="prepare")
    for command in ("train", "plan"):
        with pytest.raises(ConfigError, match="needs the package mlflow"):
            planned(*words, command=command)


def test_a_demo_model_that_vllm_cannot_run(tmp_path):
    small = [f"run_dir={tmp_path}", "model.demo.hidden_size=64", "model.demo.heads=4"]
    with pytest.raises(ConfigError, match="64 over 4 heads is 16 for each; on CPUs vLLM supp"):
        planned(*small, "rollout.engine=vllm", command="train")
    assert planned(*small, "rollout.engine=vllm", command="select"), "select uses no engine"
    for other in ("rollout.engine=transformers", "model.name=Qwen/Qwen2.5-0.5B-Instruct"):
        assert planned(*small, other, command="train")
    assert planned(*small[:2], "model.demo.heads=2", "rollout.engine=vllm")


def test_plan_names_the_engine_and_warns_of_groups_of_two(tmp_path):
    words = [f"run_dir={tmp_path}", "preset=paper", "training.steps=5"]
    words += ["rollout.engine=transformers"]
    rows = planned(*words)
    assert ("proxy", "rollouts") in rows
    assert rows["resources", "rollout library"] == "transformers: rollout.engine=transformers"
    assert ("train", "advantages") not in rows
    rows = planned(*words, "training.rollouts_per_prompt=2")
    assert "groups of two give only +1, -1 or 0" in rows["train", "advantages"]
    assert ("proxy", "advantages") not in rows
    unscaled = ["training.rollouts_per_prompt=2", "training.scale_advantage=false"]
    assert ("train", "advantages") not in planned(*words, *unscaled)


@pytest.mark.parametrize(
    ("min_history", "samples"),
    [(1, 420 * 5), (5, 420), (6, 420 * 2), (7, 420)],
)
def test_plan_counts_the_samples_of_leave_one_out(tmp_path, min_history, samples):
    """Each of 420 users has 8 events. Users with fewer than three targets are in train."""
    words = ["corpus.split=leave_one_out", f"corpus.min_history={min_history}"]
    rows = planned(f"run_dir={tmp_path}", "selection.groups=1", *words)
    assert rows["prepare", "training samples"] == f"about {samples:,}"


def test_plan_of_the_default_has_a_warm_start_and_no_proxy(tmp_path):
    write_json(tmp_path / "corpus" / "corpus.json", {"samples": {"train": 1000}})
    rows = planned(f"run_dir={tmp_path}")
    assert rows["warm", "optimizer steps"] == "100 of 128 prompts"
    assert "proxy" not in {stage for stage, _ in rows}
    assert rows["score", "rollouts, at most"] == "3,000 (2 and a greedy one; none where screened)"
    write_json(tmp_path / "corpus" / "corpus.json", {"samples": {"train": 21}})
    for command in ("run", "plan"):
        with pytest.raises(ConfigError, match="the warm start has 21 training samples"):
            planned(f"run_dir={tmp_path}", command=command)


def test_plan_counts_a_warm_start_where_it_is_used(tmp_path):
    words = [f"run_dir={tmp_path}", "preset=paper", "warm.samples=0.5"]
    assert "warm" not in {stage for stage, _ in planned(*words)}
    write_json(tmp_path / "corpus" / "corpus.json", {"samples": {"train": 1000}})
    epochs = ["warm.training.steps=null", "warm.training.epochs=2"]
    rows = planned(*words, "training.start=warm", *epochs)
    assert rows["warm", "optimizer steps"] == "8 of 128 prompts"
    assert ("warm", "rollouts") not in rows and ("proxy", "rollouts") in rows
    alone = planned(*words, "training.start=warm", "scoring.policy=warm")
    assert "proxy" not in {stage for stage, _ in alone}
    assert planned(*words, command="warm")["warm", "optimizer steps"] == "100 of 128 prompts"
    supervised = planned(*words, "training.loss=supervised")
    assert ("train", "rollouts") not in supervised


def test_plan_refuses_a_warm_start_with_fewer_samples_than_a_step(tmp_path):
    write_json(tmp_path / "corpus" / "corpus.json", {"samples": {"train": 1000}})
    words = [f"run_dir={tmp_path}", "training.start=warm", "warm.samples=0.1"]
    message = "the warm start has 100 training samples, but one step takes"
    for command in ("warm", "run", "plan", "select", "compare"):
        with pytest.raises(ConfigError, match=message):
            planned(*words, "compare.methods=[random]", command=command)
    assert planned(*words, command="prepare")


def test_plan_without_an_analysis_has_no_rollouts_and_no_engines(tmp_path):
    words = ["rollout.max_new_tokens=0", "training.loss=supervised", f"run_dir={tmp_path}"]
    rows = planned(*words)
    assert rows["score", "rollouts"] == "0: the policy ranks right after the prompt"
    assert rows["score", "tokens, at most"] == "0"
    assert rows["resources", "rollout engines"] == "none"
    assert rows["resources", "rollout library"].startswith("none: rollout.max_new_tokens=0")
    assert not {("train", "rollouts"), ("proxy", "rollouts")} & {*rows}
    with pytest.raises(ConfigError, match=r"proxy\.training\.loss grpo compares the rollouts"):
        planned(*words, command="proxy")


def test_without_an_analysis_no_other_setting_of_rollouts_is_in_a_fingerprint():
    words = ["rollout.max_new_tokens=0", "training.loss=supervised"]
    found = [
        rollout_settings(load(None, [*words, *more]))
        for more in ([], ["rollout.engine=vllm", "rollout.temperature=2"])
    ]
    assert found == [{"max_new_tokens": 0}] * 2


def test_plan_looks_for_the_weights_of_items(tmp_path):
    (tmp_path / "events.csv").write_text("user,item,time\nu,a,2020-01-01\n")
    (tmp_path / "items.csv").write_text("item,title,cost\na,A,1\n")
    words = [f"run_dir={tmp_path / 'run'}", "corpus.source=table", f"corpus.path={tmp_path}"]
    found = plan(load(None, [*words, "reward.item_weight=cost"]))
    assert ("prepare", "weights of items", "the column cost of the catalogue") in found
    lacking = load(None, [*words, "reward.item_weight=price"])
    with pytest.raises(CorpusError, match="no column 'price'; found 'item', 'title', 'cost'; set"):
        plan(lacking, command="run")
    assert not any("weights" in row for row in plan(load(None, words)))


def test_weights_of_items_are_in_the_fingerprints_of_what_they_change(tmp_path):
    run = Run(tmp_path / "run")
    plain, weighted = load(), load(None, ["reward.item_weight=margin"])
    changed = set()
    for stage in STAGES:
        if stage.name == "gradients":  # it reads `score`, and its settings need a finished stage
            continue
        before, after = (flatten(stage.settings(run, config)) for config in (plain, weighted))
        assert "reward.item_weight" not in before
        if after != before:
            assert after == before | {"reward.item_weight": "margin"}
            changed.add(stage.name)
    expected = {"prepare", "prior", "warm", "proxy", "score", "select", "train", "evaluate"}
    assert changed == expected


def test_neutral_objectives_are_in_no_fingerprint(tmp_path):
    run = Run(tmp_path / "run")
    stages = {stage.name: stage for stage in STAGES if stage.name in ("score", "train")}
    settings = {
        "training.loss": "gspo",
        "training.kl_weight": 0.5,
        "training.entropy_weight": 0.1,
        "training.weighting": "hard",
        "feedback.feedback": "comparison",
    }
    words = [f"{key.replace('feedback.f', 'reward.f')}={value}" for key, value in settings.items()]
    changed = load(None, words)
    before, after = (
        {name: flatten(stage.settings(run, config)) for name, stage in stages.items()}
        for config in (load(), changed)
    )
    assert not before["train"].keys() & settings.keys()
    assert settings.items() <= after["train"].items()
    assert after["score"] == before["score"]


def test_a_loss_that_cannot_be_imported_is_refused(tmp_path):
    words = [f"run_dir={tmp_path}", "training.loss=no_such_module:loss"]
    with pytest.raises(ConfigError, match="training.loss='no_such_module:loss' cannot be imported"):
        plan(load(None, words))
