"""The trials of a comparison and their evaluation, by hand-computed cases."""

import numpy as np
import pytest

from minirec.config.reading import load
from minirec.corpus import schema
from minirec.errors import ConfigError
from minirec.evaluation.diagnostics import Correlation
from minirec.evaluation.outcomes import Curve, outcomes, reached
from minirec.evaluation.paired import Bootstrap, differences, holm
from minirec.evaluation.standings import race
from minirec.evaluation.trials_page import comparison_page
from minirec.trials.trial import trials_of

TWO = Bootstrap(np.arange(2), resamples=200, seed=3)
FORTY = Bootstrap(np.arange(40), resamples=200, seed=3)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_constant_difference_has_no_spread_and_none_is_not_significant():
    noise = np.random.default_rng(0).random((3, 40))
    found = differences({"more": noise + 0.5, "same": noise}, noise, FORTY)
    more, same = found["more"], found["same"]
    assert [more.mean, more.low, more.high] == pytest.approx([0.5] * 3)
    assert more.p == pytest.approx(2 / 201)
    assert more.p_holm == pytest.approx(4 / 201)
    assert (same.mean, same.low, same.high, same.p_holm) == (0, 0, 0, 1)
    with pytest.raises(ValueError, match=r"short has shape \(2, 40\); expected \(3, 40\)"):
        differences({"short": noise[:2]}, noise, FORTY)


def curve(*ndcg, charged=100):
    count = range(1, len(ndcg) + 1)
    return Curve(
        ndcg=list(ndcg),
        steps=[5 * i for i in count],
        samples=[min(30, 10 * i) for i in count],
        rollouts=[charged + 20 * i for i in count],
        seconds=[charged / 10 + i for i in count],
        tokens=[1000 * i for i in count],
        cost={},
    )


def test_many_rows_can_still_be_significant():
    """With few resamples, the smallest p times the number of rows would exceed any level."""
    noise = np.random.default_rng(0).normal(size=(3, 200))
    rows = {number: noise + 1 for number in range(60)}
    found = differences(rows, noise, Bootstrap(np.arange(200), resamples=1000, seed=0))
    assert {one.p_holm < 0.05 for one in found.values()} == {True}


def test_the_first_validation_that_is_good_enough_counts():
    found = curve(0.1, 0.3, 0.2, 0.4)
    assert reached(found, goal=0.3) == {
        "reached_step": 10,
        "reached_samples": 20,
        "reached_rollouts": 140,
        "reached_seconds": 12.0,
        "reached_tokens": 2000,
    }
    assert set(reached(found, goal=0.5).values()) == {None}


def trained(method, seed, ndcg, *, samples=30, there=None, table="steps"):
    """A row of the table and the test NDCG@10 of its trial."""
    setting = f"{method}_{table}_{samples}"
    row = {"trial": f"{setting}_{seed}", "setting": setting, "method": method, "table": table}
    row |= {"samples": samples, "seed": seed, "rollouts": 400, "seconds": 40.0, "variant": None}
    row |= {"valid_ndcg@10": float(np.mean(ndcg)), "reached_step": there and 1}
    row |= {"dead_groups": 0.5, "gain_kept": 0.25, "gain_dropped": None}
    row |= {"reached_samples": there and 20, "reached_rollouts": there, "reached_seconds": there}
    return row, np.array(ndcg, dtype=float)


def race_of(trials, *, references, table="steps"):
    rows = [row for row, _ in trials]
    found = outcomes(rows, {row["trial"]: ndcg for row, ndcg in trials})
    return race(found, TWO, table=table, references=references)


def small_race(references=("random", "paper", "full")):
    full = {"samples": 300, "table": ""}
    return race_of(
        [
            trained("random", 2, [0.0, 1.0]),
            trained("random", 1, [0.0, 0.0]),
            trained("minirec", 1, [0.5, 0.5], there=100),
            trained("minirec", 2, [0.5, 1.5]),
            trained("minirec", 1, [9.0, 9.0], table="epochs"),
            trained("full", 1, [1.0, 1.0], **full),
            trained("full", 2, [1.0, 1.0], **full),
        ],
        references=references,
    )


