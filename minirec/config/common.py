"""The settings that most users change, and what settings cost."""

from __future__ import annotations

COMMON = (
    "corpus.path",
    "model.name",
    "rollout.max_new_tokens",
    "selection.mode",
    "selection.budget",
    "selection.method",
    "training.start",
    "training.loss",
    "training.epochs",
    "training.rollouts_per_prompt",
)
"""For `minirec settings --common`, in the order of a run."""
COST = {
    "corpus.path": "none for itself; all stages grow with the corpus",
    "model.name": "time and memory grow with the parameters",
    "rollout.max_new_tokens": "written tokens grow in proportion; 0 starts no engine",
    "selection.mode": "static: a proxy and the scoring of all samples; live: as live.rule says",
    "selection.budget": "the training grows in proportion",
    "selection.method": "none after the scoring; less needs LoRA gradients of all samples",
    "training.start": "warm, proxy: a training before this one",
    "training.loss": "supervised: no rollouts; dpo: one more forward pass of each rollout if "
    "preference_reference is start; the others cost the same",
    "training.epochs": "the training grows in proportion",
    "training.steps": "the training grows in proportion",
    "training.prompts_per_step": "a step grows in proportion",
    "training.rollouts_per_prompt": "rollouts grow in proportion",
    "training.kl_weight": "above 0: one more forward pass of each rollout",
    "training.kl_steps": "two forward passes of the rollouts of each measured step",
    "training.credit_chunks": "with credit prefill: one forward pass of cut rollouts for each "
    "chunk but one",
    "training.replays": "training grows in proportion, rollouts do not",
    "training.validation_steps": "a greedy rollout of each validation sample, each time",
    "training.validation_samples": "a validation grows in proportion",
    "training.gradient_checkpointing": "true: one more forward pass in each step, for less memory",
    "scoring.samples": "the scoring grows in proportion",
    "scoring.rollouts": "rollouts of the scoring grow in proportion; 0: one forward pass",
    "live.rule": "skip: none; influence: live.candidates forward passes for each prompt; others: "
    "at most live.share",
    "live.share": "at most this share of the training",
    "live.validation_samples": "one forward pass of each, for each choice",
    "warm.samples": "none where warm.training.steps is set; else the warm start grows",
    "warm.training.steps": "the warm start grows in proportion",
    "warm.training.epochs": "the warm start grows in proportion",
    "warm.training.prompts_per_step": "a step grows in proportion",
    "proxy.samples": "none where proxy.training.steps is set; else the proxy grows",
}
"""What a setting costs, by its key. Without an entry a setting costs nothing worth a line."""


def shortened(meaning: str) -> str:
    """A meaning (`reading.described`) with the names of its choices, without their meanings."""
    text, *choices = meaning.split("\n")
    names = ", ".join(choice.partition(": ")[0] for choice in choices)
    return f"{text} ({names})" if names else text


def cost_of(key: str) -> str:
    """What a setting costs, "" if it has no entry; the proxy is trained as `training` is.

    Args:
        key: dotted, e.g. ``proxy.training.epochs``.
    """
    return COST.get(key) or COST.get(key.removeprefix("proxy."), "")
