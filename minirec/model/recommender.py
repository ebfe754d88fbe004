"""The policy: a causal LM whose hidden state at `<answer>` is compared with the item table."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minirec.config.model import ModelConfig
from minirec.corpus import prompts
from minirec.corpus.table import Catalogue, Sample
from minirec.errors import ConfigError
from minirec.model.sharing import Sharing, pack
from minirec.rl.group import Group

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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
        return [self.prompt([catalogue.titles[i] for i in s.history]) for s in samples]

    def prompt(self, titles: Sequence[str]) -> list[int]:
        """Token ids of the prompt for a history, oldest first. If it is too long, the oldest titles
        are dropped.

        Raises:
            ConfigError: not even the last title fits into ``model.max_prompt_tokens``.
        """
        return self.fitting(titles)[1]

    def words(self, titles: Sequence[str]) -> str:
        """The user message of the prompt for a history, without chat template."""
        return self._say(self.fitting(titles)[0])

    def fitting(self, titles: Sequence[str]) -> tuple[list[str], list[int]]:
        """The last titles that fit into a prompt, and its token ids. Raises like `prompt`."""
        limit = self.config.max_prompt_tokens
        titles = [self.cut(title, self.config.max_item_tokens) for title in titles]

        def tokens(dropped: int) -> list[int]:
            return self._read(self.text(self._say(titles[dropped:])))

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
        return titles[dropped:], ids

    @property
    def has_template(self) -> bool:
        return bool(getattr(self.tokenizer, "chat_template", None))

    def _say(self, titles: Sequence[str]) -> str:
        if self.has_template:
            return prompts.instruction(titles, category=self.category)
        return prompts.plain(titles)

    def text(self, words: str) -> str:
        """The prompt with the user message `words`, as the model reads it."""
        if not self.has_template:
            return words
        chat = [{"role": "user", "content": words}]
        return str(
            self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        )

    def items(self, catalogue: Catalogue) -> list[list[int]]:
        """Token ids of each item of a catalogue."""
        both = zip(catalogue.titles, catalogue.texts, strict=True)
        return [self.item(title, text) for title, text in both]

    def item(self, title: str, text: str) -> list[int]:
        """Token ids of an item, cut to ``model.max_item_tokens``, with the answer marker."""
        words = self.cut(prompts.item_text(title, text), self.config.max_item_tokens)
        return self._read(words) + self.answer_ids

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
        )


class Policy(nn.Module):
    """Hidden states and token log-probabilities of a (LoRA-adapted) causal LM.

    Batches are padded on the right. With a causal mask, padding does not change earlier tokens.
    """

    def __init__(self, lm: nn.Module, *, pad_id: int, temperature: float = 1.0):
        super().__init__()
        self.lm: Any = lm
        self.pad_id = pad_id
        self.rollout_temperature = temperature

    def forward(
        self, sequences: Sequence[Sequence[int]] = (), *, groups: Sequence[Group] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """One forward pass, over sequences (hidden states) or over groups (both results).

        The prompt of a group is read once for all its rollouts where that is cheaper (`packs`).
        This changes only rounding.

        Args:
            sequences: B token lists that end with the answer marker.
            groups: if given, their B completions, each after its prompt, replace the sequences.

        Returns:
            hidden (B, d) float32 at the last token of each sequence. For groups also
            log-probabilities (sum of completion lengths,) float32 of their completion tokens, in
            order, at the rollout temperature; otherwise None.
        """
        if groups is not None and self.packs(groups):
            return self._packed(groups)
        if groups is not None:
            sequences = [sequence for group in groups for sequence in group.sequences]
        ids, mask = pad(sequences, self.pad_id, self.device)
        states = self.causal.base_model(
            input_ids=ids, attention_mask=mask, use_cache=False
        ).last_hidden_state
        lengths = mask.sum(1)
        rows = torch.arange(len(sequences), device=self.device)
        hidden = _at_least_float32(states[rows, lengths - 1])
        if groups is None:
            return hidden, None
        positions = torch.arange(ids.shape[1], device=self.device)
        starts = [len(group.prompt) for group in groups for _ in group.completions]
        first = torch.as_tensor(starts, device=self.device)
        predicts = (positions[None] >= first[:, None] - 1) & (
            positions[None] < lengths[:, None] - 1
        )
        return hidden, self._logprobs(states[predicts], ids[:, 1:][predicts[:, :-1]])

    def states(self, groups: Sequence[Group]) -> Tensor:
        """The hidden states of `forward` for groups, without log-probabilities."""
        if not self.packs(groups):
            return self([sequence for group in groups for sequence in group.sequences])[0]
        dtype = next(self.lm.parameters()).dtype
        packed = pack(groups, pad_id=self.pad_id, dtype=dtype, device=self.device)
        states = self.causal.base_model(
            input_ids=packed.ids,
            attention_mask=packed.mask,
            position_ids=packed.positions,
            use_cache=False,
        ).last_hidden_state.flatten(0, 1)
        return _at_least_float32(states[packed.last])

    def packs(self, groups: Sequence[Group]) -> bool:
        """Whether `forward` reads the prompt of each group only once."""
        sharing = Sharing.of(self.causal)
        return sharing is not None and sharing.saves([group.lengths for group in groups])

    @property
    def causal(self) -> Any:
        """The causal LM without the peft wrapper."""
        return self.lm.get_base_model() if hasattr(self.lm, "get_base_model") else self.lm

    @property
    def device(self) -> torch.device:
        return next(self.lm.parameters()).device

    def _packed(self, groups: Sequence[Group]) -> tuple[Tensor, Tensor]:
        dtype = next(self.lm.parameters()).dtype
        packed = pack(groups, pad_id=self.pad_id, dtype=dtype, device=self.device)
        states = self.causal.base_model(
            input_ids=packed.ids,
            attention_mask=packed.mask,
            position_ids=packed.positions,
            use_cache=False,
        ).last_hidden_state.flatten(0, 1)
        hidden = _at_least_float32(states[packed.last])
        # The end of a prompt predicts the first token of all its rollouts, so its row repeats.
        # On the CPU, the backward of `[]` adds gradients of repeated rows in any order, and bytes
        # would differ between runs. The backward of `index_select` keeps the order.
        return hidden, self._logprobs(states.index_select(0, packed.predicts), packed.targets)

    def _logprobs(self, states: Tensor, targets: Tensor) -> Tensor:
        """Log-probabilities (T,) of the tokens `targets` (T,) after states (T, d)."""
        logits = _at_least_float32(_scaled_logits(self.causal, states)) / self.rollout_temperature
        return -F.cross_entropy(logits, targets, reduction="none")


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _scaled_logits(causal: Any, states: Tensor) -> Tensor:
    """Logits of these states, scaled as in the model's own forward.

    Depending on the config, Gemma caps, Cohere multiplies and Granite divides them.
    """
    logits, config = causal.lm_head(states), causal.config
    if (scale := getattr(config, "logit_scale", None)) is not None:
        logits = logits * scale
    if (scale := getattr(config, "logits_scaling", None)) is not None:
        logits = logits / scale
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        logits = cap * torch.tanh(logits / cap)
    return logits


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


def load_lm(path: str, config: ModelConfig) -> nn.Module:
    """A causal LM from safetensors in a folder or on the hub, in ``model.dtype``."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        path,
        dtype=DTYPES[config.dtype],
        trust_remote_code=config.trust_remote_code,
        use_safetensors=True,
    )


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
