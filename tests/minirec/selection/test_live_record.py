"""What live selection knew at its end, as a table."""

import numpy as np
from helpers.live_run import own_choices

from minirec.config.live import LiveConfig
from minirec.selection.live import FORCED, ROLLOUTS, LiveSelection
from minirec.selection.live_record import lift_table, summary


def test_the_lifts_and_what_the_stream_reached():
    ids = [10, 11, 12, 13, 14, 15]
    selection = LiveSelection(ids, LiveConfig(candidates=1), seed=3, prompts=2)
    order = [selection.stream.at(position)[1] for position in range(len(ids))]
    candidates = selection.candidates()
    selection.see(FORCED, candidates.rows, np.array([0.5, 0.25]), at_pass=0)
    selection.choose(candidates)
    selection.see(ROLLOUTS, candidates.rows[:1], np.array([0.75]), at_pass=0)
    rows = lift_table(selection).to_pylist()
    assert [row["sample_id"] for row in rows] == ids
    assert [row for row, found in enumerate(rows) if found["reached"]] == sorted(order[:2])
    assert rows[order[0]]["lift"] == 0.5 and rows[order[1]]["lift"] == 0.25
    assert rows[order[0]]["rollout_lift"] == 0.75
    assert np.isnan(rows[order[1]]["rollout_lift"]) and np.isnan(rows[order[2]]["lift"])


def test_after_a_pass_all_samples_are_reached():
    selection = LiveSelection([1, 2, 3], LiveConfig(candidates=1), seed=0, prompts=2)
    for _ in range(2):
        selection.choose(selection.candidates())
    assert all(lift_table(selection)["reached"].to_pylist())


def test_the_summary_counts_prompts_samples_and_reasons():
    """Of 32 prompts 15 are in the band, 9 unknown and 8 nearest."""
    first, second = summary(own_choices(), samples=160, band=(0.02, 0.98))
    assert first == (
        "32 prompts of 25 samples, 16% of the corpus; 47% were known to be learnable when they "
        "were chosen (lift from 0.02 to 0.98), 28% had no known lift"
    )
    assert second.startswith("8 of them were outside the band 0.02 to 0.98")


def test_the_summary_of_the_rule_skip():
    table = own_choices()
    reasons = ["alive", "retried", *["unknown"] * (table.num_rows - 2)]
    place = table.schema.get_field_index("reason")
    table = table.set_column(place, "reason", [reasons])
    (line,) = summary(table, samples=160, band=(0.02, 0.98), rule="skip")
    share = f"{1 / table.num_rows:.0%}"
    assert f"the rollouts of {share} had differed before" in line
    assert f"{share} were tried again" in line and "band" not in line
