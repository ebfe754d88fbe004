"""Preference pairs of a scored subset, for trainers of preferences such as TRL's DPOTrainer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from minirec.export.formats import Example, Row
from minirec.export.front import of_subset

TO = "trl-dpo"
FILE = "train.jsonl"
Rollouts = tuple[Sequence[str], Sequence[float]]
"""Texts and rewards of the rollouts of a sample."""


def pair_of(texts: Sequence[str], rewards: Sequence[float], *, floor: float) -> Row | None:
    """The best and the worst rollout with their rewards; of equal ones, the first.

    None if their rewards differ by less than `floor`, as in a dead group, or their texts do not
    differ.
    """
    if not len(texts):
        return None
    best, worst = rewards.index(max(rewards)), rewards.index(min(rewards))
    if rewards[best] - rewards[worst] < floor or texts[best] == texts[worst]:
        return None
    return {
        "chosen": texts[best],
        "rejected": texts[worst],
        "chosen_reward": rewards[best],
        "rejected_reward": rewards[worst],
    }


def preference_rows(
    examples: Iterable[Example], rollouts: Mapping[int, Rollouts], *, floor: float
) -> Iterator[Row]:
    """A row for each example whose rollouts differ: prompt, chosen and rejected, and what they got.

    With a chat template, all three are lists of messages, else texts.
    """
    for one in examples:
        texts, rewards = rollouts.get(one.sample.sample_id, ((), ()))
        pair = pair_of(list(texts), list(rewards), floor=floor)
        if pair is None:
            continue
        if not isinstance(one.prompt, str):
            pair |= {name: _said(pair[name]) for name in ("chosen", "rejected")}
        yield {"prompt": one.prompt, **pair, "sample_id": one.sample.sample_id, "rank": one.rank}


def _said(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]


def pairs_card(*, pairs: int, samples: int, policy: str, tokens: int, beta: float) -> str:
    """README of an exported folder of `pairs` of a subset of `samples`, written by `policy`."""
    front = of_subset(rows=pairs, file=FILE, items=None, tags=("dpo",))
    return f"""{front}# {pairs:,} preference pairs of {samples:,} interactions, in training order

The policy in `scorer/` ({policy}) wrote rollouts for each prompt. `chosen` is the one with
the highest reward (`reward.name`), by default because its recommendation head ranks the target
best, and `rejected` the one with the lowest.
Interactions whose rollouts got equal rewards have no pair.

```python
from datasets import load_dataset
from trl import DPOConfig, DPOTrainer
from transformers import AutoTokenizer

pairs = load_dataset("json", data_files="train.jsonl", split="train")
trainer = DPOTrainer(
    model="scorer",
    args=DPOConfig(output_dir="dpo", beta={beta:g}, max_length={tokens}),
    train_dataset=pairs.select_columns(["prompt", "chosen", "rejected"]),
    processing_class=AutoTokenizer.from_pretrained("scorer"),
)
trainer.train()
```
Without another reference model, DPO compares with the policy in `scorer/`, which wrote the pairs.
TRL appends the end-of-sequence token to a text without chat template. MiniRec stops at `<answer>`.
"""
