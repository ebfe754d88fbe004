"""Loading settings: merging, and clear errors for invalid values."""

import subprocess
import sys

import pytest

from minirec.config import reading
from minirec.errors import ConfigError


def refused(*overrides):
    with pytest.raises(ConfigError) as caught:
        reading.load(None, list(overrides))
    return str(caught.value)


def test_file_preset_and_overrides_in_this_order(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("preset: paper\nselection: {groups: 3, alpha: 2.0}\n")
    loaded = reading.load(file, ["selection.alpha=0.5"])
    assert (loaded.preset, loaded.selection.groups, loaded.selection.alpha) == ("paper", 3, 0.5)
    assert loaded.selection.mu == 0.5


def test_one_setting_of_the_proxy_leaves_its_other_defaults():
    assert reading.load(None, ["proxy.training.max_failures=1"]).proxy.training.steps == 30


def test_the_default_has_a_prior_and_a_warm_start_and_the_paper_has_neither():
    found = reading.load()
    assert (found.model.prior, found.earlier_policies) == ("shortcut", ("warm",))
    assert (found.scoring.policy, found.training.start) == ("warm", "warm")
    assert (found.scoring.screen, found.scoring.rollouts) == ("prefill", 2)
    for training in (found.warm.training, found.training):
        assert training.validation_steps and training.patience
    for preset in ("paper", "paper-amazon"):
        found = reading.load(None, [f"preset={preset}"])
        assert (found.model.prior, found.earlier_policies) == ("none", ("proxy",))
        assert (found.scoring.screen, found.training.start) == (None, "base")
        assert (found.training.validation_steps, found.training.patience) == (None, None)


def test_dump_can_be_loaded_again(tmp_path):
    file = tmp_path / "run.yaml"
    first = reading.load(None, ["training.steps=3", "corpus.demo.users=50"])
    file.write_text(reading.dump(first))
    assert reading.load(file) == first


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.step=3", "did you mean training.steps?"),
        ("selection.buget=3", "did you mean selection.budget?"),
        ("selction.budget=3", "did you mean selection?"),
        ("budget=3", "did you mean selection.budget?"),
        ("training.steps=0", "training.steps=0"),
        ("training.steps=many", "'many'"),
        ("training.prompts_per_step=7", "multiple of workers x prompts_per_micro_batch"),
        ("resources.training_workers=3", "workers x prompts_per_micro_batch = 48"),
        ("rollout.engines=2", "did you mean resources.engines?"),
        ("training.workers=2", "did you mean resources.training_workers?"),
        ("rollout.tensor_parallel=2", "did you mean resources.gpus_per_engine?"),
        ("resources.engines=[3, 1]", "must rise: the fewest and the most engines"),
        ("resources.engines=some", "'some' is neither a number of engines nor a pair"),
        ("resources.engines=0", "0 is neither a number of engines nor a pair"),
        ("resources.gpus_per_engine=1.5", "nor a whole number of GPUs"),
        ("resources.gpus_per_worker=2", "one process computes on one GPU"),
        (
            "resources={training_workers: 2, gpus_per_worker: 0.5}",
            "training_workers 2 with gpus_per_worker 0.5 would put two workers on one GPU",
        ),
        ("resources.scorers=few", "resources.scorers"),
        ("corpus.source=amazon", "needs corpus.path"),
        ("corpus.split=[0.8,0.1,0.2]", "sum to 1"),
        ("corpus.end=soon", "corpus.end: 'soon' is not a date; write YYYY-MM-DD"),
        ("corpus.start=20240101", "20240101 is not a date"),
        ("corpus.start=2024-13-45", "month must be in 1..12"),
        ("corpus.path=my/data", "path has no effect with source demo"),
        ("corpus.columns={user: buyer}", "columns has no effect with source demo"),
        ("resources.gpu=A100", "'A100-80'"),
        ("selection=3", "it is a section; selection has alpha, budget"),
        ("evaluation.policies=[]", "evaluation.policies=[] is refused"),
        ("preset=best", "choose one of minirec, paper"),
        ("training", "write key=value"),
        ("training.learning_rate=.nan", "learning_rate"),
        ("selection.budget=1.0", "write 1, or 0.5 for half the corpus"),
        ("selection.budget=many", "'many' is neither a number of samples nor a share"),
        ("scoring.rollouts=[4, 2]", "must rise"),
        ("selection.budget=true", "True is neither"),
        ("scoring.rollouts=-1", "-1 is neither a number of rollouts nor a pair"),
        ("scoring.rollouts=[1, 2, 3]", "[1, 2, 3] is neither"),
        ("reward.name=hit@0", "choose ndcg_softmax"),
        ("evaluation.cutoffs=[0]", "cutoffs"),
        ("model.demo.heads=3", "multiple of twice the heads"),
        ("selection.unheard_of=1", "selection has alpha, budget"),
        ("training.step_deadline_s=600", "rollout.deadline_s together, 600: a step waits"),
        (
            "training={item_candidates: catalogue, item_refresh_steps: 5}",
            "set item_refresh_steps to 1 or item_candidates to batch",
        ),
        ("training.clip_high=1.5", "importance_cap 2 is below 1 + clip_high 1.5"),
        ("training={item_refresh_steps: 4}", "must be a multiple of item_refresh_steps 4"),
        ("corpus.split=[0.8, 0.2]", "[0.8, 0.2] is neither three shares nor leave_one_out"),
        ("corpus.split=[0.8, 0.1, a]", "neither three shares nor leave_one_out"),
        ("corpus.split=leave_two_out", "'leave_two_out' is neither"),
        ("compare.seeds=[]", "it is empty"),
        ("zzz=1", "the config has compare, corpus, evaluation"),
    ],
)
def test_refusals_name_the_key_and_the_way_out(override, words):
    assert words in refused(override)


