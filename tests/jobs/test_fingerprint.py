"""Settings without an effect are in no fingerprint, so finished stages stay finished."""

from __future__ import annotations

from jobs.fingerprint import training_settings
from minirec.config.selection import SelectionConfig
from minirec.config.training import TrainingConfig


def test_lists_are_in_the_fingerprint_only_where_they_are_drawn():
    names = {"item_loss", "rankings", "ranking_depth", "ranking_temperature"}
    assert not names & training_settings(TrainingConfig(rankings=4)).keys()
    assert names <= training_settings(TrainingConfig(item_loss="pairs")).keys()


def test_clusters_are_in_the_fingerprint_only_where_they_are_made():
    plain = SelectionConfig()
    assert plain.pacing() == {}
    assert not {"clusters", "pace", "difficulty_weight", "shards"} & plain.choosing().keys()
    clustered = SelectionConfig(method="clustered").choosing()
    assert {"clusters", "difficulty_weight"} <= clustered.keys()
    paced = SelectionConfig(curriculum="self_paced")
    assert "clusters" in paced.choosing() and "pace" not in paced.choosing()
    # A static selection has made its clusters; a live one makes them in the training.
    assert paced.pacing()["pace"].keys() == {"pace", "pace_noise", "pace_memory"}
    live = SelectionConfig(curriculum="self_paced", mode="live")
    assert "clusters" in live.pacing()["pace"]
