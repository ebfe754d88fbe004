"""Projected per-sample LoRA gradients against autograd, one sample at a time.

The error bound of inner products. A projection here has orthonormal rows times sqrt(n / k). With
N = T Q a Gaussian matrix (T independent of the row space Q), E[N^T N | Q] is proportional to Q^T Q,
so by Jensen every exponential moment of |Pv|^2 is at most that of a Gaussian projection. A gradient
block G (out, in) with singular values s, projected on one side (P x I: all r rows by the same P),
has |P G^T|^2 distributed as sum_a s_a^2 chi^2_k / k: not as a projection to r k independent
numbers, but to k for a block of rank one, and to r k only for a flat spectrum. Blocks are
independent. With a the vector of all s^2 / k, Lemma 1 of Laurent and Massart (2000) bounds the
error of |Pv|^2 by 2 |a|_2 sqrt(x) + 2 |a|_inf x, each tail with probability e^-x. For unit u, v the
error of <Pu, Pv> is a quarter of the difference of the errors of u + v and u - v, hence within a
quarter of the sum of their bounds. Over all pairs of M vectors that is at most 2 M^2 tails: with
x = ln(2 M^2 / delta) all bounds hold at once with probability 1 - delta.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from minirec.model.recommender import Policy
from minirec.rl.group import Group
from minirec.selection.lora_gradients import SampleLoss, block_gradients, blocks, gradients
from minirec.selection.projection import Projector, lora_matrices, projection, side_lengths

torch.set_num_threads(1)
VOCABULARY, ITEMS, HIDDEN, RANK = 90, 12, 32, 4
EVERYTHING = 10**9
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "initializer_range": 0.15,
}
MODELS = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
}


def policy(dtype=torch.float64, kind="qwen2"):
    """A tiny model whose LoRA has both matrices random."""
    torch.manual_seed(0)
    config, model = MODELS[kind]
    lm = get_peft_model(model(config(**SHAPE)), LoraConfig(r=RANK, target_modules="all-linear"))
    for module in lora_matrices(lm).values():
        torch.nn.init.normal_(module.weight, std=0.2)
    # The norms of transformers always compute in float32; these use the dtype of the weights.
    for name, module in list(lm.named_modules()):
        if type(module).__name__.endswith("RMSNorm"):
            lm.set_submodule(name, torch.nn.RMSNorm(len(module.weight), module.variance_epsilon))
    return Policy(lm.requires_grad_(False).to(dtype), pad_id=0, temperature=0.8)


def groups(count=5):
    """Groups of 2 or 4 rollouts; the last token of every other completion was appended."""
    draw = torch.Generator().manual_seed(3)

    def tokens(low, high):
        length = int(torch.randint(low, high, (), generator=draw))
        return torch.randint(1, VOCABULARY, (length,), generator=draw).tolist()

    found = []
    for i in range(count):
        completions = [tokens(2, 7) for _ in range(4 if i % 2 else 2)]
        written = [len(c) - j % 2 for j, c in enumerate(completions)]
        rewards = torch.rand(len(completions), generator=draw).tolist()
        found.append(
            Group(
                prompt=tokens(3, 12),
                completions=completions,
                written=written,
                excluded=[i % ITEMS],
                target=(i + 5) % ITEMS,
                rewards=rewards,
            )
        )
    return found


def reading(model, *, shared):
    """The model with or without shared prompts."""
    model.packs = lambda *_, **__: shared
    return model


def sample_loss(dtype=torch.float64):
    table = torch.randn(ITEMS, HIDDEN, generator=torch.Generator().manual_seed(4))
    unit = torch.nn.functional.normalize(table.to(dtype), dim=-1)
    return SampleLoss(unit, temperature=0.1, advantage_floor=1e-3, scale_advantage=True)


def written_out(model, group, loss):
    """The loss of one group by the docstring's formula, rollout by rollout, token by token."""
    rewards = torch.tensor(group.rewards, dtype=torch.float64)
    advantage = (rewards - rewards.mean()) / rewards.std(correction=0)
    best = int(rewards.argmax())
    total = torch.zeros((), dtype=torch.float64)
    for j, completion in enumerate(group.completions):
        ids = torch.tensor([group.prompt + completion])
        result = model.lm(input_ids=ids, output_hidden_states=True)
        log_p = torch.log_softmax(result.logits[0].double() / model.rollout_temperature, -1)
        for t in range(group.written[j]):
            at = len(group.prompt) + t
            total = total - advantage[j] * log_p[at - 1, ids[0, at]] / sum(group.written)
        if j == best:
            h = result.hidden_states[-1][0, -1].double()
            scores = loss.table.double() @ (h / h.norm()) / loss.temperature
            if loss.prior is not None:
                scores = scores + torch.from_numpy(loss.prior([group])[0])
            rivals = [i for i in range(ITEMS) if i not in group.excluded or i == group.target]
            log_y = scores[group.target] - torch.logsumexp(scores[rivals], 0)
            total = total - advantage[j] * log_y
    return total


