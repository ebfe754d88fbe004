"""The selection core against hand-computed cases, naive references and the published figures."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
from helpers.paths import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st

from minirec.selection.curriculum import (
    CURRICULA,
    easy_to_hard,
    group_numbers,
    grouped,
    hard_to_easy,
    shuffled,
)
from minirec.selection.diversity import Shard, greedy, maxmin
from minirec.selection.learnability import chance_level, count_hits, gaussian, gaussian_live, lift
from minirec.selection.value import alignment, combine, normalised_rank

PUBLISHED = SHARED / "published"


@pytest.fixture(scope="module")
def published() -> dict[str, np.ndarray]:
    path = PUBLISHED / "cds_proxy_rewards.jsonl.gz"
    if not path.exists():
        pytest.skip(f"{path} is missing: the authors' data is not in the repository")
    with gzip.open(path, "rt") as file:
        rows = [json.loads(line) for line in file]
    return {
        "sample_id": np.array([row["sample_id"] for row in rows]),
        "reward": np.array([row["reward"] for row in rows]).mean(axis=1),
        "hit": np.array([row["hit"] for row in rows]).sum(axis=1),
        "difficulty": np.array([row["difficulty"] for row in rows]),
        "representativeness": np.array([row["representativeness"] for row in rows]),
    }


# learnability


def test_gaussian_reproduces_the_published_difficulty(published):
    found = gaussian(published["reward"], mu=0.5)
    assert np.abs(found - published["difficulty"]).max() < 1e-9


def test_published_facts(published):
    """The figures in section 3 of method.md for the published rewards."""
    assert np.mean(published["hit"] == 0) == pytest.approx(0.55, abs=0.01)
    assert (gaussian(published["reward"]) > 0.5).sum() == 134
    live = gaussian_live(published["reward"], hits=published["hit"])
    assert (live > 0.5).sum() > 10 * 134


@pytest.fixture(scope="module")
def parity() -> dict:
    """Rewards with difficulty and order from an independent computation; see its entry `how`."""
    return json.loads((Path(__file__).parent / "fixtures" / "parity.json").read_text())


def test_gaussian_equals_arithmetic_of_50_digits(parity):
    found = gaussian(np.mean(parity["rewards"], axis=1))
    assert np.abs(found - parity["difficulty"]).max() < 1e-12


def test_grouped_equals_an_insertion_sort(parity):
    reward = np.mean(parity["rewards"], axis=1)
    found = grouped(parity["sample_id"], mean_reward=reward, groups=parity["groups"])
    assert found.tolist() == parity["order"]


def test_gaussian_by_hand():
    found = gaussian([0.0, 0.5, 1.0, 0.25], mu=0.5, sigma=0.25)
    far, near = math.exp(-2), math.exp(-0.5)
    expected = [0, 1, 0, (near - far) / (1 - far)]
    assert found == pytest.approx(expected, abs=1e-11)


def test_gaussian_defaults_are_population_std_and_median():
    reward = np.array([0.1, 0.2, 0.6])
    sigma = math.sqrt(((reward - 0.3) ** 2).mean())
    assert gaussian(reward, mu=None) == pytest.approx(gaussian(reward, mu=0.2, sigma=sigma))


def test_gaussian_of_equal_rewards_is_zero():
    assert gaussian([0.5, 0.5]).tolist() == [0, 0]
    assert gaussian([0.0, 5e-324]).tolist() == [0, 0]


def test_gaussian_live_uses_live_samples_only():
    reward = np.array([0.0, 0.0, 0.2, 0.4, 0.6, 0.8, 0.0])
    found = gaussian_live(reward, hits=[0, 0, 1, 2, 2, 4, 0])
    # live: 0.2 0.4 0.6 0.8 -> median 0.5, quartiles 0.35 and 0.65
    assert found == pytest.approx(gaussian(reward, mu=0.5, sigma=0.3))


def test_gaussian_live_with_one_live_sample():
    assert gaussian_live([0.0, 0.7], hits=[0, 3]) == pytest.approx([0, 1])


def test_chance_level_by_hand():
    assert chance_level(1) == 1
    assert chance_level(3) == pytest.approx((1 + 1 / math.log2(3) + 0.5) / 3)
    assert chance_level(50, cutoff=2) == pytest.approx((1 + 1 / math.log2(3)) / 50)


def test_lift_by_hand():
    assert lift([0.2, 0.6, 1.0, 0.0], chance=0.2) == pytest.approx([0, 0.5, 1, -0.25])


def test_count_hits_is_above_chance_in_a_small_catalogue():
    ndcg = [[1.0, 0.5, 0.3], [0.2, 0.2, 0.0]]
    c = chance_level(20)
    assert 0.3 < c < 0.5
    assert count_hits(ndcg, candidates=20).tolist() == [2, 0]
    assert count_hits(ndcg, candidates=5000).tolist() == [3, 2]


# representativeness and value


def test_alignment_by_hand():
    # mean (1, 1)/..., cosines with (1, 1): 1/sqrt2, 1/sqrt2, 1
    found = alignment([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    assert found == pytest.approx([0, 0, 1], abs=1e-9)


def test_alignment_is_scaled_cosine():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, 6)) + 0.5
    mean = vectors.mean(axis=0)
    cos = vectors @ mean / np.linalg.norm(vectors, axis=1) / np.linalg.norm(mean)
    r = (cos + 1) / 2
    expected = (r - r.min()) / (r.max() - r.min() + 1e-12)
    assert np.abs(alignment(vectors, rows_at_once=7) - expected).max() < 1e-12


def test_alignment_of_cancelling_vectors_is_zero():
    assert alignment([[1.0, 0.0], [-1.0, 0.0]]).tolist() == [0, 0]


def test_combine():
    assert combine([1.0, 0.0], [0.5, 0.25], alpha=2).tolist() == [2.5, 0.25]
    by_rank = combine([0.1, 0.2, 0.9], [0.9, 0.2, 0.2], fusion="rank")
    assert by_rank == pytest.approx([0.5, (0.5 + 0.25) / 2, (1 + 0.25) / 2])


def test_normalised_rank_shares_ties():
    assert normalised_rank([3.0, 1.0, 3.0, 2.0]).tolist() == pytest.approx([5 / 6, 0, 5 / 6, 1 / 3])
    assert normalised_rank([7.0]).tolist() == [0.5]


# diversity


def naive(embeddings: np.ndarray, scores: np.ndarray, budget: int) -> tuple[list[int], list[float]]:
    """The definition, one matrix-vector product per pick, in float64."""
    unit = embeddings.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    picks, novelty = [int(scores.argmax())], [1.0]
    distance = np.round(np.maximum(1 - unit @ unit[picks[0]], 0), 12)
    while len(picks) < budget:
        product = scores * distance
        product[picks] = -1
        best = int(product.argmax())
        novelty.append(distance[best] / max(distance.max(), 1e-12))
        picks.append(best)
        distance = np.minimum(distance, np.round(np.maximum(1 - unit @ unit[best], 0), 12))
    return picks, novelty


@pytest.mark.parametrize("block", [1, 2, 7, 64, 1000])
def test_maxmin_equals_the_naive_reference(block):
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(12, 16))
    embeddings = (centres[rng.integers(12, size=400)] + 0.4 * rng.normal(size=(400, 16))).astype(
        np.float32
    )
    scores = rng.random(400)
    picks, novelty = naive(embeddings, scores, 120)
    found = maxmin(embeddings, scores=scores, budget=120, block=block)
    assert found.indices.tolist() == picks
    assert np.abs(found.novelty - novelty).max() < 1e-5


def test_maxmin_of_float32_orders_near_ties_like_float64():
    """Products whose difference is below float32 precision."""
    rng = np.random.default_rng(4)
    embeddings = rng.normal(size=(1500, 400)).astype(np.float32)
    embeddings[700:] = embeddings[:800] + 1e-4 * rng.normal(size=(800, 400)).astype(np.float32)
    scores = np.round(rng.random(1500), 1)
    picks, _ = naive(embeddings, scores, 900)
    assert maxmin(embeddings, scores=scores, budget=900).indices.tolist() == picks


def in_shards(embeddings, scores, *, budget, block, cuts):
    """`maxmin` over local shards that are cut at the given rows."""
    edges = [0, *sorted(cuts), len(scores)]
    shards = [
        Shard(embeddings[a:b], scores[a:b], first=a)
        for a, b in zip(edges, edges[1:], strict=False)
        if a < b
    ]
    return greedy(
        lambda name, *args: [getattr(shard, name)(*args) for shard in shards],
        budget=budget,
        block=block,
    )


@settings(max_examples=80)
@given(
    st.integers(1, 40),
    st.integers(1, 4),
    st.integers(1, 9),
    st.lists(st.integers(0, 40), max_size=3),
    st.integers(0, 2**32 - 1),
)
def test_maxmin_of_small_whole_numbers_in_any_shards(count, width, block, cuts, seed):
    """Many equal rows, equal scores and scores of 0; all rows are picked."""
    rng = np.random.default_rng(seed)
    embeddings = rng.integers(-1, 2, size=(count, width)).astype(np.float32)
    embeddings[~embeddings.any(axis=1), 0] = 1
    scores = rng.integers(0, 3, size=count).astype(np.float64)
    picks, novelty = naive(embeddings, scores, count)
    cuts = [cut for cut in cuts if cut < count]
    found = in_shards(embeddings, scores, budget=count, block=block, cuts=cuts)
    assert found.indices.tolist() == picks
    kept = np.array(novelty) > 1e-6  # if all distances are 0, the ratio is 0 / 0
    assert np.abs(found.novelty - novelty)[kept].max() < 1e-3


@pytest.mark.parametrize("scale", [1e-200, 1e-14, 1e6])
def test_maxmin_does_not_depend_on_the_scale_of_the_scores(scale):
    rng = np.random.default_rng(6)
    embeddings = rng.normal(size=(120, 6)).astype(np.float32)
    embeddings[60:] = embeddings[:60]
    scores = np.round(rng.random(120), 1)
    expected = maxmin(embeddings, scores=scores, budget=120, block=7).indices.tolist()
    assert expected == naive(embeddings, scores, 120)[0]
    for block in (1, 256):
        found = maxmin(embeddings, scores=scores * scale, budget=120, block=block)
        assert found.indices.tolist() == expected


def test_maxmin_of_distances_below_the_rounding_of_float32():
    """Like hidden states at one marker: a large common direction and small differences."""
    rng = np.random.default_rng(7)
    embeddings = 40 * rng.normal(size=300) + rng.normal(size=(600, 300))
    scores = rng.random(600)
    embeddings = embeddings.astype(np.float32)
    picks, _ = naive(embeddings, scores, 200)
    assert maxmin(embeddings, scores=scores, budget=200, block=32).indices.tolist() == picks


def test_maxmin_of_products_that_differ_in_the_last_bits_in_any_shards():
    scores = 1 - np.array([1.5, 0.9, 0.9, 0.3, 0.3, 0, 0, 0]) * 1e-12
    embeddings = np.eye(8, dtype=np.float32)
    whole = maxmin(embeddings, scores=scores, budget=8).indices.tolist()
    assert whole == [5, 6, 7, 3, 4, 1, 2, 0]
    found = in_shards(embeddings, scores, budget=8, block=1, cuts=[3, 5])
    assert found.indices.tolist() == whole


def test_maxmin_of_extreme_lengths():
    rng = np.random.default_rng(5)
    embeddings = rng.normal(size=(50, 6)).astype(np.float32)
    scores = rng.random(50)
    expected = maxmin(embeddings, scores=scores, budget=20).indices.tolist()
    scale = 10.0 ** rng.integers(-25, 25, size=(50, 1))
    found = maxmin((embeddings * scale).astype(np.float32), scores=scores, budget=20)
    assert found.indices.tolist() == expected


def test_maxmin_by_hand():
    # Orthogonal axes and a near-duplicate of the first; scores favour the duplicate.
    embeddings = np.array([[1, 0, 0], [0.999, 0.0447, 0], [0, 1, 0], [0, 0, 1]])
    found = maxmin(embeddings, scores=[1.0, 0.9, 0.5, 0.4], budget=3)
    assert found.indices.tolist() == [0, 2, 3]
    assert found.novelty == pytest.approx([1, 1, 1], abs=1e-3)


def test_maxmin_ties_go_to_the_lowest_row():
    found = maxmin(np.eye(6), scores=np.ones(6), budget=6, block=2)
    assert found.indices.tolist() == [0, 1, 2, 3, 4, 5]
    same = maxmin(np.ones((4, 2)), scores=np.ones(4), budget=4, block=2)
    assert same.indices.tolist() == [0, 1, 2, 3]


def test_maxmin_does_not_depend_on_length_or_dtype():
    rng = np.random.default_rng(3)
    embeddings = rng.normal(size=(60, 8)).astype(np.float16)
    scores = rng.random(60)
    lengths = rng.uniform(0.5, 2, size=(60, 1))
    first = maxmin(embeddings, scores=scores, budget=20)
    second = maxmin(embeddings.astype(np.float64) * lengths, scores=scores, budget=20)
    assert first.indices.tolist() == second.indices.tolist()


# curriculum


def test_grouped_reproduces_the_published_order(published):
    chosen = np.loadtxt(PUBLISHED / "selected_256.txt", dtype=int)
    expected = np.loadtxt(PUBLISHED / "curriculum_256_groups_4.txt", dtype=int)
    reward = dict(zip(published["sample_id"].tolist(), published["reward"], strict=True))
    ids = np.array([i for i in published["sample_id"] if i in set(chosen.tolist())])
    found = grouped(ids, mean_reward=[reward[int(i)] for i in ids], groups=4, seed=42)
    assert found.tolist() == expected.tolist()


def test_grouped_by_hand():
    # random.Random(42) turns [10, 11, 12, 13, 14] into [13, 11, 12, 14, 10]
    found = grouped([10, 11, 12, 13, 14], mean_reward=[0.9, 0.2, 0.8, 0.1, 0.8], groups=2)
    assert found.tolist() == [11, 13, 10, 12, 14]
    assert group_numbers(5, groups=2).tolist() == [0, 0, 1, 1, 1]


def test_other_curricula():
    ids, reward = [3, 5, 8, 9], [0.1, 0.9, 0.4, 0.6]
    assert easy_to_hard(ids, mean_reward=reward).tolist() == [5, 9, 8, 3]
    assert hard_to_easy(ids, mean_reward=reward).tolist() == [3, 8, 9, 5]
    many = list(range(20))
    found = shuffled(many, mean_reward=np.ones(20)).tolist()
    assert sorted(found) == many != found
    assert found == shuffled(many, mean_reward=many).tolist()
    assert found == CURRICULA["self_paced"](many, mean_reward=many).tolist()
    others = {"hard_to_easy", "shuffled", "self_paced"}
    assert set(CURRICULA) == {"grouped", "easy_to_hard", *others}


# errors name the argument, the first bad row and its value


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gaussian([0.1, math.nan]), "mean_reward row 1 is nan"),
        (lambda: gaussian([]), "mean_reward has shape"),
        (lambda: gaussian([0.1, 0.2], sigma=0), "sigma is 0"),
        (lambda: gaussian_live([0.1, 0.2], hits=[0, 0]), "hits is 0 in all 2 rows"),
        (lambda: gaussian_live([0.1, 0.2], hits=[0, -1]), "hits row 1 is -1"),
        (lambda: lift([math.inf], chance=0.1), "mean_ndcg row 0 is inf"),
        (lambda: lift([0.1], chance=1.0), "chance is 1"),
        (lambda: chance_level(0), "candidates is 0"),
        (lambda: count_hits([[0.1], [math.nan]], candidates=5), "ndcg row 1"),
        (lambda: alignment([[1.0, 0], [0, 0]]), "vectors row 1 has length 0"),
        (lambda: alignment([[1.0, math.inf]]), "vectors row 0 holds inf"),
        (lambda: combine([0.1, -0.5], [0, 0]), "learnability row 1 is -0.5"),
        (lambda: combine([0.1], [0, 0]), "representativeness has 2 rows; expected 1"),
        (lambda: combine([0.1], [0.1], fusion="max"), "fusion is 'max'"),
        (lambda: maxmin(np.eye(2), scores=[1, math.nan], budget=1), "scores row 1 is nan"),
        (lambda: maxmin(np.eye(2), scores=[1, -1], budget=1), "scores row 1 is -1"),
        (lambda: maxmin(np.eye(2), scores=[1, 1], budget=3), "budget is 3; expected 1..2"),
        (lambda: maxmin(np.zeros((2, 2)), scores=[1, 1], budget=1), "embeddings row 0 has length"),
        (lambda: grouped([4, 5, 4], mean_reward=[0, 0, 0], groups=1), "sample_ids row 2 repeats"),
        (lambda: grouped([4, 5], mean_reward=[0, 0], groups=3), "groups is 3; expected 1..2"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        call()