@pytest.mark.parametrize(
    ("text", "words"), [("a: [", "line 1"), ("- 1", "holds a list"), ("b: \x00", "not valid YAML")]
)
def test_broken_files(tmp_path, text, words):
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        reading.load(file)


def test_a_dotted_key_in_a_file_is_told_how_to_be_nested(tmp_path):
    file = tmp_path / "dotted.yaml"
    file.write_text("model.demo.layers: 3\n")
    with pytest.raises(ConfigError, match=r"nest it there, model: \{demo: \{layers: \.\.\.\}\}"):
        reading.load(file)


def test_every_setting_is_described():
    found = reading.described()
    assert [key for key, _, _ in found] == reading.valid_keys()
    assert [key for key, _, meaning in found if not meaning] == []
    assert {key: default for key, default, _ in found}["selection.min_lift"] == 0.1  # the preset's


def test_the_settings_of_a_section_or_one():
    assert {key.split(".")[0] for key, _, _ in reading.described("reward")} == {"reward"}
    ((key, default, meaning),) = reading.described("selection.fusion")
    assert (key, default) == ("selection.fusion", "sum") and meaning.endswith("(sum, rank)")
    with pytest.raises(ConfigError, match=r"did you mean selection\?"):
        reading.described("selecton")


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        reading.load(tmp_path / "none.yaml")


def test_budget_counts_and_shares():
    def selection(budget):
        return reading.load(None, [f"selection.budget={budget}"]).selection

    assert selection(100).count(1000) == 100
    assert selection(0.25).count(1000) == 250
    assert selection(0.0001).count(1000) == 1


def test_a_part_of_the_corpus_is_scored():
    def scored(samples):
        return reading.load(None, [f"scoring.samples={samples}"]).scoring.count(1000)

    assert [scored(s) for s in ("null", 100, 2000, 0.25)] == [1000, 100, 1000, 250]
    with pytest.raises(ConfigError, match=r"samples 1.0 is not a share below 1; write null"):
        scored(1.0)
    for budget, samples in ((0.5, 0.4), (50, 40)):
        words = [f"selection.budget={budget}", f"scoring.samples={samples}"]
        with pytest.raises(ConfigError, match=f"budget {budget} exceeds scoring.samples {samples}"):
            reading.load(None, words)
        assert reading.load(None, [*words, "selection.method=full"])


def test_config_loads_neither_torch_nor_ray():
    code = "import sys, minirec.config; print(*{'torch', 'ray', 'transformers'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == ""


def test_less_needs_validation_samples():
    words = refused("selection.method=less", "scoring.validation_samples=0")
    assert "scoring.validation_samples" in words
    reading.load(None, ["scoring.validation_samples=0"])


def test_a_window_runs_forward(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("corpus: {start: 2024-02-01, end: 2024-01-01}")
    with pytest.raises(ConfigError, match="start 2024-02-01 is not before end 2024-01-01"):
        reading.load(file)
    file.write_text("corpus: {start: 2024-13-01}")
    with pytest.raises(ConfigError, match="wrong date: month must be in 1..12"):
        reading.load(file)


def test_a_leading_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/u")
    words = ["corpus.source=table", "corpus.path=~/shop", "corpus.ratings=~/shop/r.csv"]
    words += ["corpus.metadata=~/i.csv", "run_dir=~/runs/a", "model.name=~/models/b"]
    found = reading.load(None, words)
    assert found.run_dir == "/home/u/runs/a"
    assert found.model.name == "/home/u/models/b"
    corpus = found.corpus
    assert (corpus.path, corpus.ratings) == ("/home/u/shop", "/home/u/shop/r.csv")
    assert corpus.metadata == "/home/u/i.csv"


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("~/mlruns", "/home/u/mlruns"),
        ("sqlite:///~/mlflow.db", "sqlite:////home/u/mlflow.db"),
        ("file:~/mlruns", "file:/home/u/mlruns"),
        ("http://host/~user", "http://host/~user"),
    ],
)
def test_the_home_folder_in_a_tracking_address(monkeypatch, given, found):
    monkeypatch.setenv("HOME", "/home/u")
    assert reading.load(None, [f"tracking.mlflow={given}"]).tracking.mlflow == found


