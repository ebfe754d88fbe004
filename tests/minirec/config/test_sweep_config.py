"""The settings of a sweep and its trials."""

from __future__ import annotations

import pytest

from minirec.config.reading import changed, load
from minirec.errors import ConfigError
from minirec.trials.trial import trials_of


def planned(*overrides):
    return trials_of(load(None, ["run_dir=r", *overrides]), "sweep", 1000)


def test_all_combinations_with_each_seed():
    found = planned("sweep.budget=[0.1, 200]", "sweep.alpha=[0, 1.5]", "sweep.seeds=[1, 2]")
    values = [(t.config.selection.budget, t.config.selection.alpha, t.config.seed) for t in found]
    assert values == [
        (0.1, 0, 1), (0.1, 0, 2), (0.1, 1.5, 1), (0.1, 1.5, 2),
        (200, 0, 1), (200, 0, 2), (200, 1.5, 1), (200, 1.5, 2),
    ]  # fmt: skip
    assert found[2].name == "budget-0.1_alpha-1.5_seed-1"
    assert found[2].setting == found[3].setting == "budget-0.1_alpha-1.5"
    assert found[2].config.run_dir.endswith(f"r/sweep/{found[2].name}")


def test_what_is_not_varied_is_that_of_the_config():
    (one,) = planned("sweep.learnability=[gaussian]", "selection.groups=2", "seed=5")
    assert one.config.selection.groups == 2
    assert one.config.seed == 5
    assert not one.config.sweep.varies


def test_trials_are_validated_with_the_same_samples():
    draws = {t.config.training.validation_seed for t in planned("sweep.seeds=[1, 2]", "seed=9")}
    assert draws == {9}
    own = planned("sweep.seeds=[1, 2]", "training.validation_seed=4")
    assert {t.config.training.validation_seed for t in own} == {4}


def test_close_values_have_names_of_their_own():
    found = planned("sweep.budget=[0.1234567, 0.1234568]")
    assert len({t.name for t in found}) == 2


def test_samples_draw_settings_with_all_their_seeds():
    grid = ["sweep.budget=[1, 2, 3, 4, 5, 6, 7, 8]", "sweep.seeds=[1, 2]", "sweep.samples=3"]
    found = planned(*grid)
    assert len(found) == 6
    assert len({t.setting for t in found}) == 3
    assert [t.name for t in found] == [t.name for t in planned(*grid)]
    others = {tuple(t.name for t in planned(*grid, f"seed={seed}")) for seed in range(5)}
    assert len(others) > 1
    assert len(planned(*grid, "sweep.samples=8")) == 16


def test_null_is_an_empty_list_and_asha_can_be_off():
    config = load(None, ["sweep.budget=null", "sweep.asha=null"])
    assert config.sweep.budget == ()
    assert not config.sweep.varies
    assert config.sweep.asha is None


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sweep.budget=0.1", "write sweep.budget: [0.1]"),
        ("sweep.budget=[true]", "not a budget"),
        ("sweep.seeds=[1, 1]", "twice"),
        ("sweep.max_concurrent=0", "write 2, or auto"),
        ("sweep.asha.grace=0.1", "grace_fraction"),
        ("sweep.asha.grace_fraction=1", "less than 1"),
        ("sweep.budgets=[1]", "did you mean sweep.budget?"),
    ],
)
def test_slips_are_answered(override, words):
    with pytest.raises(ConfigError, match="sweep") as caught:
        load(None, [override])
    assert words in str(caught.value)


def test_a_value_that_its_setting_refuses_is_refused_before_anything_starts():
    with pytest.raises(ConfigError, match="selection.budget: budget 1.5"):
        planned("sweep.budget=[0.1, 1.5]")


def test_changed_validates():
    config = load(None, [])
    assert changed(config, {"selection.groups": 2}).selection.groups == 2
    assert config.selection.groups == 4
    with pytest.raises(ConfigError, match="selection.groups"):
        changed(config, {"selection.groups": 0})
