"""The ledger of a comparison, by hand-computed cases."""

from __future__ import annotations

import numpy as np
import pytest

from minirec.corpus import schema
from minirec.evaluation.ledger import goal, ledger
from minirec.evaluation.ledger_page import cells, mean_curve
from minirec.evaluation.outcomes import Curve, outcomes
from minirec.evaluation.pages import compact
from minirec.evaluation.paired import Bootstrap
from minirec.evaluation.plots import _apart
from minirec.evaluation.trials_page import comparison_page

USERS = Bootstrap(np.arange(4), resamples=200, seed=3)


def trained(variant, seed, ndcg, *, valid=0.5, rollouts=100, reached=None, table="tokens"):
    """A row of the table and the test NDCG@10 of its trial."""
    row = dict.fromkeys(schema.TRIALS.names)
    row |= {"trial": f"{variant}_{table}_{seed}", "setting": f"{variant}_{table}"}
    row |= {"method": variant, "variant": variant, "table": table, "seed": seed, "samples": 9}
    row |= {"own_rollouts": rollouts, "rollouts": rollouts, "seconds": 40.0, "steps": 3}
    row |= {"forward_tokens": 1_500_000, "validation_forward_tokens": 20_000}
    row |= {"valid_ndcg@10": valid, "reached_tokens": reached, "status": "finished"}
    return row, np.array(ndcg, dtype=float)


def account(*trials, references=("control",), chosen=(), untrained=None, table="tokens"):
    rows = [row for row, _ in trials]
    found = outcomes(rows, {row["trial"]: ndcg for row, ndcg in trials})
    return ledger(
        found,
        USERS,
        table=table,
        references=references,
        chosen={row["variant"]: row["variant"] in chosen for row in rows},
        untrained=untrained or {},
    )


def four(**chosen):
    return account(
        trained("control", 1, [0.0, 0.5, 0.5, 1.0], rollouts=0, valid=0.4),
        trained("all", 1, [0.1, 0.6, 0.6, 1.1], valid=0.5),
        trained("random", 1, [0.2, 0.7, 0.7, 1.2], valid=0.45, reached=900_000),
        trained("paper", 1, [0.0, 0.7, 0.4, 1.1], valid=0.6),
        trained("paper", 1, [9.0, 9.0, 9.0, 9.0], valid=0.9, table="steps"),
        chosen=("paper",),
        **chosen,
    )


def test_variants_are_ordered_by_quality_and_compared_with_the_controls():
    found = four()
    assert [entry.variant for entry in found.entries] == ["random", "all", "paper", "control"]
    assert [entry.standing.mean for entry in found.entries] == pytest.approx([0.7, 0.6, 0.55, 0.5])
    first = found.entries[0].differences["control"]
    assert [first.mean, first.low, first.high] == pytest.approx([0.2] * 3)
    assert found.entries[-1].differences == {"control": None}


def test_the_answers_take_the_best_by_valid_of_each_side():
    selection, reinforcement = four().answers
    assert (selection.best, selection.other) == ("paper", "all")
    assert selection.difference.mean == pytest.approx(-0.05)
    # User by user -.1, .1, -.2, 0: the interval holds 0.
    assert selection.sentence.startswith("Selection has no significant effect: paper against all")
    assert (reinforcement.best, reinforcement.other) == ("paper", "control")


def test_a_constant_gain_pays_and_a_constant_loss_does_not():
    ours, control = trained("ours", 1, [0.6] * 4), trained("control", 1, [0.5] * 4, rollouts=0)
    (pays,) = account(ours, control).answers
    assert pays.sentence == (
        "Reinforcement pays: ours against control +0.1000 NDCG@10, 95% interval +0.1000 to +0.1000."
    )
    worse = trained("ours", 1, [0.4] * 4)
    assert account(worse, control).answers[0].sentence.startswith("Reinforcement does not pay")


def test_one_side_alone_gives_no_answer():
    assert account(trained("ours", 1, [0.5] * 4)).answers == []


def test_a_variant_with_a_missing_seed_has_no_difference_and_no_part_in_the_answers():
    found = account(
        trained("control", 1, [0.0] * 4, rollouts=0),
        trained("control", 2, [0.0] * 4, rollouts=0),
        trained("ours", 1, [1.0] * 4),
    )
    assert found.entries[0].differences == {"control": None} and found.answers == []


def test_a_row_of_the_table():
    entry = four().entries[0]
    row = ["random", "0.700", "0.200-1.200", "+0.200*", "1.50M", "40", "100", "900k"]
    shown = cells(entry, ["control"])
    assert shown[:2] + shown[3:] == row[:2] + row[3:]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00k"),
        (12_345, "12.3k"),
        (999_900, "1.00M"),
        (2e9, "2.00B"),
    ],
)
def test_compact_counts(count, text):
    assert compact(count) == text


def test_the_goal_is_the_best_setting_that_trains_on_all_data():
    def row(setting, best):
        return {"setting": setting, "best_valid_ndcg@10": best}

    rows = [row("a", 0.2), row("a", 0.4), row("b", 0.35), row("b", None), row("part", 0.9)]
    assert goal(rows, whole=lambda row: row["setting"] != "part") == pytest.approx(0.35)
    assert goal(rows, whole=lambda row: False) is None


def curve(tokens, ndcg):
    count = len(ndcg)
    return Curve(ndcg, [0] * count, [0] * count, [0] * count, [0.0] * count, tokens, {})


def test_the_line_of_a_variant_is_the_mean_of_its_seeds():
    found = account(trained("ours", 1, [0.5] * 4), trained("ours", 2, [0.5] * 4))
    curves = {"ours_tokens_1": curve([10, 20], [0.1, 0.3]), "ours_tokens_2": curve([30], [0.2])}
    assert mean_curve(found.entries[0], curves) == ([20.0], [pytest.approx(0.15)])


def test_labels_keep_their_order_and_distance_inside_the_limits():
    found = _apart([0.5, 0.5, 0.52, 1.0, 0.99], gap=0.1, low=0.0, high=1.0)
    order = sorted(found)
    assert all(b - a >= 0.1 - 1e-9 for a, b in zip(order, order[1:], strict=False))
    assert order[0] >= 0 and order[-1] <= 1
    assert found.index(max(found)) == 3


def test_the_page_answers_first_and_names_what_was_not_trained():
    found = four(untrained={"late": "what precedes its training costs 3.10M of 2.00M tokens"})
    trials = {row["trial"] for entry in found.entries for row in entry.outcome.rows}
    page = comparison_page(
        "demo",
        rows=[],
        races=[],
        curves=dict.fromkeys(trials, curve([10, 20], [0.1, 0.3])),
        reach=0.95,
        samples=300,
        users=40,
        ledgers=[found],
        levels={"popularity": 0.2},
    )
    assert page.index("Selection has no significant effect") < page.index("<table>")
    assert "not trained: what precedes its training costs 3.10M of 2.00M tokens" in page
    assert page.index("<td>random</td>") < page.index("<td>control</td>")
    assert ">popularity</text>" in page
