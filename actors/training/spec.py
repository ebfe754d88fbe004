"""The settings of a training worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actors.pool.handle import PoolHandle
from actors.pool.saved import Replay
from minirec.config.live import LiveConfig
from minirec.config.model import ModelConfig
from minirec.config.scoring import RewardConfig
from minirec.config.selection import SelectionConfig
from minirec.config.training import TrainingConfig


@dataclass(frozen=True)
class TrainingSpec:
    """Picklable. `training.learning_rate` is not None; `order` holds sample ids.

    order: in the order of training; with `live`, the samples that can be chosen.
    prompts_per_call: None: each engine gets an equal share of a step.
    longest: the most tokens of a rollout, for losses that divide by it; None: unknown.
    pool: None if `training.loss` needs no rollouts.
    saves_rollouts: whether the folder keeps the rollouts of each step.
    live: of a training with live selection, else None. selection: of such a training, or with arms.
    arms: for the self-paced curriculum, the cluster of each sample of `order`.
    lifts: sample_id, lift of the forced answer and mean lift of the rollouts (NaN if unknown) of
        samples that were scored, for `live`.
    history: most events of a history, for `training.unlabelled`; None: no limit.
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
    prompts_per_call: int | None
    pool: PoolHandle | Replay | None
    threads: int
    longest: int | None = None
    zero_stage: int = 0
    start: str | None = None  # folder of the adapter that training starts from
    prior: str | None = None  # folder of the weights of the collaborative prior
    live: LiveConfig | None = None
    selection: SelectionConfig | None = None
    saves_rollouts: bool = False
    lifts: Sequence[tuple[int, float, float]] = ()
    arms: Sequence[int] = ()
    history: int | None = None

    @property
    def reads_reference(self) -> bool:
        """Whether an LM reads the target's text after each rollout, for the rewards."""
        return self.reward.reads_reference and self.training.rolls_out
