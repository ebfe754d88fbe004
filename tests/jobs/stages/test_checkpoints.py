"""Checkpoints of a half-finished training, and who may go on from them."""

import pytest

from jobs.stages.train import _check_checkpoints
from minirec.errors import ConfigError


def test_sharded_checkpoints_keep_their_workers(tmp_path):
    _check_checkpoints(tmp_path, 2, 3)
    _check_checkpoints(tmp_path, 1, 0)  # nothing is there yet
    _check_checkpoints(tmp_path, 2, 0)
    (tmp_path / "checkpoints" / "step-000002").mkdir(parents=True)
    _check_checkpoints(tmp_path, 1, 0)  # not sharded: any number of workers
    with pytest.raises(ConfigError, match=r"1 workers with ZeRO 0, now there are 1 with ZeRO 2"):
        _check_checkpoints(tmp_path, 1, 2)


def test_another_number_of_workers_is_refused_where_they_share(tmp_path):
    _check_checkpoints(tmp_path, 2, 3)
    (tmp_path / "checkpoints" / "step-000002").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"set resources.training_workers=2 and"):
        _check_checkpoints(tmp_path, 1, 3)
    _check_checkpoints(tmp_path, 2, 3)
