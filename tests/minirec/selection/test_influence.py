"""Influence of train samples on validation samples."""

import numpy as np
import pytest
import torch

from minirec.selection.head_gradients import head_gradient
from minirec.selection.influence import Goal, influences, most_influential


def test_two_samples_by_hand():
    """The gradients of the two goal samples by the map are [[2, 0], [0, 0]] and [[0, 0], [0, 1]].

    Their mean [[1, 0], [0, 0.5]] has length sqrt(1.25). Sample 0 has [[3, 0], [0, 0]], sample 1
    [[0, 0], [-1, -1]], sample 2 no gradient.
    """
    goal = Goal(torch.tensor([[2.0, 0], [0, 1]]), torch.tensor([[1.0, 0], [0, 1]]))
    gradients = torch.tensor([[1.0, 0], [0, -1], [0, 0]])
    hidden = torch.tensor([[3.0, 0], [1, 1], [1, 2]])
    found = influences(gradients, hidden, goal)
    expected = [1 / 1.25**0.5, -0.5 / (2 * 1.25) ** 0.5, 0]
    assert found.tolist() == pytest.approx(expected)


def test_the_gradient_is_that_of_a_linear_map_of_the_hidden_state():
    """An independent way: autograd by A in h' = (I + A) h, and the cosine of flat matrices."""
    draw = torch.Generator().manual_seed(1)
    items = torch.nn.functional.normalize(torch.randn(9, 4, generator=draw).double(), dim=1)
    hidden = torch.randn(7, 4, generator=draw).double()
    target = torch.randint(9, (7,), generator=draw)

    def by_map(row):
        a = torch.zeros(4, 4, dtype=torch.float64, requires_grad=True)
        moved = hidden[row] + a @ hidden[row]
        scores = items @ (moved / moved.norm()) / 0.5
        (found,) = torch.autograd.grad(scores.logsumexp(0) - scores[target[row]], a)
        return found.flatten()

    flat = torch.stack([by_map(row) for row in range(7)])
    mean = flat[4:].mean(0)
    expected = torch.nn.functional.cosine_similarity(flat[:4], mean[None])
    own = head_gradient(hidden, items=items, target=target, temperature=0.5)
    found = influences(own[:4], hidden[:4], Goal(own[4:], hidden[4:]))
    assert found.tolist() == pytest.approx(expected.tolist())
    scaled = influences(own[:4] * 3, hidden[:4], Goal(own[4:] * 5, hidden[4:]))
    assert scaled.tolist() == pytest.approx(expected.tolist())


def test_a_step_along_the_most_influential_sample_lowers_the_loss_of_the_goal_the_most():
    goal = Goal(torch.tensor([[1.0, 0.2]]), torch.tensor([[0.5, 1.0]]))
    gradients = torch.tensor([[1.0, 0.2], [-1, -0.2], [0.2, -1]])
    hidden = torch.tensor([[0.5, 1.0]] * 3)
    assert influences(gradients, hidden, goal).tolist() == pytest.approx([1, -1, 0])


def test_no_sample_has_an_influence_on_solved_ones():
    goal = Goal(torch.zeros(2, 3), torch.ones(2, 3))
    assert influences(torch.ones(4, 3), torch.ones(4, 3), goal).tolist() == [0] * 4


def test_the_highest_in_their_order_and_the_first_of_equal_ones():
    influence = np.array([0.1, 0.5, -0.2, 0.5, 0.3, 0.5])
    assert most_influential(influence, 2).tolist() == [1, 3]
    assert most_influential(influence, 4).tolist() == [1, 3, 4, 5]
    assert most_influential(influence, 6).tolist() == [0, 1, 2, 3, 4, 5]
