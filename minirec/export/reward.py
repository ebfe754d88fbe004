"""Reward of a completion: how well a frozen policy ranks the target after reading it.

`minirec export` puts this file beside the data. It needs torch, transformers and numpy, but not
minirec. It reads the files beside it: ``scorer/`` (the merged policy), ``items.npy`` (its unit
vectors of all items), ``ranking.py`` (the rewards of MiniRec) and ``reward.json``, which names one
of them. Items are ranked by their cosine with the hidden state at ``<answer>``, without excluded
items: the history, and other items of the user at the target's time. If the policy has a
collaborative prior, ``prior.npz`` holds its scores for each sample, which are added. If items have
weights, ``factors.npy`` holds the factor of each item, and the reward is multiplied by that of the
target. If the rows have later items of the user (`following`), these are relevant too, and the
reward is that of all relevant items over that of the best ranking.

Functions for TRL (`reward`), verl (`compute_score`) and OpenRLHF (`reward_func`).
"""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ANSWER = "<answer>"
BATCH = 16
_lock = threading.Lock()
_scorers: dict[Path, Scorer] = {}


class Scorer:
    """The frozen policy with its item vectors."""

    def __init__(self, folder: Path):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.settings = json.loads((folder / "reward.json").read_text())
        trust = self.settings["trust_remote_code"]
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        path = folder / "scorer"
        self.tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust)
        model = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=trust)
        self.lm: Any = model.eval().requires_grad_(False).to(self.device)
        self.items = torch.from_numpy(np.load(folder / "items.npy")).to(self.device)
        self.ranking = imported(folder / "ranking.py")
        used = self.settings["files"]  # a copy may have files of an older export
        if "own_reward.py" in used:
            imported(folder / "own_reward.py")
        self.prior = Prior(folder / "prior.npz") if "prior.npz" in used else None
        factors = folder / "factors.npy"
        self.factors = torch.from_numpy(np.load(factors)) if factors.name in used else None
        self.reward = self.ranking.reward_function(
            self.settings["name"], softmax_weight=self.settings["softmax_weight"]
        )

    def rewards(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        *,
        excluded: Sequence[Sequence[int]],
        targets: Sequence[int],
        sample_ids: Sequence[int] | None = None,
        following: Sequence[Sequence[int]] | None = None,
    ) -> list[float]:
        """Rewards of B completions, each ranked without its `excluded` item ids.

        `prompts` are texts as the model reads them, including the chat template. Text after the
        first ``<answer>`` of a completion is ignored. `sample_ids` are needed if there is a prior,
        and `following`, further relevant items of each row, if the reward has a horizon.

        Raises:
            ValueError: the prior has no row for a sample, or `sample_ids` or `following` are
                missing.
        """
        if self.prior is not None and sample_ids is None:
            raise ValueError("the policy has a prior; give the sample_id of each row")
        if self.settings.get("horizon", 1) > 1 and following is None:
            raise ValueError("the reward has a horizon; give the following items of each row")
        later = [[]] * len(targets) if following is None else following
        sequences = [self._tokens(p, c) for p, c in zip(prompts, completions, strict=True)]
        found: list[float] = []
        with _lock, torch.no_grad():
            for start in range(0, len(sequences), BATCH):
                part = slice(start, start + BATCH)
                hidden = self._hidden(sequences[part])
                target = torch.tensor([int(t) for t in targets[part]])
                prior = None
                if self.prior is not None and sample_ids is not None:
                    prior = self.prior.scores(sample_ids[part], items=len(self.items))
                found += self._rewards(hidden, excluded[part], target, prior, later[part])
        return found

    def _tokens(self, prompt: str, completion: str) -> list[int]:
        text = completion.partition(ANSWER)[0]
        for end in filter(None, (self.tokenizer.eos_token, self.tokenizer.pad_token)):
            text = text.partition(end)[0]
        pieces = (prompt, text, ANSWER)
        ids = [t for p in pieces for t in self.tokenizer.encode(p, add_special_tokens=False)]
        # Some models start each text with a token, which a chat template may already contain.
        begin = [self.tokenizer.bos_token_id]
        begins = self.tokenizer.encode("")[:1] == begin != ids[:1]
        return begin + ids if begins else ids

    def _hidden(self, sequences: list[list[int]]) -> Tensor:
        """Last hidden state (B, d) float32. Padding on the right does not change it."""
        length = max(map(len, sequences))
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([s + [pad] * (length - len(s)) for s in sequences])
        mask = torch.tensor([[1] * len(s) + [0] * (length - len(s)) for s in sequences])
        states = self.lm.base_model(
            input_ids=ids.to(self.device), attention_mask=mask.to(self.device)
        ).last_hidden_state
        return states[torch.arange(len(sequences)), mask.sum(1) - 1].float()

    def _rewards(
        self,
        hidden: Tensor,
        excluded: Sequence[Sequence[int]],
        target: Tensor,
        prior: Tensor | None = None,
        following: Sequence[Sequence[int]] | None = None,
    ) -> list[float]:
        ranking, device = self.ranking, self.device
        ids = [[int(i) for i in row] for row in excluded]
        mask = ranking.excluded_mask(ids, target, items=len(self.items)).to(device)
        tau = self.settings["temperature"]
        scores = ranking.item_scores(hidden, items=self.items, temperature=tau)
        if prior is not None:
            scores += prior.to(device)
        cutoff = min(self.settings["cutoff"], len(self.items))
        later = [[]] * len(target) if following is None else following
        relevant = [
            [own, *map(int, more)] for own, more in zip(target.tolist(), later, strict=True)
        ]
        count = torch.tensor([len(row) for row in relevant])
        most, reward = int(count.max()), torch.zeros(len(target))
        for column in range(most):
            # Where there is no such item, the target is ranked again and does not count.
            asked = [row[column] if column < len(row) else row[0] for row in relevant]
            found = ranking.rank_target(scores, target=torch.tensor(asked).to(device), mask=mask)
            reward += self.reward(found, cutoff).cpu() * (column < count)
        if most > 1:
            reward /= ranking.ideal(count, most=most, reward=self.reward, cutoff=cutoff)
        return (reward if self.factors is None else self.factors[target] * reward).tolist()


