"""The policy: a causal LM whose hidden state at `<answer>` is compared with the item table."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from minirec.config.model import ModelConfig
from minirec.corpus import prompts
from minirec.corpus.table import Catalogue, Sample
from minirec.errors import ConfigError
from minirec.model.loading import load_lm
from minirec.model.logprobs import at_least_float32, token_logprobs
from minirec.model.sharing import Sharing, pack
from minirec.model.token_lists import TokenLists
from minirec.rl.group import Group

Pairs = Sequence[tuple[int, int]]
"""Places in a history, of which the first was preferred to the second."""


def shown(sample: Sample, catalogue: Catalogue) -> tuple[list[str], Pairs]:
    """What a prompt shows of a sample: the titles of its history, and its pairs."""
    pairs = prompts.chosen_pairs(sample.history, sample.history_rating, most=catalogue.choices)
    return [catalogue.titles[i] for i in sample.history], pairs


class Rollout(Protocol):
    """The text that an engine wrote after a prompt (`actors.engines.engine.Completion`)."""

    @property
    def token_ids(self) -> list[int]: ...
    @property
    def logprobs(self) -> list[float]: ...
    @property
    def stopped(self) -> bool: ...


class Encoder:
    """Turns prompts and items into tokens. Texts are cut at tokens, not at characters."""

    def __init__(self, tokenizer: Any, config: ModelConfig, *, category: str):
        self.tokenizer = tokenizer
        self.config = config
        self.category = prompts.neutralise(category)
        self.answer_ids: list[int] = tokenizer.encode(prompts.ANSWER, add_special_tokens=False)

    @classmethod
    def load(cls, path: str, config: ModelConfig, *, category: str) -> Encoder:
        """Load the tokenizer of the model at `path`, a folder or hub name."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=config.trust_remote_code)
        return cls(tokenizer, config, category=category)

    def cut(self, text: str, tokens: int) -> str:
        """The neutralised text, cut to `tokens` tokens."""
        text = prompts.neutralise(text)
        if len(text.encode()) <= tokens:  # a token is at least one character
            return text
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        return text if len(ids) <= tokens else self.tokenizer.decode(ids[:tokens]).strip("�")

    def prompts(self, samples: Sequence[Sample], catalogue: Catalogue) -> list[list[int]]:
        """Token ids of the prompt of each sample. Raises like `prompt`."""
        return [self.prompt(*shown(sample, catalogue)) for sample in samples]

    def prompt(self, titles: Sequence[str], pairs: Pairs = ()) -> list[int]:
        """Token ids of the prompt for a history, oldest first. If it is too long, the last pairs
        are dropped, then the oldest titles.

        Args:
            pairs: places in the titles, see `prompts.chosen_pairs`.

        Raises:
            ConfigError: not even the last title fits into ``model.max_prompt_tokens``.
        """
        return self._fitting(titles, pairs)[2]

    def words(self, titles: Sequence[str], pairs: Pairs = ()) -> str:
        """The user message of the prompt for a history, without chat template."""
        kept, chosen, _ = self._fitting(titles, pairs)
        return self._say(kept, pairs=chosen)

    def fitting(self, titles: Sequence[str]) -> tuple[list[str], list[int]]:
        """The last titles that fit into a prompt, and its token ids. Raises like `prompt`."""
        kept, _, ids = self._fitting(titles, ())
        return kept, ids

    def _fitting(self, titles: Sequence[str], pairs: Pairs) -> tuple[list[str], Pairs, list[int]]:
        """The last titles and the first pairs that fit into a prompt, and its token ids."""
        limit = self.config.max_prompt_tokens
        titles = [self.cut(title, self.config.max_item_tokens) for title in titles]

        def tokens(dropped: int, chosen: Pairs = ()) -> list[int]:
            return self._read(self.text(self._say(titles[dropped:], pairs=chosen)))

        for count in range(len(pairs), 0, -1):
            ids = tokens(0, pairs[:count])
            if len(ids) <= limit:
                return titles, pairs[:count], ids
        dropped, ids = 0, tokens(0)
        if len(ids) > limit and len(titles) > 1:
            fewer = range(1, len(titles) - 1)  # if none fits, only the last title remains
            dropped = 1 + bisect_left(fewer, True, key=lambda n: len(tokens(n)) <= limit)
            ids = tokens(dropped)
        if len(ids) > limit:
            raise ConfigError(
                f"a prompt with one title has {len(ids)} tokens; raise "
                f"model.max_prompt_tokens (now {limit}) or lower model.max_item_tokens"
            )
        return titles[dropped:], (), ids

    def listing(self, titles: Sequence[str], options: Sequence[str]) -> list[int] | None:
        """Token ids of a prompt that lists options below a history, oldest first. If it is too
        long, the oldest titles are dropped; None if it is too long even with one title."""
        size = self.config.max_item_tokens
        kept = [self.cut(title, size) for title in titles]
        listed = [self.cut(title, size) for title in options]
        while kept:
            ids = self._read(self.text(self._say(kept, listed)))
            if len(ids) <= self.config.max_prompt_tokens:
                return ids
            kept = kept[1:]
        return None

    @property
    def has_template(self) -> bool:
        return bool(getattr(self.tokenizer, "chat_template", None))

    def _say(self, titles: Sequence[str], options: Sequence[str] = (), pairs: Pairs = ()) -> str:
        if self.has_template:
            return prompts.instruction(titles, category=self.category, options=options, pairs=pairs)
        return prompts.plain(titles, options=options, pairs=pairs)

    def text(self, words: str) -> str:
        """The prompt with the user message `words`, as the model reads it."""
        if not self.has_template:
            return words
        chat = [{"role": "user", "content": words}]
        return str(
            self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        )

    def items(self, catalogue: Catalogue) -> TokenLists:
        """Token ids of each item of a catalogue."""
        both = zip(catalogue.titles, catalogue.texts, strict=True)
        return TokenLists(self.item(title, text) for title, text in both)

    def item(self, title: str, text: str) -> list[int]:
        """Token ids of an item, cut to ``model.max_item_tokens``, with the answer marker."""
        words = self.cut(prompts.item_text(title, text), self.config.max_item_tokens)
        return self._read(words) + self.answer_ids

    def item_words(self, item: Sequence[int]) -> list[int]:
        """The tokens of an item's text alone, of its tokens as `item` gives them."""
        first = int(item[0] == self.tokenizer.bos_token_id)
        return [*item[first : len(item) - len(self.answer_ids)]]

    def written_texts(self, group: Group) -> list[str]:
        """The texts that the engines wrote for a group, each up to its answer marker."""
        both = zip(group.completions, group.written, strict=True)
        texts = [self.tokenizer.decode(c[:n], skip_special_tokens=True) for c, n in both]
        return [text.partition(prompts.ANSWER)[0].strip() for text in texts]

    def _read(self, text: str) -> list[int]:
        """Token ids of a text, with the BOS token if the model has one."""
        return prompts.begun(self.tokenizer.encode(text, add_special_tokens=False), self.tokenizer)

    def finish(self, completion: Sequence[int], *, stopped: bool) -> list[int]:
        """A completion that ends with the answer marker, where the hidden state is read."""
        return list(completion) if stopped else [*completion, *self.answer_ids]

    def sequence(self, prompt: list[int], rollout: Rollout) -> list[int]:
        """A prompt and its rollout, as the policy reads them."""
        return prompt + self.finish(rollout.token_ids, stopped=rollout.stopped)

    def group(self, sample: Sample, prompt: list[int], rollouts: Sequence[Rollout]) -> Group:
        """The group of a sample: its prompt with its rollouts."""
        return Group(
            prompt,
            completions=[self.finish(r.token_ids, stopped=r.stopped) for r in rollouts],
            written=[len(r.token_ids) for r in rollouts],
            excluded=sample.excluded,
            target=sample.target,
            rollout_logprobs=[r.logprobs for r in rollouts],
            history=sample.history,
            sample_id=sample.sample_id,
            following=sample.following,
        )


