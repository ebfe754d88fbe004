"""The reward of a horizon, the later items of a sample, and the losses that read them."""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch

from minirec.config.run import Config
from minirec.config.scoring import RewardConfig
from minirec.config.training import TrainingConfig
from minirec.corpus.following import following, with_following
from minirec.corpus.table import Sample
from minirec.rl.candidates import Candidates
from minirec.rl.group import Group
from minirec.rl.horizon import graded
from minirec.rl.losses import losses
from minirec.rl.ranker import Ranker, Targets
from minirec.rl.reward import ideal, ndcg, reward_function
from minirec.rl.rollouts import Objective

TABLE = torch.nn.functional.normalize(
    torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]]), dim=-1
)
FIRST = torch.tensor([[1.0, 0.0]])  # ranks the items 0, 1, 2, 3, 4


def reward_of(relevant, reward=ndcg, excluded=(), hidden=FIRST):
    target, *later = relevant
    sample = Sample(0, list(excluded), target, following=later)
    ranker = Ranker(TABLE, 0.5)
    return graded(ranker, hidden, ranker.targets([sample]), reward=reward, cutoff=5)


def test_ranks_one_and_four_by_hand():
    assert reward_of([0, 3]).item() == pytest.approx(1.430677 / 1.630930, abs=1e-6)
    assert reward_of([3, 0]).item() == pytest.approx(1.430677 / 1.630930, abs=1e-6)
    assert reward_of([0, 1]).item() == pytest.approx(1)
    assert reward_of([0, 3], excluded=[1, 2]).item() == pytest.approx(1)


@pytest.mark.parametrize("name", ["ndcg", "ndcg_softmax", "reciprocal_rank", "hit@3"])
def test_one_relevant_item_earns_the_plain_reward(name):
    reward = reward_function(name, softmax_weight=0.3)
    ranker = Ranker(TABLE, 0.5)
    hidden = torch.tensor([[1.0, 0.0], [0.2, 0.9]])
    plain = reward(ranker.rank(hidden, ranker.targets([Sample(0, [], 2)])), 5)
    assert reward_of([2], reward, hidden=hidden).tolist() == pytest.approx(plain.tolist())


def test_the_scale_of_a_reward_of_the_user_does_not_change_with_the_batch():
    """A reward whose best value is 2: one item earns it whole, also beside a row with two."""

    def double(ranking, cutoff):
        return 2 * ndcg(ranking, cutoff)

    best = ideal(torch.tensor([1, 2]), most=2, reward=double, cutoff=10)
    assert best.tolist() == pytest.approx([1, 1.63093])


def test_the_ideal_counts_each_row_alone():
    assert ideal(torch.tensor([1, 2]), most=2, reward=ndcg, cutoff=5).tolist() == pytest.approx(
        [1, 1.630930], abs=1e-6
    )


def test_rows_with_fewer_items_and_micro_batches_do_not_matter():
    ranker = Ranker(TABLE, 0.5)
    samples = [Sample(0, [], 0, following=[3, 4]), Sample(1, [], 2), Sample(2, [], 1, [], [4])]
    hidden = torch.rand(6, 2, generator=torch.Generator().manual_seed(1))
    whole = graded(ranker, hidden, ranker.targets(samples), reward=ndcg, cutoff=5)
    apart = [
        graded(ranker, hidden[2 * i : 2 * i + 2], ranker.targets([s]), reward=ndcg, cutoff=5)
        for i, s in enumerate(samples)
    ]
    assert torch.equal(whole, torch.cat(apart))


def corpus(tmp_path):
    rows = [(0, "a", 5, 10), (1, "b", 6, 11), (2, "a", 7, 20), (3, "a", 8, 20), (4, "a", 5, 30)]
    rows += [(5, "a", 9, 40), (6, "b", 6, 50)]
    names = ("sample_id", "user", "target", "time")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    from minirec.store.tables import write_table

    write_table(tmp_path / "train.parquet", pa.table(columns))
    return tmp_path


