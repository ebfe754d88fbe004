"""The rollouts of a scored sample, and what a reference LM says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from actors.engines.engine import Completion
from actors.scoring.policy import LoadedPolicy
from actors.scoring.spec import ScoringSpec
from minirec.corpus.table import Sample
from minirec.model import tokens
from minirec.model.blocks import BLOCK_TOKENS, blocks
from minirec.model.reference import load_reference
from minirec.rl.continued import continued
from minirec.rl.group import Group
from minirec.rl.likelihood import Likelihood, mixed


@dataclass(frozen=True)
class Rollouts:
    """The n sampled completions of a sample; hidden (n, d), rewards (n,) and ndcg (n,) float32."""

    completions: list[Completion]
    hidden: Tensor
    rewards: np.ndarray
    ndcg: np.ndarray

    def __add__(self, more: Rollouts) -> Rollouts:
        return Rollouts(
            self.completions + more.completions,
            torch.cat([self.hidden, more.hidden]),
            np.concatenate([self.rewards, more.rewards]),
            np.concatenate([self.ndcg, more.ndcg]),
        )


class Reference:
    """The part of the reward that `reward.reference` reads, if the reward has one."""

    def __init__(self, spec: ScoringSpec, loaded: LoadedPolicy):
        self.spec, self.loaded = spec, loaded
        self.likelihood: Likelihood | None = None
        if spec.scoring is None or not spec.reward.reads_reference:
            return
        encoder, frozen = loaded.encoder, None
        if not spec.reward.reads_base:
            frozen = load_reference(
                spec.reward.reference, spec.model, encoder.tokenizer, device=spec.device
            )
        words = [*map(encoder.item_words, encoder.items(loaded.catalogue))]
        self.likelihood = Likelihood(words, encoder.answer_ids, frozen)

    def mixed(self, ranked: Tensor, groups: Sequence[Group]) -> Tensor:
        """Rewards (P * n,) of P groups of n rollouts, whose ranks earn `ranked`.

        Without groups the rollouts are forced answers, which tell nothing.
        """
        if self.likelihood is None:
            return ranked
        of_texts = torch.zeros_like(ranked)
        if groups:
            of_texts = self._of_texts(self.likelihood, groups).flatten().to(ranked)
        return mixed(ranked, of_texts, weight=self.spec.reward.reference_weight)

    def _of_texts(self, likelihood: Likelihood, groups: Sequence[Group]) -> Tensor:
        """The rewards (P, n) of the texts, in blocks of groups as in `hidden_states`."""
        policy = self.loaded.policy
        lengths = [tokens.read(group, policy.sharing) for group in groups]
        found: dict[int, Tensor] = {}
        for rows in blocks(lengths, most=BLOCK_TOKENS[policy.device.type]):
            found |= zip(rows, likelihood(policy, [groups[row] for row in rows]), strict=True)
        return torch.stack([found[row] for row in range(len(groups))])

    def cost(self, sample: Sample, prompt: list[int], written: list[Completion]) -> int:
        """Forward-equivalent tokens of reading the rollouts of a sample, stage after stage.

        A token counts as one of the policy.
        """
        if self.likelihood is None or self.spec.scoring is None:
            return 0
        words, answer = self.likelihood.words, self.likelihood.answer
        stages = pairwise([0, *self.spec.scoring.stages])
        parts = [written[start:end] for start, end in stages if written[start:end]]
        groups = [self.loaded.encoder.group(sample, prompt, part) for part in parts]
        read = continued(groups, words=words, answer=answer)
        return tokens.FORWARD * sum(tokens.read(one, self.loaded.policy.sharing) for one in read)
