"""SASRec: its scores against NumPy, what it learns, and when its training ends."""

import io
import math

import numpy as np
import pytest
import torch

from minirec.config.evaluation import SasrecConfig
from minirec.corpus.table import Sample
from minirec.errors import ConfigError
from minirec.evaluation.ranking import per_sample
from minirec.evaluation.sasrec import Sasrec, _batches, backward, load, ranks, save, train

SMALL = SasrecConfig(width=16, layers=1, heads=1, batch=32, dropout=0.1, learning_rate=0.01)
ITEMS = 12


def model(settings=SMALL, *, longest=4):
    torch.manual_seed(0)
    return Sasrec(ITEMS, longest=longest, settings=settings)


def cycle(seed, count=200):
    """Samples whose target is always the item after the last one of the history."""
    rng = np.random.default_rng(seed)
    histories = [rng.integers(ITEMS, size=rng.integers(1, 4)).tolist() for _ in range(count)]
    return [Sample(i, h, (h[-1] + 1) % ITEMS) for i, h in enumerate(histories)]


def trained(settings=SMALL, seed=1, samples=None, valid=None):
    lines = []
    found = train(
        samples or cycle(0),
        valid or cycle(1, 40),
        items=ITEMS,
        settings=settings,
        seed=seed,
        say=lines.append,
    )
    assert len(lines) == len(found.valid)
    return found


def changed(**values):
    return SMALL.model_copy(update=values)


def norm(x, weights):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * weights["weight"] + weights["bias"]


def test_scores_equal_a_plain_computation():
    """One layer with one head in NumPy, position by position."""
    found = model()
    values = {name: value.numpy().astype(np.float64) for name, value in found.state_dict().items()}

    def part(prefix):
        return {n.removeprefix(prefix): v for n, v in values.items() if n.startswith(prefix)}

    history, layer = [3, 7, 3], part("layers.layers.0.")
    items, ages = values["items.weight"], values["ages.weight"]
    x = items[history] * math.sqrt(16) + ages[[2, 1, 0]]
    inside = norm(x, {name: layer[f"norm1.{name}"] for name in ("weight", "bias")})
    projected = inside @ layer["self_attn.in_proj_weight"].T + layer["self_attn.in_proj_bias"]
    query, key, value = projected[:, :16], projected[:, 16:32], projected[:, 32:]
    for place in range(3):
        weights = np.exp(key[: place + 1] @ query[place] / math.sqrt(16))
        seen = weights @ value[: place + 1] / weights.sum()
        x[place] += layer["self_attn.out_proj.weight"] @ seen + layer["self_attn.out_proj.bias"]
    inside = norm(x, {name: layer[f"norm2.{name}"] for name in ("weight", "bias")})
    inside = inside @ layer["linear1.weight"].T + layer["linear1.bias"]
    inside *= 0.5 * (1 + np.vectorize(math.erf)(inside / math.sqrt(2)))
    x += inside @ layer["linear2.weight"].T + layer["linear2.bias"]
    expected = norm(x, part("layers.norm."))[-1] @ items[:-1].T
    assert found.scores([history])[0][0] == pytest.approx(expected, abs=1e-5)


def test_padding_and_other_histories_do_not_change_scores():
    found = model(SMALL.model_copy(update={"layers": 2, "heads": 4}))
    histories = [[5], [1, 2, 3, 4], [], [9, 5]]
    together, ties = found.scores(histories)
    assert together.shape == (4, ITEMS) and not ties.any()
    for history, scores in zip(histories, together, strict=True):
        assert found.scores([history])[0][0] == pytest.approx(scores, abs=1e-5)


def test_only_the_latest_items_count_and_their_order_does():
    found = model(longest=2)
    scores = found.scores([[1, 2, 3], [9, 9, 2, 3], [3, 2]])[0]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    assert abs(scores[0] - scores[2]).max() > 1e-3


def test_excluded_items_are_not_ranked_and_ties_count_against_the_target():
    found = model()
    with torch.no_grad():
        found.items.weight[8] = found.items.weight[4]  # the same score in every history
    samples = [Sample(0, [1, 2], 4, [8]), Sample(1, [1, 2], 4), Sample(2, [5, 6, 0], 3, [7])]
    scores = found.scores([s.history for s in samples])[0]
    expected = [
        1
        + sum(scores[i, v] >= scores[i, s.target] for v in {*range(ITEMS)} - {*s.excluded})
        - (s.target not in s.excluded)
        for i, s in enumerate(samples)
    ]
    assert ranks(found, samples).tolist() == expected
    assert expected[1] == expected[0] + 1  # 8 is tied with the target


def test_it_learns_that_one_item_follows_another():
    found = trained(changed(epochs=40, patience=40))
    assert per_sample(ranks(found.model, cycle(2)))["ndcg@10"].mean() > 0.97
    assert found.steps == 40 * math.ceil(200 / 32)


def test_the_seed_decides():
    one, same, other = (
        trained(changed(epochs=2), seed=seed).model.scores([[1, 2]])[0] for seed in (1, 1, 2)
    )
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_the_global_random_state_stays():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    trained(changed(epochs=1))
    assert torch.rand(1) == expected


def test_a_saved_model_scores_as_before():
    found = trained(changed(epochs=1, layers=2, heads=4)).model
    file = io.BytesIO()
    save(found, file)
    file.seek(0)
    histories = [[1], [2, 3, 4], []]
    assert np.array_equal(load(file).scores(histories)[0], found.scores(histories)[0])


def test_training_stops_without_progress_and_keeps_the_best_epoch():
    still = trained(changed(learning_rate=1e-12, epochs=9, patience=2))
    assert len(still.valid) == 3  # the first one and two without a better one
    # After some epochs, validation against the training data gets worse.
    reverse = [Sample(s.sample_id, s.history, (s.history[-1] - 1) % ITEMS) for s in cycle(1, 40)]
    found = trained(changed(epochs=30, patience=4), valid=reverse)
    best = per_sample(ranks(found.model, reverse))["ndcg@10"].mean()
    assert best == pytest.approx(max(found.valid))
    assert len(found.valid) == found.valid.index(max(found.valid)) + 1 + 4 < 30


def test_a_loss_that_is_not_finite_is_refused():
    with pytest.raises(ConfigError, match=r"loss of sasrec is nan in epoch 1; lower sasrec.learn"):
        trained(changed(learning_rate=1e30))


def test_batches_hold_each_row_once_and_little_padding():
    torch.manual_seed(0)
    lengths = np.random.default_rng(0).integers(1, 50, size=1000).tolist()
    batches = _batches(lengths, 10)
    assert sorted(row for rows in batches for row in rows) == list(range(1000))
    padded = sum(max(lengths[row] for row in rows) * len(rows) for rows in batches)
    assert padded < 1.1 * sum(lengths)
    assert _batches(lengths, 10) != batches


def test_heads_divide_the_width():
    with pytest.raises(ValueError, match="heads 3 does not divide width 64"):
        SasrecConfig(heads=3)


@pytest.mark.parametrize("scores", [1, 3 * ITEMS, 40 * ITEMS])
def test_a_batch_in_parts_has_the_loss_and_gradient_of_the_whole(scores):
    batch = cycle(3, 10)
    found = []
    for most in (10 * ITEMS, scores):
        one = model(changed(dropout=0.0))
        loss = backward(one, batch, scores=most)
        found.append([torch.tensor(loss), *(p.grad for p in one.parameters())])
    assert found[0][0] > 1
    for whole, parts in zip(*found, strict=True):
        assert torch.allclose(whole, parts, atol=1e-6)
