"""Rewards of a training that read the texts of rollouts: a reference LM, or a judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from actors.training.spec import TrainingSpec
from actors.training.zero import of_rank_0
from minirec.config.choices import JUDGES
from minirec.corpus.table import Catalogue, Sample
from minirec.model.recommender import Encoder, shown
from minirec.model.reference import load_reference
from minirec.rl.group import Group
from minirec.rl.judge import judge_all
from minirec.rl.likelihood import Likelihood, TextReward, known_rewards
from minirec.rng import seed_of


def text_reward(
    spec: TrainingSpec, encoder: Encoder, items: Sequence[Sequence[int]], *, device: object
) -> TextReward | None:
    """What a step reads of the texts of rollouts; None if rewards are those of ranks.

    Args:
        items: V token lists (`Encoder.items`).
        device: of the policy.
    """
    reward = spec.reward
    if not spec.training.rolls_out:
        return None
    if reward.judge is not None:
        return known_rewards
    if not reward.reads_reference:
        return None
    frozen = None
    if not reward.reads_base:
        frozen = load_reference(reward.reference, spec.model, encoder.tokenizer, device=device)
    return Likelihood([*map(encoder.item_words, items)], encoder.answer_ids, frozen)


class Judge:
    """Lets `reward.judge` order the rollouts of each prompt of a step.

    Rank 0 asks and tells the others: a judge that is a model or a service then needs to be at one
    place only, and all workers have the same answer.
    """

    def __init__(self, spec: TrainingSpec, encoder: Encoder, catalogue: Catalogue):
        self.spec, self.encoder, self.catalogue = spec, encoder, catalogue

    def __call__(self, step: int, groups: list[Group], samples: Sequence[Sample]) -> list[Group]:
        """The groups of some samples with their rewards; unchanged without a judge.

        Raises:
            ConfigError: the judge cannot be imported, or its answer is no order.
            EngineError: it failed, or did not answer in time.
        """
        if self.spec.reward.judge is None or not self.spec.training.rolls_out:
            return groups
        found = of_rank_0(lambda: self._ask(step, groups, samples))
        return [replace(g, rewards=one) for g, one in zip(groups, found, strict=True)]

    def _ask(
        self, step: int, groups: Sequence[Group], samples: Sequence[Sample]
    ) -> list[list[float]]:
        reward = self.spec.reward
        assert reward.judge is not None
        prompts = [self.encoder.words(*shown(sample, self.catalogue)) for sample in samples]
        return judge_all(
            JUDGES.find(reward.judge),
            [*zip(prompts, map(self.encoder.written_texts, groups), strict=True)],
            [seed_of(self.spec.seed, "judge", step, group.sample_id) for group in groups],
            name=reward.judge,
            calls=reward.judge_calls,
            deadline_s=reward.judge_deadline_s,
        )