class Prior:
    """Prior scores of each sample: its row of a sparse matrix, found by its sample_id."""

    def __init__(self, file: Path):
        with np.load(file) as found:
            self.values, self.items, self.ends = (found[n] for n in ("values", "items", "ends"))
            self.row = {int(i): row for row, i in enumerate(found["sample_id"])}

    def scores(self, sample_ids: Sequence[int], *, items: int) -> Tensor:
        """(B, items) float32; 0 where the file has no entry."""
        found = torch.zeros(len(sample_ids), items)
        for into, sample in zip(found, map(int, sample_ids), strict=True):
            if sample not in self.row:
                raise ValueError(
                    f"sample {sample} is not in prior.npz; use the rows of this folder"
                )
            row = self.row[sample]
            part = slice(self.ends[row - 1] if row else 0, self.ends[row])
            into[torch.from_numpy(self.items[part]).long()] = torch.from_numpy(self.values[part])
        return found


def imported(file: Path) -> Any:
    """Import a file beside this one, because trainers do not put the folder on sys.path."""
    name = f"minirec_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and `minirec_own_reward:function` look here
    spec.loader.exec_module(module)
    return module


def scorer(folder: Path | None = None) -> Scorer:
    """The scorer of a folder (default: the folder of this file), loaded once."""
    folder = folder or Path(__file__).resolve().parent
    with _lock:
        if folder not in _scorers:
            _scorers[folder] = Scorer(folder)
        return _scorers[folder]


def reward(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    prompt_text: Sequence[str],
    excluded: Sequence[Sequence[int]],
    target: Sequence[int],
    sample_id: Sequence[int] | None = None,
    following: Sequence[Sequence[int]] | None = None,
    **_: Any,
) -> list[float]:
    """For TRL: ``GRPOTrainer(reward_funcs=reward)``. The other columns come from the data set."""
    texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    return scorer().rewards(
        prompt_text,
        texts,
        excluded=excluded,
        targets=target,
        sample_ids=sample_id,
        following=following,
    )


def compute_score(
    data_source: str, solution_str: str, ground_truth: int, extra_info: dict[str, Any], **_: Any
) -> float:
    """For verl: ``reward.custom_reward_function.path=reward.py``."""
    (found,) = scorer().rewards(
        [extra_info["prompt_text"]],
        [solution_str],
        excluded=[extra_info["excluded"]],
        targets=[ground_truth],
        sample_ids=[extra_info["sample_id"]],
        following=[extra_info["following"]] if "following" in extra_info else None,
    )
    return found


def reward_func(
    queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str], **_: Any
) -> dict[str, Any]:
    """For OpenRLHF: ``--reward.remote_url reward.py``. A query is a prompt and its completion."""
    facts = [json.loads(label) for label in labels]
    texts = []
    for query, prompt in zip(queries, prompts, strict=True):
        there, completion = query.rpartition(prompt)[1:]
        if not there:
            raise ValueError(f"the query does not contain its prompt {prompt[:80]!r}")
        texts.append(completion)
    excluded, targets, sample_ids = (
        [fact[name] for fact in facts] for name in ("excluded", "target", "sample_id")
    )
    following = [fact["following"] for fact in facts if "following" in fact]
    rewards = scorer().rewards(
        prompts,
        texts,
        excluded=excluded,
        targets=targets,
        sample_ids=sample_ids,
        following=following or None,
    )
    found = torch.tensor(rewards)
    return {"rewards": found, "scores": found, "extra_logs": {"reward": found}}
