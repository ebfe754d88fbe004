"""Forward passes of a policy over a whole catalogue, or over many groups, in blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from minirec.model import tokens
from minirec.model.blocks import BLOCK_TOKENS, EVEN, blocks
from minirec.model.recommender import Policy
from minirec.rl.group import Group


@torch.no_grad()
def item_table(policy: Policy, items: Sequence[Sequence[int]]) -> Tensor:
    """Unit-norm item vectors (V, d) float32 of V token lists, V > 0."""
    rows = item_blocks(items, policy.device)
    vectors = torch.cat([item_vectors(policy, items, block) for block in rows])
    return in_order(vectors, rows)


def item_blocks(items: Sequence[Sequence[int]], device: torch.device) -> list[list[int]]:
    """The blocks in which items are encoded; they depend only on the lengths and the device."""
    lengths = [len(item) for item in items]
    return blocks(lengths, most=BLOCK_TOKENS[device.type], multiple=EVEN)


def item_vectors(policy: Policy, items: Sequence[Sequence[int]], block: Sequence[int]) -> Tensor:
    """Unit-norm vectors (len(block), d) float32 of the items of a block, in one forward pass."""
    return F.normalize(policy([items[i] for i in block])[0], dim=-1)


def in_order(values: Tensor, rows: Sequence[Sequence[int]]) -> Tensor:
    """Values (N, d) of the rows of all blocks, put into the order of the rows 0..N-1."""
    result = torch.empty_like(values)
    result[torch.tensor([row for block in rows for row in block], device=values.device)] = values
    return result


@torch.no_grad()
def hidden_states(policy: Policy, groups: Sequence[Group]) -> Tensor:
    """Hidden states (B, d) float32 at the ends of the B > 0 completions of all groups, in order.

    Each group is read in one pass, its prompt once where that is cheaper, in blocks of groups with
    about equally many tokens. The blocks change only rounding.
    """
    lengths = [tokens.read(group, policy.sharing) for group in groups]
    found: dict[int, Tensor] = {}
    for block in blocks(lengths, most=BLOCK_TOKENS[policy.device.type]):
        mine = [groups[i] for i in block]
        parts = policy(groups=mine, logprobs=False)[0].split(
            [len(group.completions) for group in mine]
        )
        found |= zip(block, parts, strict=True)
    return torch.cat([found[i] for i in range(len(groups))])
