"""Recommendations with transformers alone, from a folder written by `minirec export`.

    python recommender.py "Title one" "Title two"

The folder holds the policy (merged, or an adapter with the name of its base), ``items.npy`` with
its unit vectors of all items, ``items.jsonl`` with their titles, and ``recommender.json``. If the
policy has a collaborative prior, its counts are in ``prior.npz``, and `scipy` is needed.
"""

from __future__ import annotations

import difflib
import json
import sys
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from minirec.corpus import prompts


class Recommender:
    """A policy that ranks all items after a history; most write an analysis of it first."""

    def __init__(self, folder: str | Path):
        """`folder` is the folder of this file."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = Path(folder)
        self.settings = json.loads((folder / "recommender.json").read_text())
        base, trust = self.settings["base"], self.settings["trust_remote_code"]
        path = folder / base if base and (folder / base).is_dir() else base or folder
        self.tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust)
        lm: Any = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=trust)
        if base:
            from peft import PeftModel

            lm = PeftModel.from_pretrained(lm, str(folder)).merge_and_unload()
        self.lm = lm.eval().requires_grad_(False)
        self.items = torch.from_numpy(np.load(folder / "items.npy")).double()
        with (folder / "items.jsonl").open(encoding="utf-8") as lines:
            self.titles = [json.loads(line)["title"] for line in lines]
        self.counts = None
        if "prior" in self.settings:
            from minirec.prior import counts

            self.counts = counts.Counts.load(folder / "prior.npz")
            self.weights = [self.settings["prior"][part] for part in counts.PARTS]

    def rank(
        self, history: Sequence[int], *, top: int, ratings: Sequence[float] = ()
    ) -> list[tuple[int, float]]:
        """Item ids and scores of the `top` best items that are not in the history.

        The score is the cosine, or cosine / temperature + prior if the policy has a prior.

        The history has item ids (lines of ``items.jsonl`` from 0), oldest first. The list is
        shorter if fewer items are left. Ties go to the lowest item id. `ratings` are those of the
        history, if known; they are used only if the policy was trained with them (``choices`` in
        ``recommender.json``).

        Raises:
            ValueError: the history is empty or holds an unknown item id, `top` is below 1, or there
                is not a rating for each item.
        """
        if not len(history):
            raise ValueError("the history is empty; give item ids, oldest first")
        if strange := [i for i in history if not 0 <= i < len(self.titles)]:
            raise ValueError(
                f"{strange[0]} is not an item id; expected 0 to {len(self.titles) - 1}"
            )
        if top < 1:
            raise ValueError(f"top is {top}; expected 1 or more")
        if len(ratings) not in (0, len(history)):
            raise ValueError(
                f"there are {len(ratings)} ratings for {len(history)} items; give one for each"
            )
        pairs = prompts.chosen_pairs(history, ratings, most=self.settings.get("choices", 0))
        prompt = self._prompt([self.titles[i] for i in history], pairs)
        written = self._analysis(prompt) if self.settings["max_new_tokens"] else []
        if not self.tokenizer.decode(written).rstrip().endswith(prompts.ANSWER):
            written += self.tokenizer.encode(prompts.ANSWER, add_special_tokens=False)
        states = self.lm.base_model(input_ids=torch.tensor([prompt + written])).last_hidden_state
        # Rounded float64, so that equal vectors have equal cosines.
        scores = (self.items @ F.normalize(states[0, -1].double(), dim=-1)).round(decimals=10)
        if self.counts is not None:
            prior = torch.from_numpy(self.counts.scores([history], self.weights)[0])
            scores = (scores / self.settings["temperature"] + prior).round(decimals=10)
        had = sorted(set(history))
        scores[torch.tensor(had)] = -torch.inf
        best = scores.sort(descending=True, stable=True)
        wanted = min(top, len(self.titles) - len(had))
        items, values = best.indices[:wanted].tolist(), best.values[:wanted].tolist()
        return list(zip(items, values, strict=True))

    def _analysis(self, prompt: list[int]) -> list[int]:
        """The token ids that the policy writes after a prompt, without the end of the sequence."""
        ids = torch.tensor([prompt])
        written: list[int] = self.lm.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=self.settings["max_new_tokens"],
            stop_strings=[prompts.ANSWER],
            tokenizer=self.tokenizer,
        )[0, len(prompt) :].tolist()
        end = self.tokenizer.eos_token_id
        return written[: written.index(end)] if end in written else written

    def _prompt(self, titles: Sequence[str], pairs: Sequence[tuple[int, int]] = ()) -> list[int]:
        """Token ids of the prompt. If it is too long, the last pairs are dropped, then the oldest
        titles."""
        shown = [self._cut(prompts.neutralise(title)) for title in titles]
        limit = self.settings["max_prompt_tokens"]
        for count in range(len(pairs), 0, -1):
            if len(ids := self._encode(shown, pairs[:count])) <= limit:
                return ids
        fewer = range(len(shown) - 1)  # if none fits, only the last title remains
        dropped = bisect_left(fewer, True, key=lambda n: len(self._encode(shown[n:])) <= limit)
        return self._encode(shown[dropped:])

    def _encode(self, titles: Sequence[str], pairs: Sequence[tuple[int, int]] = ()) -> list[int]:
        text = prompts.plain(titles, pairs=pairs)
        if getattr(self.tokenizer, "chat_template", None):
            category = self.settings["category"]
            words = prompts.instruction(titles, category=category, pairs=pairs)
            text = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": words}], tokenize=False, add_generation_prompt=True
            )
        return prompts.begun(self.tokenizer.encode(text, add_special_tokens=False), self.tokenizer)

    def _cut(self, title: str) -> str:
        ids = self.tokenizer.encode(title, add_special_tokens=False)
        limit = self.settings["max_item_tokens"]
        return title if len(ids) <= limit else self.tokenizer.decode(ids[:limit]).strip("\ufffd")


def find_items(titles: Sequence[str], catalogue: Sequence[str]) -> list[int]:
    """Item ids of titles written by a person, compared by `prompts.comparable`.

    Raises:
        ValueError: no item, or more than one, has a title.
    """
    by_title: dict[str, list[int]] = {}
    for item, title in enumerate(catalogue):
        by_title.setdefault(prompts.comparable(title), []).append(item)
    found = []
    for title in titles:
        items = by_title.get(prompts.comparable(title), [])
        if not items:
            near = difflib.get_close_matches(title, catalogue, n=3, cutoff=0.3)
            names = ", ".join(map(repr, near)) or "none"
            raise ValueError(f"no item is titled {title!r}; near: {names}")
        if len(items) > 1:
            ids = ", ".join(map(str, items[:5]))
            raise ValueError(
                f"{len(items)} items are titled {title!r}, with the item ids {ids}; rank with "
                f"Recommender(folder).rank([item id, ...], top=10)"
            )
        found += items
    return found


def main() -> None:
    """Print ten items for the titles of a history."""
    if not sys.argv[1:]:
        program = Path(__file__).name
        sys.exit(f'usage: python {program} "TITLE" ..., the titles of the history, oldest first')
    recommender = Recommender(Path(__file__).resolve().parent)
    try:
        ranked = recommender.rank(find_items(sys.argv[1:], recommender.titles), top=10)
    except ValueError as error:
        sys.exit(str(error))
    for item, score in ranked:
        print(f"{score:.3f}  {recommender.titles[item]}")
    if not ranked:
        print("every item is in the history")


if __name__ == "__main__":
    main()