def test_places_by_quality_with_full_data_last():
    found = small_race()
    assert [p.outcome.method for p in found.places] == ["minirec", "random", "full"]
    assert found.references == ["random", "full"]
    ours = found.places[0]
    assert ours.standing.mean == 0.75  # the value of this table
    # Seed by seed: [0.5, 0.5] - [0, 0] and [0.5, 1.5] - [0, 1].
    versus = ours.differences["random"]
    assert [versus.mean, versus.low, versus.high] == pytest.approx([0.5] * 3)
    assert found.places[1].differences["random"] is None
    assert ours.differences["full"].mean == pytest.approx(-0.25)
    assert (len(ours.reached), ours.outcome.seeds) == (1, {1, 2})
    assert ours.share("rollouts") == 0.25
    assert found.places[1].share("rollouts") is None


def test_any_method_can_be_the_reference():
    found = small_race(["minirec"])
    assert found.references == ["minirec"]
    ours, random, full = found.places
    assert (ours.differences["minirec"], full.differences["minirec"]) == (None, None)
    assert random.differences["minirec"].mean == pytest.approx(-0.5)


def test_where_a_seed_has_failed_there_is_no_difference():
    found = race_of(
        [
            trained("random", 1, [0.0, 0.0]),
            trained("random", 3, [0.0, 1.0]),
            trained("minirec", 2, [0.5, 0.5]),
            *(trained("kmeans", seed, [0.5, 0.5]) for seed in (1, 2, 3)),
            trained("random", 1, [0.0, 0.0], samples=60),
            trained("minirec", 1, [0.5, 0.5], samples=60),
        ],
        references=["random"],
    )
    assert [place.differences["random"] for place in found.places] == [None] * 5


def test_as_many_seeds_are_no_pair_where_they_are_others():
    """Each method lacks another seed."""
    found = race_of(
        [trained("random", 1, [0.0, 0.0]), trained("minirec", 2, [0.5, 0.5])],
        references=["random"],
    )
    assert [place.differences["random"] for place in found.places] == [None] * 2


def test_the_page_has_every_row_and_escapes():
    found = small_race()
    row = dict.fromkeys(schema.TRIALS.names)
    rows = [row | {"trial": "<b>x</b>", "status": "failed", "cause": "<script>"}]
    trials = {row["trial"] for place in found.places for row in place.outcome.rows}
    page = comparison_page(
        "demo",
        rows=rows,
        races=[found],
        curves=dict.fromkeys(trials, curve(0.1, 0.2)),
        reach=0.95,
        samples=300,
        users=2,
        overlap=[(30, {("<i>", "<i>"): None, ("<i>", "b"): 0.5, ("b", "<i>"): 0.5, ("b", "b"): 1})],
        predicted=[("value", 30, Correlation(0.5, -0.25, 0.75, 32))],
    )
    assert '<th scope="row">&lt;i&gt;</th><td>–</td><td>50%</td>' in page
    assert "Random ones share 10% on average." in page
    assert "<td>+0.50</td><td>-0.25 to +0.75</td><td>32</td>" in page
    assert "<td>0.5000</td><td>0.2500</td><td>–</td>" in page  # dead groups and gains
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "<td>+0.500*</td>" in page
    assert "<td>25% (1/2)</td>" in page
    assert "its 2 users (with so few users intervals are too narrow" in page


def compared(*words):
    return trials_of(load(None, ["run_dir=r", *words]), "compare", 1000)


def test_a_page_of_failures_alone_has_no_warning(recwarn):
    empty = race([], TWO, table="steps", references=["random"])
    page = comparison_page(
        "demo", rows=[], races=[empty], curves={}, reach=0.95, samples=300, users=2
    )
    assert "demo" in page and not recwarn.list


def test_every_method_at_every_budget_and_seed_and_full_data_once():
    found = compared(
        "compare.methods=[random, paper]", "compare.budget=[0.1, 20]", "compare.seeds=[1, 2]"
    )
    assert len(found) == 2 + 2 * 2 * 2
    assert len({trial.name for trial in found}) == len(found)
    full, first = found[0].config, found[1].config
    assert [trial.config.seed for trial in found] == [1] * 5 + [2] * 5
    assert (full.selection.method, full.training.patience, full.training.steps) == ("full", 5, 600)
    assert (first.selection.method, first.selection.budget, first.seed) == ("random", 0.1, 1)
    assert first.training.steps == 60
    paper = found[-1].config
    assert (paper.selection.method, paper.selection.lift, paper.selection.sigma) == (
        "value",
        False,
        None,
    )
    assert paper.run_dir.endswith("r/comparison/paper_steps_budget-20_seed-2")
    # All validate on the same samples.
    assert {trial.config.training.validation_seed for trial in found} == {42}


