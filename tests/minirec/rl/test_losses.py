"""The divisor of the token loss, and the figures of the log, on groups computed by hand."""

from dataclasses import replace

import pytest
import torch

from minirec.config.training import TrainingConfig
from minirec.rl.candidates import Candidates
from minirec.rl.group import Group
from minirec.rl.losses import losses
from minirec.rl.reward import ndcg
from minirec.rl.rollouts import Objective, counted, live_tokens

ITEMS = torch.eye(3)
OBJECTIVE = Objective(TrainingConfig(), temperature=1.0, cutoff=3, reward=ndcg)
# Both rollouts of the first group rank item 0 first, so their rewards are equal. Those of the
# second group rank items 1 and 2 first.
DEAD = Group([5], [[6], [7, 8, 7]], [1, 3], [], 0, [[-1.0], [-1.0] * 3])
LIVE = Group([5], [[6, 6], [7, 7, 7, 7]], [2, 4], [], 1, [[-2.0] * 2, [-2.0] * 4])
FIRST = {id(DEAD): [0, 0], id(LIVE): [1, 2]}


def policy(*, groups):
    """Hidden states that point at the first item of each rollout; every token has log p = -1."""
    rows = [item for group in groups for item in FIRST[id(group)]]
    tokens = sum(sum(group.written) for group in groups)
    return ITEMS[rows], torch.full((tokens,), -1.0).requires_grad_()


def found(groups):
    targets = sorted({group.target for group in groups})
    candidates = Candidates(torch.tensor(targets), ITEMS[targets], ITEMS)
    return losses(policy, groups, candidates=candidates, objective=OBJECTIVE)


def test_tokens_of_dead_groups_do_not_count():
    for groups, tokens in (([DEAD, LIVE], 6), ([LIVE], 6), ([DEAD], 0)):
        assert live_tokens(policy, groups, table=ITEMS, objective=OBJECTIVE) == tokens


def test_with_live_tokens_a_dead_group_does_not_make_the_token_loss_smaller():
    both, alone = found([DEAD, LIVE]), found([LIVE])
    live = counted([DEAD, LIVE]) | {
        "tokens": live_tokens(policy, [DEAD, LIVE], table=ITEMS, objective=OBJECTIVE)
    }
    token_loss = both.parts[0].total / live["tokens"]
    assert token_loss.item() == pytest.approx((alone.parts[0].total / 6).item())
    assert token_loss.item() != 0
    # All written tokens divide by default.
    assert counted([DEAD, LIVE]) == {"tokens": 10, "groups": 2}


def test_token_entropy_is_the_mean_of_minus_log_p():
    sums = found([DEAD, LIVE]).sums
    assert sums["token_entropy", "tokens"] / 10 == pytest.approx(1.0)
    assert sums["dead_groups", "groups"] == 1


@pytest.mark.parametrize("loss", ["grpo", "gspo", "cispo", "dr_grpo", "dpo"])
def test_comparisons_are_unchanged_by_any_increasing_map_of_the_reward(loss):
    """Loss and gradients have the same bytes for NDCG as for exp(5 NDCG)."""

    def gradients(reward, **changes):
        logprobs = torch.full((10,), -1.1).requires_grad_()
        hidden = ITEMS[[0, 0, 1, 2]].clone().requires_grad_()
        vectors = ITEMS[[0, 1]].clone().requires_grad_()
        objective = Objective(
            TrainingConfig(loss=loss),
            temperature=1.0,
            cutoff=3,
            reward=reward,
            longest=4,
            **changes,
        )
        found = losses(
            lambda *, groups: (hidden, logprobs),
            [DEAD, LIVE],
            candidates=Candidates(torch.tensor([0, 1]), vectors, ITEMS),
            objective=objective,
        )
        found.mean(counted([DEAD, LIVE])).backward()
        return [logprobs.grad, hidden.grad, vectors.grad]

    def mapped(ranking, cutoff):
        return torch.exp(5 * ndcg(ranking, cutoff))

    plain, other = (gradients(reward, comparison_noise=0.0) for reward in (ndcg, mapped))
    assert all(map(torch.equal, plain, other)) and plain[0].any() and plain[1].any()
    if loss == "dr_grpo":  # scores change by the map, unless the deviation divides them out
        assert not torch.equal(gradients(ndcg)[0], gradients(mapped)[0])


@pytest.mark.parametrize("live", [True, False])
def test_of_a_step(live):
    entries = [{"weighting": 1.5}] if live else [{}]
    first = OBJECTIVE.of_step(0, seed=3, log=[])
    second = OBJECTIVE.of_step(1, seed=3, log=entries)
    assert (first.normaliser, second.normaliser) == (None, 1.5 if live else None)
    assert first.seed != second.seed != OBJECTIVE.of_step(1, seed=4, log=entries).seed


def test_steps_on_the_same_rollouts_compare_alike_and_imitate_more():
    training = TrainingConfig(replays=2, imitate_best=0.5)
    objective = replace(OBJECTIVE, training=training)
    steps = [objective.of_step(step, seed=3, log=[]) for step in range(4)]
    assert [one.best_weight for one in steps] == [0, 0.5, 0, 0.5]
    assert steps[0].seed == steps[1].seed != steps[2].seed == steps[3].seed
