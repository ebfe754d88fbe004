"""The losses of a micro-batch.

To add a loss, write a function like `item_loss` and add it to `LOSSES`. Another loss of the written
tokens is a function of `minirec.rl.token_losses`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from minirec.config.choices import TOKEN_LOSSES
from minirec.config.training import TrainingConfig
from minirec.rl import agreement, grpo
from minirec.rl.candidates import CANDIDATES, Candidates, batch
from minirec.rl.continued import copied_share
from minirec.rl.contrastive import contrast
from minirec.rl.credit import read_prefixes
from minirec.rl.group import Group
from minirec.rl.horizon import relevant_items
from minirec.rl.imitation import log_probabilities, weighted_imitation
from minirec.rl.preference import choices, pair_loss
from minirec.rl.ranker import Targets
from minirec.rl.ranking import LIST_LOSSES, ranking_loss, uniforms
from minirec.rl.replay import best_loss
from minirec.rl.rollouts import (
    Forward,
    Loss,
    Losses,
    Objective,
    Rewards,
    Rollouts,
    forward,
    reward,
)
from minirec.rl.start import k3
from minirec.rl.token_losses import Tokens, checked, entropy_terms


def token_loss(rollouts: Rollouts, rewards: Rewards, _: Candidates, objective: Objective) -> Loss:
    """Policy-gradient loss of the written tokens by the function of `training.loss`."""
    name = objective.training.loss
    prompts, per_prompt = rewards.advantage.shape
    advantage = rewards.advantage.flatten()[rollouts.rollout]
    if rewards.credit is not None and rollouts.prefixes is not None:
        advantage = rewards.credit.flatten(0, 1)[rollouts.rollout, rollouts.prefixes.chunk]
    tokens = Tokens(
        logprobs=rollouts.logprobs,
        behaviour=rollouts.behaviour,
        advantage=advantage,
        rollout=rollouts.rollout,
        rollouts=prompts * per_prompt,
        per_prompt=per_prompt,
        clip=objective.clip,
        longest=objective.longest,
    )
    found = checked(TOKEN_LOSSES.find(name)(tokens), tokens, name=name)
    figures = _figures(rollouts) | {"clipped_tokens": float(found.clipped.sum())}
    return Loss(found.total, {"token_loss": float(found.total.detach())}, found.unit, figures)


def regularisers(rollouts: Rollouts, training: TrainingConfig) -> list[Loss]:
    """The losses of the written tokens that a weight above 0 switches on.

    kl_weight: times the k3 estimate of KL(policy || start), inside the loss as in GRPO (arXiv
    2402.03300, equation 4). Its gradient by log p is 1 - p_start / p, whose mean over tokens that
    the policy drew is the gradient of KL(start || policy), not of the estimated KL.
    entropy_weight: times minus the entropy, see `entropy_terms`.
    """
    found, kl, entropy = [], training.kl_weight, training.entropy_weight
    if kl > 0:
        assert rollouts.start is not None
        total = kl * k3(rollouts.logprobs, rollouts.start).sum()
        found.append(Loss(total, {"kl_loss": float(total.detach())}, "tokens"))
    if entropy > 0:
        total = entropy * entropy_terms(rollouts.logprobs).sum()
        # The log has minus the estimated entropy itself, since the value of `total` means nothing.
        estimate = entropy * float(rollouts.logprobs.detach().sum())
        found.append(Loss(total, {"entropy_loss": estimate}, "tokens"))
    return found


def item_loss(
    rollouts: Rollouts, rewards: Rewards, candidates: Candidates, objective: Objective
) -> Loss:
    """The best rollout of each group should score the target above the other candidates.

    Raises:
        ValueError: `log_presence` is missing for corrected candidates, or given for others.
    """
    _check_presence(candidates, objective)
    best = grpo.best_rollouts(rewards.seen)
    rows = torch.arange(len(best), device=best.device)
    hidden, advantage = rollouts.hidden[rows, best], rewards.advantage[rows, best]
    if objective.training.item_loss in LIST_LOSSES:
        weight, ids = rollouts.weight, rollouts.sample_ids
        return _list_loss(hidden, rollouts.targets, ids, candidates, objective, weight=weight)
    return _item_loss(hidden, advantage, rollouts.targets, candidates, objective)


def supervised_loss(
    policy: Forward, groups: Sequence[Group], *, candidates: Candidates, objective: Objective
) -> Loss:
    """The item loss of each prompt right after its answer marker: -log p of the target, times the
    factor of the target.

    Args:
        groups: P groups with one completion each, the forced answer marker.

    Raises:
        ValueError: as `item_loss`.
    """
    _check_presence(candidates, objective)
    hidden, _ = policy(groups=groups, logprobs=False)
    targets = Targets.of(
        groups, items=candidates.catalogue_size, device=hidden.device, prior=objective.prior
    )
    ids = [group.sample_id for group in groups]
    if objective.training.item_loss in LIST_LOSSES:
        found = _list_loss(hidden, targets, ids, candidates, objective)
    else:
        weight = objective.factor(targets.target).to(hidden)
        found = _item_loss(hidden, weight, targets, candidates, objective)
    if candidates.demonstrations is None:
        return found
    shown = _expert_loss(hidden, ids, targets, candidates, objective)
    return Loss(found.total + shown.total, found.sums | shown.sums, "groups")


def _check_presence(candidates: Candidates, objective: Objective) -> None:
    kind = objective.training.item_candidates
    if (kind == "corrected") != (candidates.log_presence is not None):
        given = "is missing" if candidates.log_presence is None else "is given"
        raise ValueError(f"item_candidates is {kind}, but log_presence {given}")


def _item_loss(
    hidden: Tensor,
    advantage: Tensor,
    targets: Targets,
    candidates: Candidates,
    objective: Objective,
) -> Loss:
    """The item loss at hidden states (P, d) with advantages (P,)."""
    rivals = CANDIDATES[objective.training.item_candidates](candidates, targets)
    total, log_p = grpo.item_loss(
        hidden,
        candidates=rivals.vectors,
        target=rivals.target,
        excluded=rivals.excluded,
        advantage=advantage,
        temperature=objective.temperature,
        clip=objective.clip,
        offset=rivals.offset,
        rest=rivals.rest,
    )
    return Loss(total, {"item_loss": float(-(advantage * log_p).sum())}, "groups")


def expert_loss(
    rollouts: Rollouts, rewards: Rewards, candidates: Candidates, objective: Objective
) -> Loss:
    """The best rollout of each group, dead or not, should score the items of the expert highly."""
    best = grpo.best_rollouts(rewards.seen)
    hidden = rollouts.hidden[torch.arange(len(best), device=best.device), best]
    return _expert_loss(hidden, rollouts.sample_ids, rollouts.targets, candidates, objective)


def _expert_loss(
    hidden: Tensor,
    sample_ids: Sequence[int],
    targets: Targets,
    candidates: Candidates,
    objective: Objective,
) -> Loss:
    """The imitation loss at hidden states (P, d)."""
    assert candidates.demonstrations is not None
    total, weight = weighted_imitation(
        hidden,
        sample_ids,
        candidates.demonstrations,
        candidates,
        CANDIDATES[objective.training.item_candidates](candidates, targets),
        temperature=objective.temperature,
        alpha=objective.training.expert_alpha,
    )
    return Loss(total, {"expert_loss": float(total.detach()), "expert_weight": weight}, "groups")


def imitated_best(
    rollouts: Rollouts, rewards: Rewards, _: Candidates, objective: Objective
) -> Loss:
    """The written tokens of the best rollout of each live group should become likelier."""
    per_prompt = rewards.seen.shape[1]
    total = objective.best_weight * best_loss(
        rollouts.logprobs, rollouts.rollout, rewards.choices, per_prompt=per_prompt
    )
    return Loss(total, {"best_loss": float(total.detach())}, "tokens")


def preference_loss(
    rollouts: Rollouts, rewards: Rewards, _: Candidates, objective: Objective
) -> Loss:
    """DPO: the best rollout of each group should gain on the worst one, over the reference."""
    t = objective.training
    reference = rollouts.start if t.preference_reference == "start" else rollouts.behaviour
    assert reference is not None
    total, sums = pair_loss(
        rollouts.logprobs,
        reference,
        rollouts.rollout,
        rewards.choices,
        per_prompt=rewards.seen.shape[1],
        beta=t.preference_beta,
    )
    return Loss(total, sums, "groups")


def consistency_loss(
    rollouts: Rollouts, rewards: Rewards, candidates: Candidates, objective: Objective
) -> Loss:
    """The first two rollouts of a dead or unlabelled group should rank the candidates alike, and be
    nearer to each other than to other prompts. The item vectors have no part in it. In groups that
    are alive, it would take away the spread that GRPO learns from."""
    assert objective.views is not None
    t, pair = objective.training, rollouts.hidden[:, :2]
    rivals = batch(candidates, rollouts.targets)
    rivals = replace(rivals, vectors=rivals.vectors.detach())
    log_p = [
        log_probabilities(pair[:, view], rivals, temperature=objective.temperature)
        for view in range(2)
    ]
    found = agreement.consistency(
        torch.stack(log_p, 1),
        torch.nn.functional.normalize(pair, dim=-1),
        torch.tensor(rollouts.sample_ids, device=pair.device),
        objective.views,
        temperature=t.consistency_temperature,
    )
    quiet = rewards.dead
    if rollouts.labelled is not None:
        quiet = quiet | ~rollouts.labelled
    total = t.consistency * (found * quiet).sum()
    sums = {"consistency_loss": float(total.detach()), "consistent_groups": float(quiet.sum())}
    return Loss(total, sums, "groups")


def ordered_loss(rollouts: Rollouts, rewards: Rewards, _: Candidates, objective: Objective) -> Loss:
    """Rollouts of a group with a higher reward should be likelier, by `contrastive_loss`."""
    t = objective.training
    total, sums = contrast(
        rollouts.logprobs,
        rollouts.rollout,
        rewards.seen,
        rewards.dead,
        margin=t.contrastive_margin,
        least=t.advantage_floor,
    )
    total = t.contrastive_weight * total
    return Loss(total, {"contrastive_loss": float(total.detach()), **sums}, "groups")


def token_figures(
    rollouts: Rollouts, rewards: Rewards, _: Candidates, objective: Objective
) -> Loss:
    """What the log shows of the written tokens where no loss counts them; it is no loss."""
    return Loss(rollouts.logprobs.new_zeros(()), {}, "tokens", _figures(rollouts))


def text_figures(
    earned: Tensor, rewards: Rewards, groups: Sequence[Group], objective: Objective
) -> Loss:
    """What the log shows of rewards `earned` (P, G) of texts, of groups with a label; no loss."""
    t = objective.training
    labelled = [group for group in groups if group.labelled]
    known = torch.tensor([group.labelled for group in groups], device=earned.device)
    share = t.prompts_per_step / t.labelled_per_step  # the step divides by all its groups
    sums = {
        "text_reward": share * float((known * earned.mean(1)).sum()),
        "ndcg": share * float((known * rewards.ndcg.mean(1)).sum()),
        "copied_text": share * copied_share(labelled, answer=len(objective.answer)),
    }
    return Loss(earned.new_zeros(()), sums, "groups")


def _figures(rollouts: Rollouts) -> dict[str, float]:
    now = rollouts.logprobs.detach()
    return {
        "abs_log_ratio": float((now - rollouts.behaviour).abs().sum()),
        # The mean over tokens that the policy itself drew estimates its entropy.
        "token_entropy": -float(now.sum()),
    }


def _list_loss(
    hidden: Tensor,
    targets: Targets,
    sample_ids: Sequence[int],
    candidates: Candidates,
    objective: Objective,
    *,
    weight: Tensor | None = None,
) -> Loss:
    """The loss of lists drawn at hidden states (P, d), times the factors of the targets and the
    weights (P,) of the groups.

    The scores are those of the softmax, prior and correction included, at another temperature. At
    that of the softmax nearly all lists would be alike.
    """
    t = objective.training
    rivals = CANDIDATES[t.item_candidates](candidates, targets)
    scores = torch.nn.functional.normalize(hidden, dim=-1) @ rivals.vectors.T
    scores = scores / objective.temperature
    if rivals.offset is not None:
        scores = scores + rivals.offset
    flat = scores * (objective.temperature / t.ranking_temperature)
    found = ranking_loss(
        flat.masked_fill(rivals.excluded, -torch.inf),
        relevant=_places(relevant_items(targets), candidates.ids),
        uniforms=uniforms(
            candidates.seed, sample_ids, samples=t.rankings, candidates=scores.shape[1]
        ),
        depth=t.ranking_depth,
        reward=objective.reward,
        cutoff=min(objective.cutoff, t.ranking_depth),
        kind=t.item_loss,
        floor=t.advantage_floor,
        scale=t.scale_advantage,
    )
    factor = objective.factor(targets.target).to(hidden)
    total = ((factor if weight is None else factor * weight) * found.loss).sum()
    spread = found.rewards.max(1).values - found.rewards.min(1).values
    sums = {
        "item_loss": float(total.detach()),
        "list_reward": float(found.rewards.mean(1).sum()),
        "live_lists": float((spread >= t.advantage_floor).sum()),
    }
    return Loss(total, sums, "groups")


def _places(items: Tensor, ids: Tensor) -> Tensor:
    """(P, n) int64 positions of items (P, n) among ascending ids (U,); -1 for those not there."""
    place = torch.searchsorted(ids, items.clamp_min(0)).clamp_max(len(ids) - 1)
    return torch.where(ids[place] == items, place, torch.full_like(place, -1))


LOSSES = (token_loss, item_loss)
"""Every loss of a step with rollouts, in the order in which they are added."""
PAIR_LOSSES = {"dpo": preference_loss, "contrastive": ordered_loss}
"""Values of `training.loss` that replace the token loss by one of pairs of rollouts."""


def losses(
    policy: Forward, groups: Sequence[Group], *, candidates: Candidates, objective: Objective
) -> Losses:
    """Forward pass, rewards, each of `LOSSES` and `regularisers` of a micro-batch, or its
    `supervised_loss`."""
    t = objective.training
    if not t.rolls_out:
        part = supervised_loss(policy, groups, candidates=candidates, objective=objective)
        return Losses(None, [part])
    assert candidates.table is not None
    prefixes, items = None, len(candidates.table)
    if t.credit != "rollout":
        prefixes = read_prefixes(policy, groups, training=t, answer=objective.answer)
    rollouts = forward(
        policy,
        groups,
        items=items,
        prior=objective.prior,
        start=t.reads_start,
        text_reward=objective.text_reward,
    )
    rollouts = replace(rollouts, prefixes=prefixes)
    rewards = reward(rollouts, table=candidates.table, objective=objective)
    first = choices(groups, rewards.seen, rewards.dead, floor=t.advantage_floor)
    rewards = replace(rewards, choices=first)
    used = [*LOSSES]
    if pairs := PAIR_LOSSES.get(t.loss):
        used = [pairs, token_figures, *(one for one in LOSSES if one != token_loss)]
    used += [imitated_best] if objective.best_weight else []
    used += [expert_loss] if candidates.demonstrations is not None else []
    used += [consistency_loss] if objective.views is not None else []
    parts = [loss(rollouts, rewards, candidates, objective) for loss in used]
    if rollouts.text_rewards is not None:
        parts.append(text_figures(rollouts.text_rewards, rewards, groups, objective))
    return Losses(rewards, [*parts, *regularisers(rollouts, t)])
