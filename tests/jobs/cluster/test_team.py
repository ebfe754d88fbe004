"""What Ray Train is asked for."""

import pytest

from jobs.cluster.workers import Team
from minirec.config.training import TrainingConfig
from minirec.resources.allocation import Shape


@pytest.mark.slow
@pytest.mark.parametrize(("gpus", "backend"), [(0, "gloo"), (1, "cpu:gloo,cuda:nccl")])
def test_workers_on_gpus_can_also_exchange_tensors_of_the_cpu(tmp_path, gpus, backend):
    team = Team(TrainingConfig(step_deadline_s=50), 2, Shape(1, gpus), tmp_path, "x")
    trainer = team.trainer(print, {})
    assert trainer.backend_config.backend == backend
    assert trainer.backend_config.timeout_s == 50