def test_what_only_looks_like_a_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/u")
    kept = ["s3://bucket/~/runs", "a/~/b", "./~/runs"]
    assert [reading.load(None, [f"run_dir={path}"]).run_dir for path in kept] == kept
    words = refused("run_dir=~nobody-of-this-name/x")
    assert words.startswith("run_dir: ~nobody-of-this-name of ")
    assert "is not a home folder of this machine; write the path out" in words


NUMBERS = [
    *("selection.budget", "scoring.samples", "training.learning_rate", "training.steps"),
    *("rollout.deadline_s", "model.demo.layers", "corpus.min_rating"),
    *("selection.mu", "training.importance_cap", "resources.gpus_per_engine"),
]


@pytest.mark.parametrize("key", NUMBERS)
def test_no_number_is_infinite_or_beyond_meaning(key):
    for value, words in (
        (".inf", "inf is not finite"),
        (".nan", "nan is not finite"),
        ("1000000001", "1000000001 is too large; the largest is 1,000,000,000"),
        ("1.0e+300", "1e+300 is too large"),
    ):
        assert f"{key}: {words}" in refused(f"{key}={value}")
    for lists in ("compare.budget", "sweep.alpha", "corpus.split", "corpus.rating_range"):
        assert "inf is not finite" in refused(f"{lists}=[0.1, .inf, 0.2]")


def test_a_number_that_yaml_reads_as_text_is_bounded_too():
    assert "rollout.deadline_s: 1e+300 is too large" in refused("rollout.deadline_s=1e300")


def test_seeds_may_be_large():
    assert reading.load(None, ["seed=9223372036854775807"]).seed == 2**63 - 1
    assert "is too large" in refused("seed=9223372036854775808")


def test_a_cost_in_tokens_may_exceed_other_numbers():
    config = reading.load(
        None, ["training.token_limit=1000000000000", "compare.tokens=1000000000000"]
    )
    assert config.training.token_limit == config.compare.tokens == 10**12
    assert "the largest is 1,000,000,000,000,000" in refused(
        "training.token_limit=10000000000000000"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["training.loss=supervised", "training.kl_steps=1"],
            "training: kl_steps compares the probabilities of written tokens",
        ),
        (
            ["training.loss=supervised", "training.max_log_ratio=1"],
            "training: max_log_ratio compares the probabilities of written tokens",
        ),
        (
            ["training.loss=supervised", "training.kl_weight=0.1"],
            "training: kl_weight 0.1 acts on rollouts, but loss supervised has none; set kl_weight",
        ),
        (
            ["training.loss=supervised", "training.weighting=middle"],
            "weighting middle acts on rollouts, but loss supervised has none; set weighting to",
        ),
        (
            ["training.loss=gspo", "training.credit=prefill"],
            "credit prefill gives the tokens of a rollout different advantages, but loss gspo is",
        ),
        (
            ["training.live_tokens=true", "training.credit=prefill"],
            "live_tokens leaves out the tokens of groups with equal rewards, but with credit",
        ),
        (
            ["reward.feedback=comparison", "training.credit=prefill"],
            "training.credit prefill compares rewards of answers, but with reward.feedback",
        ),
        (
            ["training.live_tokens=true", "training.entropy_weight=0.1"],
            "entropy_weight counts the tokens of all groups, but live_tokens divides by those",
        ),
        (
            ["training.live_tokens=true", "training.loss=gspo"],
            "live_tokens replaces the number of tokens that divides a loss, but loss gspo is",
        ),
        (
            ["reward.comparison_noise=0.1"],
            "reward: comparison_noise 0.1 acts on comparisons, but feedback is score",
        ),
        (
            ["reward.feedback=comparison", "training.loss=maxrl"],
            "training.loss maxrl divides by the mean reward of a group, but with reward.feedback",
        ),
        (
            ["training.loss=gpso"],
            "'gpso' is unknown; did you mean gspo?",
        ),
        (
            ["training.staleness=1", "training.max_log_ratio=1"],
            "training: max_log_ratio expects engine and trainer to have the same weights",
        ),
        (
            ["training.loss=supervised", "training.staleness=1"],
            "training: staleness 1 writes rollouts one step ahead, but loss supervised has no",
        ),
        (
            ["training.item_negatives=5", "training.item_candidates=catalogue"],
            "training: item_negatives 5 joins the targets of a step, but item_candidates catalogue",
        ),
        (
            ["proxy.training.item_negatives=null", "proxy.training.item_candidates=corrected"],
            "item_negatives null joins the targets of a step, but item_candidates corrected does",
        ),
        (["training.item_negatives=-1"], "item_negatives=-1 is refused"),
        (["warm.training.loss=grpo"], "warm.training.loss='grpo' is refused"),
        (["warm.training.start=proxy"], "warm.training.start='proxy' is refused"),
        (["proxy.training.start=proxy"], "proxy.training.start='proxy' is refused"),
        (["warm.samples=1.0"], "samples 1.0 is not a share below 1; write null"),
        (["warm.samples=0"], "warm.samples=0 is refused"),
        (
            ["training.start=warm", "resources.training_workers=3"],
            "must be a multiple of workers x prompts_per_micro_batch = 48",
        ),
    ],
)
def test_what_a_training_without_rollouts_cannot_have(words, message):
    assert message in refused(*words)


