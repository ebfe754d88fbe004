"""Rewards and GRPO losses against cases computed by hand."""

import itertools
import math

import pytest
import torch

from minirec.config.reading import load
from minirec.config.scoring import RewardConfig
from minirec.corpus.table import Sample
from minirec.errors import ConfigError
from minirec.rl import grpo
from minirec.rl.candidates import log_presence
from minirec.rl.group import Group, written_tokens
from minirec.rl.ranker import Ranker, Targets
from minirec.rl.reward import (
    Ranking,
    excluded_mask,
    item_scores,
    ndcg,
    rank_target,
    reward_function,
)
from minirec.rl.schedule import lr_factor


def test_rank_counts_ties_against_the_target():
    scores = torch.tensor([[0.5, 0.9, 0.5, 0.1]])
    none = torch.zeros(1, 4, dtype=torch.bool)
    assert rank_target(scores, target=torch.tensor([0]), mask=none).rank.tolist() == [3]


def test_history_is_masked_and_the_target_never():
    target = torch.tensor([1, 2])
    mask = excluded_mask([[0, 1], [0, 0]], target, items=3)
    assert mask.tolist() == [[True, False, False], [True, False, False]]


def test_masked_items_neither_rank_nor_take_probability():
    scores = torch.tensor([[9.0, 0.0, 0.0]])
    mask = torch.tensor([[True, False, False]])
    ranking = rank_target(scores, target=torch.tensor([1]), mask=mask)
    assert ranking.rank.tolist() == [2]
    assert ranking.probability.item() == pytest.approx(0.5)


def test_nan_score_is_an_error():
    scores = torch.tensor([[0.0, 1.0], [float("nan"), 0.0]])
    with pytest.raises(ValueError, match="row 1"):
        rank_target(scores, target=torch.tensor([0, 0]), mask=torch.zeros(2, 2, dtype=torch.bool))


def test_scores_are_cosines_over_temperature():
    hidden = torch.tensor([[3.0, 4.0]], dtype=torch.bfloat16)
    scores = item_scores(hidden, items=torch.tensor([[1.0, 0.0]]), temperature=0.02)
    assert scores.dtype == torch.float32
    assert scores.item() == pytest.approx(0.6 / 0.02, rel=1e-6)


def test_default_reward_by_hand():
    ranking = Ranking(torch.tensor([1, 3, 5]), torch.tensor([0.5, 0.2, 0.1]))
    reward = reward_function("ndcg_softmax", softmax_weight=0.05)(ranking, 4)
    expected = [0.95 * 1 + 0.05 * 0.5, 0.95 / 2 + 0.05 * 0.2, 0.05 * 0.1]
    assert reward.tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("ndcg", [1.0, 0.5]), ("reciprocal_rank", [1.0, 1 / 3]), ("hit@2", [1.0, 0.0])],
)
def test_rewards_by_name(name, expected):
    ranking = Ranking(torch.tensor([1, 3]), torch.tensor([0.5, 0.2]))
    reward = reward_function(RewardConfig(name=name).name, softmax_weight=0)
    assert reward(ranking, 100).tolist() == pytest.approx(expected)


def test_reward_by_import_path_and_unknown_name():
    assert reward_function("minirec.rl.reward:ndcg", softmax_weight=0) is ndcg
    with pytest.raises(ConfigError, match="'ndgc' is unknown; did you mean ndcg?"):
        load(None, ["reward.name=ndgc"])
    with pytest.raises(ImportError, match="cannot be imported"):
        reward_function("minirec.rl.reward:nothing", softmax_weight=0)


def test_advantages_by_hand_and_dead_groups_stay_small():
    rewards = torch.tensor([[0.0, 1.0], [0.5, 0.5 + 1e-6]], dtype=torch.float64)
    result = grpo.advantages(rewards)
    assert result[0].tolist() == [-1.0, 1.0]
    assert result[1].abs().max().item() == pytest.approx(5e-4, rel=1e-3)
    assert grpo.advantages(rewards, scale=False)[0].tolist() == [-0.5, 0.5]


