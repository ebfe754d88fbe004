"""The settings of a training worker."""

from __future__ import annotations

from dataclasses import dataclass

from actors.pool.handle import PoolHandle
from minirec.config.model import ModelConfig
from minirec.config.scoring import RewardConfig
from minirec.config.training import TrainingConfig


@dataclass(frozen=True)
class TrainingSpec:
    """Picklable. `training.learning_rate` is not None; `order` holds sample ids.

    pool: None if `training.loss` needs no rollouts.
    """

    corpus: str
    folder: str
    model_path: str
    model: ModelConfig
    reward: RewardConfig
    training: TrainingConfig
    order: list[int]
    steps: int
    seed: int
    rollout_temperature: float
    prompts_per_call: int
    pool: PoolHandle | None
    threads: int
    zero_stage: int = 0
    start: str | None = None  # folder of the adapter that training starts from
    prior: str | None = None  # folder of the weights of the collaborative prior