class Policy(nn.Module):
    """Hidden states and token log-probabilities of a (LoRA-adapted) causal LM.

    Batches are padded on the right. With a causal mask, padding does not change earlier tokens.

    The LM may be in bfloat16 while its LoRA weights are in float32. Then each pass converts these,
    and computes in bfloat16, but their gradients add up in float32 (`torch.autocast`).
    """

    def __init__(self, lm: nn.Module, *, pad_id: int, temperature: float = 1.0):
        super().__init__()
        self.lm: Any = lm
        self.pad_id = pad_id
        self.rollout_temperature = temperature
        module: Any
        for module in lm.modules():
            if hasattr(module, "cast_input_dtype_enabled"):  # a LoRA layer of peft
                # Otherwise it converts its input to float32, and autocast converts it back.
                module.cast_input_dtype_enabled = False

    def forward(
        self,
        sequences: Sequence[Sequence[int]] = (),
        *,
        groups: Sequence[Group] | None = None,
        logprobs: bool = True,
        alone: bool = False,
        temperature: float | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """One forward pass, over sequences (hidden states) or over groups (both results).

        The prompt of a group is read once for all its rollouts where that is cheaper (`packs`).
        This changes only rounding.

        Args:
            sequences: B token lists that end with the answer marker.
            groups: if given, their B completions, each after its prompt, replace the sequences.
            logprobs: whether the log-probabilities of groups are needed.
            alone: whether a row of the batch must hold one group only, as per-sample gradients
                need.
            temperature: of the log-probabilities; None: that of rollouts.

        Returns:
            hidden (B, d) float32 at the last token of each sequence. For groups also
            log-probabilities (sum of completion lengths,) float32 of their completion tokens, in
            order; otherwise None.
        """
        low = self.dtype if self.dtype == torch.bfloat16 else None
        with torch.autocast(self.device.type, dtype=low, enabled=low is not None):
            if groups is None:
                return self._apart(sequences)[0], None
            if self.packs(groups, alone=alone):
                hidden, states, targets = self._packed(groups, alone=alone)
            else:
                hidden, states, targets = self._unpacked(groups)
            if not logprobs:
                return hidden, None
            rate = self.rollout_temperature if temperature is None else temperature
            return hidden, token_logprobs(self.causal, states, targets, temperature=rate)

    def packs(self, groups: Sequence[Group], *, alone: bool = False) -> bool:
        """Whether `forward` reads the prompt of each group only once."""
        lengths = [group.lengths for group in groups]
        return self.sharing is not None and self.sharing.saves(lengths, alone=alone)

    @cached_property
    def sharing(self) -> Sharing | None:
        """How groups are read, see `Sharing.of`."""
        return Sharing.of(self.causal)

    def checkpoint_activations(self, on: bool = True) -> None:
        """Whether the backward pass computes the activations of each block again.

        It needs the memory of one block instead of all, and up to half as much time again.
        """
        from transformers.modeling_layers import GradientCheckpointingLayer

        if not on:
            self.causal.gradient_checkpointing_disable()
            return
        self.causal.gradient_checkpointing_enable({"use_reentrant": False})
        for module in self.causal.modules():
            if isinstance(module, GradientCheckpointingLayer):
                # It looks at its own flag. The modules in it stay in eval mode, without dropout.
                module.training = True

    @property
    def causal(self) -> Any:
        """The causal LM without the peft wrapper."""
        return self.lm.get_base_model() if hasattr(self.lm, "get_base_model") else self.lm

    @property
    def device(self) -> torch.device:
        return next(self.lm.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the LM, not of its LoRA weights."""
        return self.causal.get_input_embeddings().weight.dtype

    def _apart(self, sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states at the ends (B, d) float32, all states (B, L, d), and the ids (B, L)."""
        ids, mask = pad(sequences, self.pad_id, self.device)
        states = self.causal.base_model(
            input_ids=ids, attention_mask=mask, use_cache=False
        ).last_hidden_state
        rows = torch.arange(len(sequences), device=self.device)
        return at_least_float32(states[rows, mask.sum(1) - 1]), states, ids

    def _unpacked(self, groups: Sequence[Group]) -> tuple[Tensor, Tensor, Tensor]:
        """As `_packed`, with a row for each completion."""
        sequences = [sequence for group in groups for sequence in group.sequences]
        hidden, states, ids = self._apart(sequences)
        positions = torch.arange(ids.shape[1], device=self.device)
        starts = [len(group.prompt) for group in groups for _ in group.completions]
        first = torch.as_tensor(starts, device=self.device)
        ends = torch.as_tensor([len(one) for one in sequences], device=self.device)
        predicts = (positions >= first[:, None] - 1) & (positions < ends[:, None] - 1)
        return hidden, states[predicts], ids[:, 1:][predicts[:, :-1]]

    def _packed(self, groups: Sequence[Group], *, alone: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states at the ends, the states (T, d) that predict the completion tokens, and
        these tokens (T,)."""
        packed = pack(groups, pad_id=self.pad_id, dtype=self.dtype, device=self.device, alone=alone)
        states = self.causal.base_model(
            input_ids=packed.ids,
            attention_mask=packed.mask,
            position_ids=packed.positions,
            use_cache=False,
        ).last_hidden_state.flatten(0, 1)
        hidden = at_least_float32(states[packed.last])
        # The end of a prompt predicts the first token of all its rollouts, so its row repeats.
        # On the CPU, the backward of `[]` adds gradients of repeated rows in any order, and bytes
        # would differ between runs. The backward of `index_select` keeps the order.
        return hidden, states.index_select(0, packed.predicts), packed.targets


def pad(
    sequences: Sequence[Sequence[int]], pad_id: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Right-padded ids (B, L) int64 and mask (B, L) int64."""
    length = max(map(len, sequences))
    ids = torch.full((len(sequences), length), pad_id, dtype=torch.int64)
    mask = torch.zeros((len(sequences), length), dtype=torch.int64)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.as_tensor(sequence)
        mask[row, : len(sequence)] = 1
    return ids.to(device), mask.to(device)


def load_policy(
    path: str,
    config: ModelConfig,
    tokenizer: Any,
    *,
    adapter: str | Path | None = None,
    merge: bool = True,
    rollout_temperature: float = 1.0,
    device: str = "cpu",
) -> Policy:
    """A frozen policy. An adapter is merged into the weights, or stays a LoRA if not `merge`."""
    lm = load_lm(path, config)
    if adapter is not None:
        from peft import PeftModel

        lm = PeftModel.from_pretrained(lm, str(adapter))
        lm = lm.merge_and_unload() if merge else lm
    lm.eval().requires_grad_(False)
    return Policy(lm.to(device), pad_id=pad_id(tokenizer), temperature=rollout_temperature)


def trainable_policy(
    path: str,
    config: ModelConfig,
    tokenizer: Any,
    *,
    rollout_temperature: float,
    seed: int,
    adapter: str | Path | None = None,
) -> Policy:
    """A policy with a LoRA adapter: from a folder, or new with weights by `seed`."""
    from peft import LoraConfig, PeftModel, get_peft_model

    if adapter is not None:
        lm = PeftModel.from_pretrained(load_lm(path, config), str(adapter), is_trainable=True)
        return Policy(lm, pad_id=pad_id(tokenizer), temperature=rollout_temperature)
    torch.manual_seed(seed)
    targets = config.lora_targets
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=0.0,
        target_modules=targets if targets == "all-linear" else targets.split(","),
        task_type="CAUSAL_LM",
    )
    lm = get_peft_model(load_lm(path, config), lora)
    return Policy(lm, pad_id=pad_id(tokenizer), temperature=rollout_temperature)


def pad_id(tokenizer: Any) -> int:
    """Padding token id, or the end-of-text id if the tokenizer has none."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
