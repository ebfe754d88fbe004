"""The table of an expert enters the fingerprint by its content."""

from __future__ import annotations

import pytest

from jobs.fingerprint import training_settings
from minirec.config.training import TrainingConfig
from minirec.errors import ConfigError


def test_the_content_of_an_expert_table_counts(tmp_path):
    found = []
    for name, text in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        file = tmp_path / name
        file.write_bytes(text)
        training = TrainingConfig(expert="table", expert_table=str(file))
        found.append(training_settings(training))
    assert found[0] == found[1] != found[2]


def test_a_missing_table_is_refused():
    training = TrainingConfig(expert="table", expert_table="/no/such.parquet")
    with pytest.raises(ConfigError, match="expert_table /no/such.parquet is missing"):
        training_settings(training)


def test_neutral_values_are_no_part_of_a_fingerprint():
    plain = training_settings(TrainingConfig())
    neutral = TrainingConfig(expert_items=9, reset_keep=0.1, preference_beta=3)
    assert training_settings(neutral) == plain
    for name in ("expert", "expert_alpha", "replays", "reset_steps", "reset_keep", "imitate_best"):
        assert name not in plain