def by_autograd(model, group, loss):
    """Gradient of each LoRA matrix by one backward pass for this group alone."""
    matrices = {name: module.weight for name, module in lora_matrices(model.lm).items()}
    for weight in matrices.values():
        weight.requires_grad_(True)
    found = torch.autograd.grad(written_out(model, group, loss), list(matrices.values()))
    for weight in matrices.values():
        weight.requires_grad_(False)
    return dict(zip(matrices, found, strict=True))


def distance(found, expected):
    """Largest relative error of a row."""
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-8), (torch.float32, 1e-4)])
def test_whole_gradients_are_those_of_autograd(dtype, error, shared):
    model, loss, some = policy(dtype), sample_loss(dtype), groups()
    projector = Projector(model.lm, dim=EVERYTHING, seed=1)
    assert projector.dim == sum(m.weight.numel() for m in lora_matrices(model.lm).values())
    found = block_gradients(reading(model, shared=shared), projector, some, loss=loss)
    single = [by_autograd(model, group, loss) for group in some]
    expected = torch.stack([torch.cat([g.flatten() for g in one.values()]) for one in single])
    assert distance(found, expected) < error


def test_gradients_are_those_of_the_scores_with_the_prior():
    """A prior that puts other items first changes the gradient, and autograd agrees."""
    model, some = policy(), groups()
    scores = 3 * np.random.default_rng(5).random((1, ITEMS), np.float32)
    without = sample_loss()
    loss = replace(without, prior=lambda asked: scores.repeat(len(asked), axis=0))
    projector = Projector(model.lm, dim=EVERYTHING, seed=1)
    single = [by_autograd(model, group, loss) for group in some]
    expected = torch.stack([torch.cat([g.flatten() for g in one.values()]) for one in single])
    assert distance(block_gradients(model, projector, some, loss=loss), expected) < 1e-8
    assert distance(block_gradients(model, projector, some, loss=without), expected) > 1e-3


@pytest.mark.parametrize(("dim", "oversample"), [(110, 1), (2000, 1), (110, 8), (300, 100)])
def test_projected_gradients_are_those_of_autograd_projected(dim, oversample):
    model, loss, some = policy(), sample_loss(), groups()
    projector = Projector(model.lm, dim=dim, seed=1, oversample=oversample)
    sides = {(m.left is None, m.right is None) for m in projector.matrices}
    assert ((False, False) in sides) == (dim * oversample == 110)
    assert (projector.sketch is None) == (oversample == 1)
    found = block_gradients(reading(model, shared=True), projector, some, loss=loss)
    for row, group in zip(found, some, strict=True):
        exact = by_autograd(model, group, loss)
        numbers = torch.cat([_projected(m, exact[m.name]) for m in projector.matrices])
        if oversample > 1:
            summed = [0.0] * projector.dim
            buckets, signs = projector.sketch.bucket.tolist(), projector.sketch.sign.tolist()
            for number, bucket, sign in zip(numbers.tolist(), buckets, signs, strict=True):
                summed[bucket] += sign * number
            numbers = torch.tensor(summed, dtype=torch.float64)
        assert torch.allclose(row, numbers, rtol=1e-8, atol=1e-9)


def _projected(matrix, gradient):
    left = torch.eye(matrix.k_out, dtype=torch.float64) if matrix.left is None else matrix.left
    right = torch.eye(matrix.k_in, dtype=torch.float64) if matrix.right is None else matrix.right
    return (left @ gradient @ right.T).flatten()


@pytest.mark.parametrize("kind", MODELS)
def test_a_shared_prompt_changes_nothing(kind):
    model, loss, some = policy(kind=kind), sample_loss(), groups()
    assert model.packs(some)
    projector = Projector(model.lm, dim=1000, seed=1)
    apart, together = (
        (
            *reading(model, shared=shared)(groups=some),
            block_gradients(model, projector, some, loss=loss),
        )
        for shared in (False, True)
    )
    assert torch.allclose(apart[0], together[0], rtol=1e-10)
    assert torch.allclose(apart[1], together[1], rtol=1e-10)
    assert distance(apart[2], together[2]) < 1e-10


def test_a_model_with_a_window_does_not_share_prompts():
    config = Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=4, max_window_layers=0)
    assert not Policy(Qwen2ForCausalLM(config), pad_id=0).packs(groups())