def test_epochs_make_a_table_of_their_own():
    found = compared(
        "compare.methods=[kmeans]",
        "compare.epochs=2",
        "compare.full_steps=null",
        "compare.seeds=[1]",
    )
    assert [trial.table for trial in found] == ["steps"] * 4 + ["epochs"] * 4
    assert found[-1].config.training.steps is None
    assert found[-1].config.training.epochs == 2


def test_nothing_to_compare_is_one_sentence():
    with pytest.raises(ConfigError, match="give compare.methods"):
        compared()


def test_only_minirec_goes_on_with_the_proxy():
    found = compared("compare.methods=[random, paper, minirec]", "training.start=proxy")
    starts = {trial.method: trial.config.training.start for trial in found}
    assert starts == {"full": "base", "random": "base", "paper": "base", "minirec": "proxy"}


def test_what_is_charged_no_reward_is_not_ordered_by_it():
    found = compared("compare.methods=[random, top_reward, paper]")
    order = {trial.method: trial.config.selection.curriculum for trial in found}
    assert order == {
        "full": "shuffled",
        "random": "shuffled",
        "top_reward": "grouped",
        "paper": "grouped",
    }


def test_trials_rank_samples_of_train_too():
    assert compared("compare.methods=[random]")[0].config.evaluation.train_samples == 256


def test_settings_of_ours_reach_no_other_method():
    """`paper` must use the paper's directions, and baselines must not be charged with gradients."""
    found = compared(
        "compare.methods=[random, less, paper, minirec]", "selection.directions=lora_projected"
    )
    reads = {t.method: t.config.selection.needs_lora_gradients for t in found}
    assert reads == {"full": False, "random": False, "less": True, "paper": False, "minirec": True}
    assert {t.config.selection.directions for t in found if t.method == "paper"} == {"head_hvp"}


def test_trials_of_equal_steps_do_not_stop_early():
    found = compared(
        "compare.methods=[random]", "training.patience=2", "training.validation_steps=5"
    )
    assert {trial.method: trial.config.training.patience for trial in found} == {
        "full": 5,
        "random": None,
    }


def test_supervised_trains_on_all_samples_without_a_budget_from_the_model():
    words = ["compare.methods=[random, supervised]", "compare.seeds=[1]", "compare.epochs=2"]
    own = ["training.kl_weight=0.1", "training.weighting=middle"]  # without rollouts: off
    found = compared(*words, *own, "compare.budget=[0.1, 0.2]", "training.staleness=1")
    ours = [trial for trial in found if trial.method == "supervised"]
    assert [trial.name for trial in ours] == ["supervised_steps_seed-1", "supervised_epochs_seed-1"]
    for trial in ours:
        c = trial.config
        assert (c.training.loss, c.training.start, c.training.staleness) == (
            "supervised",
            "base",
            0,
        )
        assert (c.training.kl_weight, c.training.weighting) == (0, "none")
        assert (c.selection.method, c.selection.curriculum) == ("full", "shuffled")
        assert c.selection.count(1000) == 1000 and c.training.patience is None
        assert trial.free
    assert [trial.config.training.steps for trial in ours] == [60, None]
    assert ours[1].config.training.epochs == 2
    assert {t.config.training.loss for t in found if t not in ours} == {"grpo"}


def test_all_methods_but_supervised_share_the_warm_start():
    methods = "compare.methods=[random, paper, minirec, supervised]"
    found = compared(methods, "training.start=warm")
    starts = {trial.method: trial.config.training.start for trial in found}
    assert starts.pop("supervised") == "base"
    assert starts == dict.fromkeys(["full", "random", "paper", "minirec"], "warm")
    free = {trial.method for trial in found if trial.free}
    assert free == {"full", "random", "supervised"}


def test_methods_without_a_budget_are_references_at_every_budget():
    whole = {"samples": 300}
    found = race_of(
        [
            trained("random", 1, [0.0, 0.5]),
            trained("random", 1, [0.0, 1.5], samples=60),
            trained("supervised", 1, [1.0, 1.0], **whole),
            trained("full", 1, [2.0, 1.0], table="", **whole),
        ],
        references=["random", "supervised"],
    )
    versus = {
        (p.outcome.method, p.outcome.samples): p.differences["supervised"] for p in found.places
    }
    assert versus.pop(("supervised", 300)) is None
    means = {key: one.mean for key, one in versus.items()}
    assert means == {("random", 30): -0.75, ("random", 60): -0.25, ("full", 300): 0.5}
    # A method on all samples is not at the budget of `random`.
    assert [p.differences["random"] for p in found.places] == [None] * 4
