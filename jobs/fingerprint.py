"""Which settings of models, rollouts and trainings enter a stage's fingerprint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minirec.config.run import Config


def policy_settings(config: Config) -> dict[str, Any]:
    """The settings of a stage that computes rewards with a policy."""
    return {
        "seed": config.seed,
        "model": config.model.model_dump(mode="json"),
        "reward": config.reward.model_dump(mode="json"),
        "rollout": rollout_settings(config),
    }


def rollout_settings(config: Config) -> dict[str, Any]:
    """The rollout settings that change results; the others change only the speed.

    The engine is one of them, because two engines draw other tokens from the same seed. A merged
    adapter gives other last digits than an active one.
    """
    from actors.engines.engine import resolve_adapter, resolve_engine

    r = config.rollout
    return {
        "engine": resolve_engine(r),
        "adapter": resolve_adapter(config),
        "temperature": r.temperature,
        "max_new_tokens": r.max_new_tokens,
        "prompts_per_call": r.prompts_per_call,
    }


def without_runtime(section: dict[str, Any]) -> dict[str, Any]:
    """Training settings without those that a restart may change, and without unused validation."""
    left_out = {"max_failures", "step_deadline_s"}
    if section.get("validation_steps") is None:
        left_out |= {"validation_steps", "validation_samples", "validation_seed"}
    return {
        key: without_runtime(value) if isinstance(value, dict) else value
        for key, value in section.items()
        if key not in left_out
    }
