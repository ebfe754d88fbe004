"""The note beside the progress bar of a training."""

import pytest

from jobs.training_log import last_step

CHOICE = {"chosen_in_band": 5, "chosen_value": 2, "chosen_unknown": 1, "chosen_nearest": 0}


@pytest.mark.parametrize(
    ("log", "found"),
    [
        ([], (0, "")),
        ([{"step": 0, "reward": 0.25, "loss": 1}], (1, "reward 0.250")),
        ([{"step": 2, "loss": 1.5}], (3, "loss 1.500")),
        (
            [{"step": 0, "reward": 0.25} | CHOICE],
            (1, "reward 0.250, 7 of 8 prompts known to be learnable"),
        ),
        # With staleness 1 the last step chooses nothing: the step before chose its prompts.
        (
            [{"step": 0, "loss": 2} | CHOICE, {"step": 1, "loss": 1}],
            (2, "loss 1.000, 7 of 8 prompts known to be learnable"),
        ),
    ],
)
def test_the_note_says_reward_or_loss_and_what_live_selection_knew(log, found):
    assert last_step(log) == found