def test_the_warm_start_has_defaults_of_its_own():
    found = reading.load(None, ["warm.training.learning_rate=1e-3"]).warm.training
    assert (found.loss, found.start, found.steps) == ("supervised", "base", 100)
    assert (found.prompts_per_step, found.prompts_per_micro_batch) == (128, 32)
    assert found.lr_schedule == "linear"


def test_workers_and_deadlines_of_a_warm_start_count_only_where_it_is_used():
    words = ["preset=paper", "resources.training_workers=3"]
    words += ["training.prompts_per_step=48", "proxy.training.prompts_per_step=48"]
    assert reading.load(None, words)
    used = refused(*words, "training.start=warm")
    assert "prompts_per_step 128 must be a multiple of workers x prompts_per_micro_batch" in used
    # It waits for no engine.
    assert reading.load(None, ["training.start=warm", "warm.training.step_deadline_s=5"])


WITHOUT = ["rollout.max_new_tokens=0", "training.loss=supervised"]
"""The policy writes no analysis."""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (WITHOUT[:1], "set training.loss to supervised, or max_new_tokens above 0"),
        ([*WITHOUT, "scoring.policy=proxy"], "set proxy.training.loss to supervised, or"),
        ([*WITHOUT, "selection.method=less"], "set selection.method to another one"),
        ([*WITHOUT, "selection.directions=head_gradient"], "set selection.directions to head_hvp"),
    ],
)
def test_without_an_analysis_nothing_may_learn_from_rollouts(words, said):
    with pytest.raises(ConfigError, match=said):
        reading.load(None, words)


def test_without_an_analysis_scoring_has_one_answer_and_no_screen():
    cheap = ["scoring.rollouts=[2, 4]", "scoring.screen=prefill"]
    found = reading.load(None, [*WITHOUT, *cheap]).effective_scoring
    assert found.stages == (1,) and found.screen is None
    config = reading.load(None, cheap)
    assert config.effective_scoring is config.scoring
    proxy = [*WITHOUT, "scoring.policy=proxy", "proxy.training.loss=supervised"]
    assert reading.load(None, proxy).earlier_policies


def test_settings_from_python_are_those_of_the_command_line(tmp_path):
    file = tmp_path / "some.yaml"
    file.write_text("preset: paper\nselection: {budget: 0.3, groups: 2}\n")
    wanted = reading.load(file, ["training.steps=7", "selection.budget=12"])
    values = {"training.steps": 7, "selection": {"budget": 12}}
    assert reading.configured(file, values) == reading.configured(str(file), values) == wanted
    tree = {"preset": "paper", "selection": {"budget": 0.3}, "selection.groups": 2}
    assert reading.configured(tree, values) == wanted
    assert tree["selection"] == {"budget": 0.3}, "the caller's dict has changed"
    assert reading.configured(reading.load(file), values) == wanted
    assert reading.configured(None, {}) == reading.load()


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        ({"training": {"stps": 3}}, {}, r"did you mean training\.steps"),
        ({}, {"selection": 3}, "selection=3 is refused: it is a section"),
        (3, {}, "the config is a int; give the path"),
        (reading.load(), {"preset": "paper"}, "preset=paper has no effect on a Config"),
    ],
)
def test_wrong_settings_from_python(config, values, message):
    with pytest.raises(ConfigError, match=message):
        reading.configured(config, values)