def test_token_gradient_of_two_rollouts_by_hand():
    """Rollout 1 (two tokens, A = +1) must become likelier, rollout 2 (one token, A = -1) less."""
    logprobs = torch.tensor([-1.0, -2.0, -0.5], requires_grad=True)
    behaviour = logprobs.detach().clone()
    advantage = torch.tensor([1.0, 1.0, -1.0])
    loss = grpo.token_loss(logprobs, behaviour, advantage, clip=grpo.Clip()) / 3
    loss.backward()
    assert loss.item() == pytest.approx(-1 / 3)
    assert logprobs.grad.tolist() == pytest.approx([-1 / 3, -1 / 3, 1 / 3])


def test_ratio_is_clipped_on_the_side_that_would_gain():
    clip = grpo.Clip(low=0.2, high=0.28, cap=2.0)
    log_ratio = torch.log(torch.tensor([1.5, 1.5, 0.5, 0.5, 9.0]))
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0, -1.0])
    losses = grpo.surrogate(log_ratio, advantage, clip=clip)
    assert losses.tolist() == pytest.approx([-1.28, 1.5, -0.5, 0.8, 2.0])


@pytest.mark.parametrize("cap", [1.0, 1.2, 2.0, 9.0])
def test_corrected_loss_and_gradient_of_a_policy_one_update_off(cap):
    """Every case of ratio and advantage, compared with the formula in plain floats."""
    clip = grpo.Clip(low=0.2, high=0.28, cap=cap)
    old = [-0.1, -0.7, -1.3, -2.9, -4.1]
    shift = [-1.1, -0.3, -0.1, 0.0, 0.1, 0.3, 0.8, 2.5]
    cases = [(o + s, o, a) for o in old for s in shift for a in (1.5, -0.5, 0.0)]
    new, behaviour, advantage = torch.tensor(cases, dtype=torch.float64).T
    new.requires_grad_(True)
    loss = grpo.token_loss(new, behaviour, advantage, clip=clip)
    (gradient,) = torch.autograd.grad(loss, new)
    wanted_loss, wanted = 0.0, []
    for logp, logp_old, a in cases:
        ratio = math.exp(logp) / math.exp(logp_old)
        weight = min(ratio, cap)
        gains = weight > 1.28 if a > 0 else weight < 0.8
        wanted_loss -= a * ((1.28 if a > 0 else 0.8) if gains else weight)
        wanted.append(0.0 if gains else -a * weight)
    assert loss.item() == pytest.approx(wanted_loss, rel=1e-12)
    assert gradient.tolist() == pytest.approx(wanted, rel=1e-12)


def test_a_bad_token_that_got_much_likelier_is_still_pushed_down():
    """Ratio 5, capped at 2: the loss falls with the logprob, at weight 2."""
    logprob = torch.tensor([math.log(0.5)], requires_grad=True)
    loss = grpo.token_loss(
        logprob, torch.tensor([math.log(0.1)]), torch.tensor([-1.0]), clip=grpo.Clip(cap=2.0)
    )
    loss.backward()
    assert loss.item() == pytest.approx(2.0)
    assert logprob.grad.item() == pytest.approx(2.0)


def test_clipped_entries_are_those_without_a_gradient():
    clip = grpo.Clip(low=0.2, high=0.28, cap=2.0)
    log_ratio = torch.log(torch.tensor([1.5, 1.5, 0.5, 0.5, 9.0, 1.0])).requires_grad_(True)
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0, -1.0, 1.0])
    grpo.surrogate(log_ratio, advantage, clip=clip).sum().backward()
    found = grpo.is_clipped(log_ratio.detach(), advantage, clip=clip)
    assert found.tolist() == [True, False, False, True, False, False]
    assert (log_ratio.grad == 0).tolist() == found.tolist()


def test_token_loss_refuses_shapes_that_would_broadcast():
    with pytest.raises(ValueError, match=r"\(2, 1, 1\)"):
        grpo.token_loss(torch.zeros(2), torch.zeros(2), torch.zeros(2, 1, 1), clip=grpo.Clip())


