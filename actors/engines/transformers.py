"""The rollout engine that uses transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from actors.engines.engine import (
    HALF_LOADED,
    Adapter,
    Completion,
    EngineSpec,
    Vocabulary,
    check_call,
)
from actors.engines.merging import check_targets, lora_updates, merged_weights

if TYPE_CHECKING:
    import torch


class TransformersEngine:
    """A `RolloutEngine`: left-padded prompts, one KV cache, sampling by inversion."""

    def __init__(self, spec: EngineSpec) -> None:
        import torch

        from actors.engines.decoding import GROUPED
        from minirec.model.loading import load_lm

        self.spec = spec
        self.vocabulary = Vocabulary(spec)
        self.device = torch.device("cuda" if spec.gpus else "cpu")
        self._active: Adapter | None = None
        self._base: dict[str, torch.Tensor] = {}  # the weights that an adapter has changed
        self._model = load_lm(spec.model, spec)
        self._model.to(self.device).eval().requires_grad_(False)
        if not spec.gpus and self._model.config._attn_implementation == "sdpa":
            self._model.set_attn_implementation(GROUPED)

    def generate(
        self,
        prompts: list[list[int]],
        *,
        n: int,
        seeds: list[int],
        greedy: bool = False,
        limits: list[int] | None = None,
        adapter: Adapter | None = None,
    ) -> list[list[Completion]]:
        """See `RolloutEngine`.

        Every rollout has its own random generator. So a batch changes a result only where rounding
        (1e-7) moves a cumulative probability across a drawn number.
        """
        import torch

        most = check_call(self.spec, prompts, n, seeds, greedy, limits)
        self.load_adapter(adapter)
        if not prompts:
            return []
        generators = [torch.Generator().manual_seed(seed + j) for seed in seeds for j in range(n)]
        width = self.spec.max_new_tokens
        draws = [torch.rand(width, generator=g, dtype=torch.float64) for g in generators]
        uniforms = None if greedy else torch.stack(draws).to(self.device)
        tokens, logprobs = self._sample(prompts, n, uniforms, most)
        rows = [self.vocabulary.completion(*row) for row in zip(tokens, logprobs, strict=True)]
        return [rows[i * n : (i + 1) * n] for i in range(len(prompts))]

    def _sample(
        self, prompts: list[list[int]], n: int, uniforms: torch.Tensor | None, most: list[int]
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Tokens and logprobs of ``len(prompts) * n`` rollouts; greedy if `uniforms` is None.

        Those of prompt i have at most `most[i]` tokens.
        """
        import torch

        from actors.engines.decoding import roomy_cache

        longest = max(map(len, prompts))
        pads = [longest - len(prompt) for prompt in prompts]
        ids = torch.tensor(
            [[0] * pad + prompt for pad, prompt in zip(pads, prompts, strict=True)],
            device=self.device,
        )
        left = torch.tensor(pads, device=self.device)
        mask = (torch.arange(longest, device=self.device) >= left[:, None]).long()
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        tokens: list[list[int]] = [[] for _ in range(len(prompts) * n)]
        logprobs: list[list[float]] = [[] for _ in tokens]
        rows = list(range(len(tokens)))  # the rollout in each row of the batch
        cache = roomy_cache(self._model.config, max(most))

        def ended(rollout: int) -> bool:
            own = tokens[rollout]
            return len(own) >= most[rollout // n] or self.vocabulary.ended(own)

        with torch.inference_mode():
            for step in range(max(most)):
                out = self._model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                logits = out.logits[:, -1]
                if step == 0:  # the rollouts of a prompt share its prefill
                    cache.batch_repeat_interleave(n)
                    logits, mask = logits.repeat_interleave(n, 0), mask.repeat_interleave(n, 0)
                    positions = positions[:, -1:].repeat_interleave(n, 0)
                drawn = None if uniforms is None else uniforms[rows, step]
                chosen, chosen_logprobs = self._draw(logits, drawn)
                pairs = zip(chosen.tolist(), chosen_logprobs.tolist(), strict=True)
                alive = []
                for row, (token, logprob) in enumerate(pairs):
                    rollout = rows[row]
                    if ended(rollout):
                        continue
                    tokens[rollout].append(token)
                    logprobs[rollout].append(logprob)
                    if not ended(rollout):
                        alive.append(row)
                if not alive:
                    break
                if len(alive) <= len(rows) // 2:
                    keep = torch.tensor(alive, device=self.device)
                    cache.batch_select_indices(keep)
                    chosen, mask, positions = chosen[keep], mask[keep], positions[keep]
                    rows = [rows[row] for row in alive]
                ids, positions = chosen[:, None], positions + 1
                mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
        return tokens, logprobs

    def _draw(
        self, logits: torch.Tensor, uniforms: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Chosen tokens (B,) and their logprobs (B,) from logits (B, V) and uniforms (B,)."""
        import torch

        if uniforms is None:
            logprobs = torch.log_softmax(logits.float(), -1)
            chosen = logprobs.argmax(-1)
        else:
            logprobs = torch.log_softmax(logits.float() / self.spec.temperature, -1)
            cumulative = logprobs.exp().cumsum(-1, dtype=torch.float64)
            reached = (uniforms * cumulative[:, -1])[:, None]
            chosen = torch.searchsorted(cumulative, reached, right=True)[:, 0]
            chosen = chosen.clamp(max=logits.shape[-1] - 1)
        return chosen, logprobs.gather(-1, chosen[:, None])[:, 0]

    def load_adapter(self, adapter: Adapter | None) -> None:
        if adapter == self._active:
            return
        updates = lora_updates(adapter.path) if adapter else {}
        parameters = dict(self._model.named_parameters())
        check_targets(updates, parameters)
        for name in updates:
            self._base.setdefault(name, parameters[name].detach().clone())
        # An error may leave a mixture of two versions, so none is active until the copy ends.
        self._active = HALF_LOADED
        for name, weight in merged_weights(self._base, updates):
            parameters[name].data.copy_(weight)
        self._active = adapter

    def probe(self) -> dict[str, Any]:
        import torch

        with torch.inference_mode():
            logits = self._model(torch.zeros(1, 1, dtype=torch.long, device=self.device)).logits
        return {"engine": "transformers", "token": int(logits[0, -1].argmax())}