def test_only_later_events_of_the_same_user_in_the_train_split_follow(tmp_path):
    assert following(corpus(tmp_path), horizon=3) == {
        0: [7, 8],
        1: [],  # the same item again does not count twice
        2: [5, 9],  # 8 has the same time
        3: [5, 9],
        4: [9],
        5: [],
        6: [],
    }
    assert set(following(tmp_path, horizon=1)[0]) == set()


def test_items_that_are_not_ranked_do_not_follow(tmp_path):
    samples = {0: Sample(0, [7], 5), 2: Sample(2, [5], 7, [8])}
    found = with_following(samples, corpus(tmp_path), horizon=4)
    assert found[0].following == [8, 9]
    assert found[2].following == [9]
    assert with_following(samples, tmp_path / "nowhere", horizon=1) == samples


def policy(*, groups):
    tokens = sum(sum(group.written) for group in groups)
    hidden = torch.tensor([[1.0, 0.2], [1.0, 0.1]] * len(groups), requires_grad=True)
    return hidden, torch.full((tokens,), -1.0).requires_grad_()


def step(groups, seed=3, **settings):
    vectors = TABLE.clone().requires_grad_()
    candidates = Candidates(torch.arange(5), vectors, TABLE, items=5, seed=seed)
    objective = Objective(TrainingConfig(**settings), 0.5, 5, ndcg)
    found = losses(policy, groups, candidates=candidates, objective=objective)
    return found, torch.autograd.grad(found.parts[1].total, vectors, retain_graph=True)[0]


DEAD = Group([5], [[6], [6]], [1, 1], [0], 3, [[-1.0], [-1.0]], sample_id=4)
TWO = Group([5], [[6], [6]], [1, 1], [], 1, [[-1.0], [-1.0]], sample_id=7, following=[3])


@pytest.mark.parametrize("kind", ["plackett_luce", "pairs"])
def test_a_dead_group_learns_from_lists_and_not_from_the_softmax(kind):
    found, grad = step([DEAD], item_loss=kind)
    assert found.sums["dead_groups", "groups"] == 1
    assert grad[3].norm() > 0 and grad[0].norm() == 0
    assert found.sums["live_lists", "groups"] == 1
    assert step([DEAD])[1].norm() == 0


def test_micro_batches_add_up_to_the_step():
    whole, apart = step([DEAD, TWO], item_loss="plackett_luce")[1], 0
    for group in (DEAD, TWO):
        apart = apart + step([group], item_loss="plackett_luce")[1]
    assert torch.allclose(whole, apart, atol=1e-6)
    again = step([DEAD, TWO], item_loss="plackett_luce")[1]
    assert torch.equal(whole, again)
    assert not torch.equal(whole, step([DEAD, TWO], seed=4, item_loss="plackett_luce")[1])


def test_the_reward_of_rollouts_counts_the_following_item():
    alone = Group(TWO.prompt, TWO.completions, TWO.written, [], 1, TWO.rollout_logprobs)
    plain, both = step([alone])[0].rewards, step([TWO])[0].rewards
    assert torch.equal(plain.ndcg, both.ndcg)
    assert not torch.equal(plain.reward, both.reward)
    ranker = Ranker(TABLE, 0.5)
    want = graded(
        ranker, policy(groups=[TWO])[0], Targets.of([TWO], items=5), reward=ndcg, cutoff=5
    )
    assert torch.equal(both.reward[0], want)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="hardly any holds the target"):
        TrainingConfig(item_loss="pairs", item_candidates="catalogue", item_refresh_steps=1)
    with pytest.raises(ValueError, match="set rankings to 8"):
        TrainingConfig(item_loss="pairs", rankings=7)
    with pytest.raises(ValueError, match="changes rewards"):
        Config.model_validate({"reward": {"horizon": 2}, "training": {"loss": "supervised"}})
    lists = {"loss": "supervised", "item_loss": "pairs"}
    assert Config.model_validate({"reward": {"horizon": 2}, "training": lists})
    assert "horizon" not in RewardConfig().settings()
    assert RewardConfig(horizon=2).settings()["horizon"] == 2