def test_neighbours_order_and_micro_batch_change_nothing():
    model, loss, some = policy(torch.float32), sample_loss(torch.float32), groups(9)
    projector = Projector(model.lm, dim=1000, seed=1)

    def found(them, micro_batch):
        return gradients(model, projector, them, loss=loss, micro_batch=micro_batch)

    base = found(some, 9)
    for micro_batch in (1, 2, 4):
        assert distance(found(some, micro_batch), base) < 1e-5
    assert distance(found(some[::-1], 4).flip(0), base) < 1e-5
    assert distance(found(some[3:5], 2), base[3:5]) < 1e-5
    reading(model, shared=False)
    assert distance(found(some, 4), base) < 1e-5


def test_dead_and_empty_groups_have_no_gradient():
    model, loss, some = policy(torch.float32), sample_loss(torch.float32), groups(3)
    third = 1 / 3
    dead = Group([5, 6], [[7], [8], [9]], [1, 1, 1], [], 2, rewards=[third] * 3)
    empty = Group([5, 6], [], [], [], 2)
    them = [dead, some[0], empty, some[1]]
    assert [sorted(rows) for rows in blocks(them, loss=loss, micro_batch=8)] == [[1, 3]]
    projector = Projector(model.lm, dim=1000, seed=1)
    found = gradients(model, projector, them, loss=loss, micro_batch=8)
    assert not found[0].any() and not found[2].any()
    assert found[1].any() and found[3].any()


def test_the_seed_fixes_the_projection():
    model = policy()

    def matrices(seed):
        projector = Projector(model.lm, dim=500, seed=seed, oversample=2)
        return [
            projector.sketch.sign,
            projector.sketch.bucket,
            *(m.right for m in projector.matrices),
        ]

    for a, b, c in zip(matrices(1), matrices(1), matrices(2), strict=True):
        assert (a is None) == (c is None)
        assert a is None or (torch.equal(a, b) and not torch.equal(a, c))
    assert any(a is not None for a in matrices(1)[2:])


