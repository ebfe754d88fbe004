"""Values of what rollouts had written, by further completions from there (VinePPO).

After arXiv 2410.01679. They are drawn after the rollouts of the step, by the same weights, and are
not trained on.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

from torch import Tensor

from actors.training.order import Batch
from actors.training.written import Written
from minirec.model.tokens import drawn_and_rewarded
from minirec.rl.chunks import inner_values, places
from minirec.rl.group import Group
from minirec.rng import seed_of

if TYPE_CHECKING:
    from actors.training.further import Further

PART = "-vine"


def with_inner_values(
    further: Further, step: int, groups: list[Group], batch: Batch, table: Tensor
) -> tuple[list[Group], Written]:
    """The groups with values between their chunks, and what engines wrote for these.

    A value is the mean reward of `credit_completions` completions of the prompt with the tokens up
    to the place, which are never tokenised again. They may have as many tokens as a rollout had
    left there: with more, they would earn what the rollout could not. Equal texts of a prompt are
    asked once.
    """
    spec, t = further.spec, further.spec.training
    assert spec.longest is not None
    cut = {"chunks": t.credit_chunks, "answer": len(further.encoder.answer_ids)}
    asked = places(groups, **cut)
    prompts = [[*groups[row].prompt, *text] for row, text in asked]
    written = further.ask(
        step,
        prompts,
        n=t.credit_completions,
        seeds=[
            seed_of(spec.seed, "vine", batch[row][0], rollout, number)
            for (row, _), (rollout, number) in asked.items()
        ],
        limits=[spec.longest - len(text) for _, text in asked],
        part=PART,
    )
    continued = [
        further.encoder.group(batch[row][1], prompt, completions)
        for (row, _), prompt, completions in zip(asked, prompts, written, strict=True)
    ]
    rewards = further.rewards(continued, table)
    values = {place: fmean(earned) for place, earned in zip(asked, rewards, strict=True)}
    cost = drawn_and_rewarded(continued, further.sharing)
    spent = replace(Written.of(continued), forward_tokens=cost)
    return inner_values(groups, values, **cut), spent
