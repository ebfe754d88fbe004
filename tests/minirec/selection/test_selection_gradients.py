"""Head features against autograd."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import grad

from minirec.selection.head_gradients import head_features, head_gradient, rollout_gradient


def case(dtype=torch.float64, batch=5, width=12, count=30, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = 3 * torch.randn(batch, width, generator=generator, dtype=torch.float64)
    items = torch.randn(count, width, generator=generator, dtype=torch.float64)
    items = items / items.norm(dim=1, keepdim=True)
    target = torch.randint(count, (batch,), generator=generator)
    mask = torch.rand(batch, count, generator=generator) < 0.3
    return hidden.to(dtype), items.to(dtype), target, mask


def by_autograd(hidden, items, target, temperature, mask=None, prior=0):
    """Gradient and HVP by double backward of the same loss."""
    hidden = hidden.clone().requires_grad_()
    scores = hidden / hidden.norm(dim=1, keepdim=True) @ items.T / temperature + prior
    if mask is not None:
        mask = mask.clone()
        mask[torch.arange(len(target)), target] = False
        scores = scores.masked_fill(mask, -torch.inf)
    loss = torch.nn.functional.cross_entropy(scores, target, reduction="sum")
    (first,) = grad(loss, hidden, create_graph=True)
    (second,) = grad((first * first.detach()).sum(), hidden)
    return first.detach(), second


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("temperature", [0.02, 0.2, 1.0])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("block", [1, 7, 8192])
def test_head_features_equal_double_backward(temperature, masked, block):
    hidden, items, target, mask = case()
    mask = mask if masked else None
    gradient, hvp = by_autograd(hidden, items, target, temperature, mask)
    options = {"items": items, "target": target, "temperature": temperature, "mask": mask}
    assert relative(head_gradient(hidden, **options, block=block), gradient) < 1e-10
    assert relative(head_features(hidden, **options, block=block).hvp, hvp) < 1e-10


def test_float32():
    hidden, items, target, mask = case()
    expected = by_autograd(hidden, items, target, 0.02, mask)
    found = head_features(hidden.float(), items=items.float(), target=target, mask=mask)
    assert found.gradient.dtype == found.hvp.dtype == torch.float32
    assert relative(found.gradient.double(), expected[0]) < 1e-4
    assert relative(found.hvp.double(), expected[1]) < 1e-4


def test_el2n_is_the_length_of_the_error_of_the_softmax():
    hidden, items, target, mask = case()
    for block in (7, 8192):
        found = head_features(hidden, items=items, target=target, mask=mask, block=block).el2n
        mask[torch.arange(5), target] = False
        scores = hidden / hidden.norm(dim=1, keepdim=True) @ items.T / 0.02
        error = torch.softmax(scores.masked_fill(mask, -torch.inf), 1)
        error[torch.arange(5), target] -= 1
        assert relative(found, error.norm(dim=1)) < 1e-10


def test_el2n_of_a_nearly_certain_target_in_float32():
    items = torch.eye(40, dtype=torch.float64)
    hidden = items[:3] + 0.03 * items[10:13]
    target = torch.tensor([0, 1, 2])
    error = torch.softmax(hidden / hidden.norm(dim=1, keepdim=True) @ items.T / 0.05, 1)
    error[torch.arange(3), target] = -error.scatter(1, target[:, None], 0).sum(1)
    found = head_features(hidden.float(), items=items.float(), target=target, temperature=0.05)
    assert found.el2n.double() == pytest.approx(error.norm(dim=1), rel=1e-4)
    assert found.el2n.max() < 1e-6


def test_rollout_gradient_weights_each_rollout_by_its_advantage():
    hidden, items, target, mask = case()
    advantage = torch.tensor([1.5, -0.5, -1.0, 0.0, 2.0], dtype=torch.float64)
    each, _ = by_autograd(hidden, items, target, 0.02, mask)
    found = rollout_gradient(
        hidden,
        advantage=advantage,
        sample=torch.tensor([0, 0, 2, 1, 2]),
        samples=4,
        items=items,
        target=target,
        mask=mask,
    )
    expected = torch.zeros(4, 12, dtype=torch.float64)
    expected[0] = 1.5 * each[0] - 0.5 * each[1]
    expected[2] = 2 * each[4] - each[2]
    assert relative(found, expected) < 1e-10


@pytest.mark.parametrize("block", [7, 8192])
def test_a_prior_is_added_to_the_scores(block):
    hidden, items, target, mask = case()
    prior = 3 * torch.rand(5, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    options = {"items": items, "target": target, "temperature": 0.2, "mask": mask, "prior": prior}
    gradient, hvp = by_autograd(hidden, items, target, 0.2, mask, prior)
    found = head_features(hidden, **options, block=block)
    assert relative(found.gradient, gradient) < 1e-10
    assert relative(found.hvp, hvp) < 1e-10
    assert relative(gradient, by_autograd(hidden, items, target, 0.2, mask)[0]) > 0.1
    advantage, sample = torch.ones(5, dtype=torch.float64), torch.zeros(5, dtype=torch.int64)
    total = rollout_gradient(hidden, advantage=advantage, sample=sample, samples=1, **options)
    assert relative(total[0], gradient.sum(0)) < 1e-10


def test_half_precision_is_raised():
    hidden, items, target, _ = case(torch.bfloat16)
    assert head_gradient(hidden, items=items, target=target).dtype == torch.float32


def test_the_neighbours_in_the_batch_do_not_matter():
    hidden, items, target, mask = case()
    whole = head_features(hidden, items=items, target=target, mask=mask).hvp
    alone = head_features(hidden[2:3], items=items, target=target[2:3], mask=mask[2:3]).hvp
    assert relative(alone[0], whole[2]) < 1e-10


def test_a_target_in_the_mask_stays_a_candidate_and_the_mask_is_not_changed():
    hidden, items, target, _ = case()
    mask = torch.ones(5, 30, dtype=torch.bool)
    found = head_gradient(hidden, items=items, target=target, mask=mask, block=7)
    # The target is the only candidate: p = 1, no loss, no gradient.
    assert found.abs().max() < 1e-12
    assert mask.all()


def test_gradient_points_away_from_the_target_and_is_orthogonal_to_hidden():
    hidden = torch.tensor([[2.0, 0.0, 0.0]], dtype=torch.float64)
    items = torch.eye(3, dtype=torch.float64)
    found = head_gradient(hidden, items=items, target=torch.tensor([1]), temperature=1.0)
    e = torch.e
    z = e + 2
    # c = (e, 1, 1)/z - (0, 1, 0); P removes the first axis; |h| = 2
    expected = torch.tensor([[0.0, (1 / z - 1) / 2, 1 / z / 2]], dtype=torch.float64)
    assert torch.allclose(found, expected, atol=1e-12)


def test_refusals():
    hidden, items, target, mask = case()
    hidden[3] = 0
    with pytest.raises(ValueError, match="hidden row 3 has length 0"):
        head_gradient(hidden, items=items, target=target)
    hidden[1, 0] = torch.nan
    with pytest.raises(ValueError, match="hidden row 1 has length nan"):
        head_features(hidden, items=items, target=target)
    hidden = torch.ones_like(hidden)
    with pytest.raises(ValueError, match=r"target row 4 is 30; expected 0\.\.29"):
        head_gradient(hidden, items=items, target=torch.tensor([0, 1, 2, 3, 30]))
    with pytest.raises(ValueError, match="mask is"):
        head_gradient(hidden, items=items, target=target, mask=mask[:, :3])
    broken = items.clone()
    broken[2, 1] = torch.nan
    with pytest.raises(ValueError, match="scores of hidden row 0 sum to nan"):
        head_gradient(hidden, items=broken, target=target)
    with pytest.raises(ValueError, match="temperature is 0"):
        head_gradient(hidden, items=items, target=target, temperature=0)
