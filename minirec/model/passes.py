"""Forward passes of a policy over a whole catalogue, or over many groups, in blocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
    return in_order(((block, item_vectors(policy, items, block)) for block in rows), len(items))


def item_blocks(items: Sequence[Sequence[int]], device: torch.device) -> list[list[int]]:
    """The blocks in which items are encoded; they depend only on the lengths and the device."""
    lengths = [len(item) for item in items]
    return blocks(lengths, most=BLOCK_TOKENS[device.type], multiple=EVEN)


def item_vectors(policy: Policy, items: Sequence[Sequence[int]], block: Sequence[int]) -> Tensor:
    """Unit-norm vectors (len(block), d) float32 of the items of a block, in one forward pass."""
    return F.normalize(policy([items[i] for i in block])[0], dim=-1)


def in_order(blocks: Iterable[tuple[Sequence[int], Tensor]], count: int) -> Tensor:
    """Values (N, d) of the rows 0..N-1, from blocks of row numbers and their values (n, d).

    Each block is put into its place at once, so that a large table exists once.

    Raises:
        ValueError: there is no block.
    """
    result: Tensor | None = None
    for rows, values in blocks:
        if result is None:
            result = values.new_empty(count, values.shape[1])
        result[torch.tensor(rows, device=values.device)] = values
    if result is None:
        raise ValueError("there is no item to encode")
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