def test_best_rollout_ties_to_the_first():
    assert grpo.best_rollouts(torch.tensor([[0.1, 0.4, 0.4], [0.2, 0.2, 0.2]])).tolist() == [1, 0]


@pytest.mark.parametrize("presence", [None, [0.9, 0.5, 0.3, 0.1]])
def test_item_loss_has_the_gradient_of_the_weighted_log_softmax(presence):
    torch.manual_seed(0)
    hidden = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    items = torch.nn.functional.normalize(torch.randn(4, 5, dtype=torch.float64), dim=-1)
    excluded = torch.tensor([[False, True, False, False], [False] * 4])
    target, advantage = torch.tensor([0, 3]), torch.tensor([1.5, -0.5], dtype=torch.float64)
    loss, log_p = grpo.item_loss(
        hidden,
        candidates=items,
        target=target,
        excluded=excluded,
        advantage=advantage,
        temperature=0.5,
        clip=grpo.Clip(),
        offset=None if presence is None else -torch.tensor([presence] * 2).double().log(),
    )
    (gradient,) = torch.autograd.grad(loss, hidden)
    weights = torch.tensor([1 / q for q in presence or [1] * 4], dtype=torch.float64)
    expected = torch.zeros((), dtype=torch.float64)
    for row in range(2):
        scores = torch.nn.functional.normalize(hidden[row], dim=0) @ items.T / 0.5
        odds = weights * math.e**scores
        p = odds[target[row]] / odds[~excluded[row]].sum()
        assert log_p[row].item() == pytest.approx(math.log(p.item()))
        expected = expected - advantage[row] * torch.log(p)
    (wanted,) = torch.autograd.grad(expected, hidden)
    assert torch.allclose(gradient, wanted, atol=1e-12)


def test_presence_is_the_chance_that_the_rest_of_a_step_has_an_item_as_target():
    # One of the three other samples is drawn, then two.
    one = log_presence([0, 0, 1, 2], items=4, prompts=2).exp()
    two = log_presence([0, 0, 1, 2], items=4, prompts=3).exp()
    assert one.tolist() == pytest.approx([2 / 3, 1 / 3, 1 / 3, 0])
    assert two.tolist() == pytest.approx([1, 2 / 3, 2 / 3, 0])


@pytest.mark.parametrize(
    ("targets", "prompts", "presence"),
    [
        ([0, 0, 1, 2], 9, [1, 1, 1, 0]),  # every step has all samples
        ([3, 3, 3], 2, [0, 0, 0, 1]),
        ([3], 5, [1, 1, 1, 1]),
        ([0, 1], 1, [1, 1, 1, 1]),  # no other candidates
    ],
)
def test_presence_at_its_bounds(targets, prompts, presence):
    found = log_presence(targets, items=4, prompts=prompts).exp()
    assert found.tolist() == pytest.approx(presence)


def test_presence_agrees_with_counted_steps():
    targets = [0] * 5 + [1] * 2 + [2, 3, 4]
    counts = dict.fromkeys(range(5), 0)
    steps = list(itertools.combinations(range(1, 10), 3))  # the rest of sample 0's step
    for step in steps:
        for item in {targets[sample] for sample in step}:
            counts[item] += 1
    found = log_presence(targets, items=5, prompts=4).exp()
    # Sample 0 has item 0, so one sample fewer of the others has it.
    assert found[1:].tolist() == pytest.approx([counts[i] / len(steps) for i in range(1, 5)])
    assert found[0].item() == pytest.approx(1 - math.comb(4, 3) / math.comb(9, 3))