def test_a_matrix_keeps_its_projection_whatever_else_is_adapted():
    alone = get_peft_model(
        Qwen2ForCausalLM(Qwen2Config(**SHAPE)), LoraConfig(r=RANK, target_modules=["up_proj"])
    ).double()
    sizes = [sum(m.weight.numel() for m in lora_matrices(x).values()) for x in (alone, policy().lm)]
    everything = Projector(policy().lm, dim=1000, seed=1, oversample=1)
    some = {m.name: m for m in everything.matrices}
    matrices = Projector(alone, dim=1000 * sizes[0] // sizes[1], seed=1, oversample=1).matrices
    assert len(matrices) == 4
    for matrix in matrices:
        for mine, other in (
            (matrix.left, some[matrix.name].left),
            (matrix.right, some[matrix.name].right),
        ):
            assert mine is other is None or torch.equal(mine, other)


@pytest.mark.parametrize(
    ("out", "into", "share", "expected"),
    [
        (4, 32, 128, (4, 32)),  # the share is large enough for both sides
        (4, 32, 40, (4, 10)),  # the rank is not projected
        (32, 4, 40, (10, 4)),
        (16, 896, 120, (16, 7)),  # 2/7 is better than 4/sqrt(120)
        (16, 896, 10, (3, 3)),
        (896, 16, 9, (3, 3)),
        (16, 896, 1, (1, 1)),
        (2, 100, 1, (1, 1)),
    ],
)
def test_sides_share_the_numbers_of_a_matrix(out, into, share, expected):
    assert side_lengths(out, into, share=share) == expected


def test_the_dimension_is_kept_and_a_small_one_refused():
    model = policy()
    for dim in (110, 1000, 3000):
        assert 0.5 * dim < Projector(model.lm, dim=dim, seed=1, oversample=1).dim <= dim
        assert Projector(model.lm, dim=dim, seed=1).dim == dim
    with pytest.raises(ValueError, match="28 LoRA matrices.*raise it to 58 or more"):
        Projector(model.lm, dim=57, seed=1, oversample=1)
    Projector(model.lm, dim=58, seed=1, oversample=1)
    with pytest.raises(ValueError, match="no linear LoRA matrix"):
        Projector(torch.nn.Linear(2, 2), dim=20, seed=1)


def test_inner_products_are_unbiased():
    """Means over seeds lie within 4 standard errors, for one side and for both sides projected."""
    draw, double = torch.Generator().manual_seed(5), torch.zeros((), dtype=torch.float64)
    u, v = (torch.randn(12, 30, generator=draw, dtype=torch.float64) for _ in range(2))
    v = v + u
    for sides in ((12, 5), (4, 5)):
        found = []
        for seed in range(2000):
            left = projection(sides[0], 12, seed=2 * seed, like=double)
            right = projection(sides[1], 30, seed=2 * seed + 1, like=double)
            left = torch.eye(12, dtype=torch.float64) if left is None else left
            found.append(float(((left @ u @ right.T) * (left @ v @ right.T)).sum()))
        error = statistics.stdev(found) / math.sqrt(len(found))
        assert abs(statistics.mean(found) - float((u * v).sum())) < 4 * error
        assert error < 0.02 * float((u * v).sum())


def test_the_sketch_errs_no_more_than_a_dense_projection():
    """Unbiased, and mean square errors of at most (1 + cos^2) / dim, over seeds and pairs.

    100 seeds: the mean of 100 squares of a variable with kurtosis near 3 has a relative standard
    error of .14; 1.4 is left for it and for chance between pairs.
    """
    model, loss, some = policy(), sample_loss(), groups(6)
    exact = block_gradients(model, Projector(model.lm, dim=EVERYTHING, seed=1), some, loss=loss)
    unit = torch.nn.functional.normalize(exact, dim=1)
    cosines, dim, seeds = unit @ unit.T, 200, 100
    errors = []
    for seed in range(seeds):
        projector = Projector(model.lm, dim=dim, seed=seed, oversample=100)
        assert projector.width == exact.shape[1]
        sketched = projector.sketched(unit)
        errors.append(sketched @ sketched.T - cosines)
    found = torch.stack(errors)
    apart = ~torch.eye(len(some), dtype=torch.bool)
    expected = ((1 + cosines**2) / dim)[apart]
    square = found.square().mean(0)[apart]
    assert 0.5 < float((square / expected).mean()) < 1.4
    assert (found.mean(0)[apart].abs() < 5 * (expected / seeds).sqrt()).all()


def error_bound(difference, sides, x):
    """Laurent-Massart bound of the error of |Pv|^2; `difference`: the blocks of v."""
    weights = torch.cat(
        [torch.linalg.svdvals(g) ** 2 / k for g, k in zip(difference, sides, strict=True)]
    )
    return float(2 * weights.norm() * math.sqrt(x) + 2 * weights.max() * x)


def _norm(blocks_of_one):
    return torch.cat([g.flatten() for g in blocks_of_one.values()]).norm()


def test_inner_products_keep_the_bound_of_johnson_and_lindenstrauss():
    """One side projected; all pairs of 16 gradients, delta = 1e-3 (module docstring)."""
    model, loss, some = policy(), sample_loss(), groups(16)
    projector = Projector(model.lm, dim=3000, seed=1, oversample=1)
    assert all(m.left is None or m.right is None for m in projector.matrices)
    assert projector.dim < 0.8 * Projector(model.lm, dim=EVERYTHING, seed=1).dim
    # A block with two identities has no error.
    sides = [
        math.inf if m.left is None and m.right is None else (m.k_in if m.left is None else m.k_out)
        for m in projector.matrices
    ]
    exact = [by_autograd(model, group, loss) for group in some]
    unit = []
    for one in exact:
        unit.append([one[m.name] / _norm(one) for m in projector.matrices])
    exact_norm = torch.stack([_norm(one) for one in exact])
    found = (
        block_gradients(reading(model, shared=True), projector, some, loss=loss)
        / exact_norm[:, None]
    )
    x = math.log(2 * len(some) ** 2 / 1e-3)
    errors, bounds = [], []
    for i, u in enumerate(unit):
        for j, v in enumerate(unit[:i]):
            inner = sum(float((a * b).sum()) for a, b in zip(u, v, strict=True))
            errors.append(abs(float(found[i] @ found[j]) - inner))
            plus = error_bound([a + b for a, b in zip(u, v, strict=True)], sides, x)
            minus = error_bound([a - b for a, b in zip(u, v, strict=True)], sides, x)
            bounds.append((plus + minus) / 4)
    assert all(e <= b < 1 for e, b in zip(errors, bounds, strict=True))
    assert max(errors) > 1e-3  # there is an error to bound


def test_the_factor_of_the_target_scales_the_advantages():
    group = Group([1], [[2], [3]], [1, 1], [], 4, rewards=[0.2, 0.6])
    plain = sample_loss()
    factors = np.ones(ITEMS)
    factors[4] = 2.5
    weighted = replace(plain, factors=factors)
    assert plain.advantages(group).tolist() == pytest.approx([-1, 1])
    assert weighted.advantages(group).tolist() == pytest.approx([-2.5, 2.5])
    assert weighted.advantages(replace(group, target=3)).tolist() == pytest.approx([-1, 1])
    assert not replace(plain, factors=0 * factors).advantages(group).any()