def _learnt_shares(corrected):
    """Fit a score per item to all steps of three draws from shares .7, .2 and .1."""
    shares = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    presence = (1 - (1 - shares) ** 2).log()
    vectors = torch.eye(3, dtype=torch.float64)
    hidden = torch.full((1, 3), 0.5, dtype=torch.float64, requires_grad=True)
    steps = list(itertools.product(range(3), repeat=3))
    for _ in range(150):
        total = torch.zeros((), dtype=torch.float64)
        for step in steps:
            drawn = torch.tensor(step)
            ids = drawn.unique()
            loss, _ = grpo.item_loss(
                hidden.expand(3, 3),
                candidates=vectors[ids],
                target=torch.searchsorted(ids, drawn),
                excluded=torch.zeros(3, len(ids), dtype=torch.bool),
                advantage=torch.ones(3, dtype=torch.float64),
                temperature=0.25,
                clip=grpo.Clip(),
                offset=-presence[ids].expand(3, -1) if corrected else None,
            )
            total = total + shares[drawn].prod() * loss
        (gradient,) = torch.autograd.grad(total, hidden)
        with torch.no_grad():
            hidden -= 0.1 * gradient
    unit = torch.nn.functional.normalize(hidden[0].detach(), dim=0)
    return torch.softmax(unit / 0.25, 0).tolist()


@pytest.mark.slow
def test_the_correction_lets_in_batch_rivals_teach_how_frequent_targets_are():
    assert _learnt_shares(corrected=True) == pytest.approx([0.7, 0.2, 0.1], abs=0.01)
    assert _learnt_shares(corrected=False)[0] < 0.55


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [1 / 3, 2 / 3, 1, 1, 1, 1]),
        ("linear", [1 / 3, 2 / 3, 1, 0.75, 0.5, 0.25]),
        ("cosine", [1 / 3, 2 / 3, 1, 0.8535534, 0.5, 0.1464466]),
    ],
)
def test_learning_rate_rises_then_follows_its_schedule(schedule, factors):
    found = [lr_factor(step, steps=6, warmup=2, schedule=schedule) for step in range(6)]
    assert found == pytest.approx(factors)


def test_learning_rate_with_fewer_steps_than_warm_up():
    found = [lr_factor(step, steps=2, warmup=3, schedule="linear") for step in range(2)]
    assert found == pytest.approx([0.25, 0.5])


def test_excluded_items_are_masked_and_the_target_never_is():
    baskets = Sample(sample_id=0, history=[0], target=2, same_time=[3])
    alone = Sample(sample_id=1, history=[1, 2], target=2)
    targets = Targets.of([baskets, alone], items=5)
    assert targets.target.tolist() == [2, 2]
    assert targets.excluded.dense().tolist() == [
        [True, False, False, True, False],
        [False, True, False, False, False],  # the target is never excluded
    ]
    group = Group([7], [[8]], [1], excluded=baskets.excluded, target=baskets.target)
    assert group.excluded == [0, 3]
    assert (
        Targets.of([group], items=5).excluded.dense().tolist()
        == targets.excluded.dense()[:1].tolist()
    )


def test_each_target_is_ranked_for_all_of_its_rollouts():
    ranker = Ranker(torch.eye(3), temperature=0.5)
    samples = [Sample(sample_id=i, history=[0], target=target) for i, target in enumerate((1, 2))]
    hidden = torch.tensor([[9.0, 2, 1], [0, 1, 2], [0, 2, 1], [9, 1, 2]])
    ranking = ranker.rank(hidden, ranker.targets(samples))
    assert ranking.rank.tolist() == [1, 2, 2, 1]  # item 0 is excluded
    best = math.exp(4 / 5**0.5) / (math.exp(4 / 5**0.5) + math.exp(2 / 5**0.5))
    assert ranking.probability[2].item() == pytest.approx(1 - best)


def test_written_tokens_are_those_before_an_appended_marker():
    groups = [
        Group([1, 2], [[5, 9], [6, 7, 9]], [1, 3], [], 0),
        Group([1], [], [], [], 0),
        Group([1], [[8, 9]], [1], [], 0),
    ]
    # All completion tokens in a row: 5 9 | 6 7 9 | 8 9.
    assert written_tokens(groups) == ([0, 2, 3, 4, 5], [0, 1, 1, 1, 2])
    assert groups[0].sequences == [[1, 2, 5, 9], [1, 2, 6, 7, 9]]
    assert groups[0].lengths == (2, [2, 3])
