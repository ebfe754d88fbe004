"""Which settings of rollouts and trainings a stage's fingerprint covers."""

from __future__ import annotations

from typing import Any

from actors.engines.engine import resolve_adapter, resolve_engine
from minirec.config.run import Config


def rollout_settings(config: Config) -> dict[str, Any]:
    """The rollout settings that change results; the others only change speed.

    Two engines draw other tokens from the same seed, and an adapter that is merged gives other
    last digits than an active one.
    """
    r = config.rollout
    return {
        "engine": resolve_engine(r),
        "adapter": resolve_adapter(config),
        "temperature": r.temperature,
        "max_new_tokens": r.max_new_tokens,
        "prompts_per_call": r.prompts_per_call,
    }


def without_runtime(section: dict[str, Any]) -> dict[str, Any]:
    """Training settings without those that a restart may change (deadlines, failures).

    A start from the base, staleness 0 and no validation are left out too: what was trained before
    there was a choice is the same.
    """
    runtime = {"max_failures", "step_deadline_s"}
    former = {"start": "base", "staleness": 0, "patience": None}
    runtime |= {key for key, value in former.items() if section.get(key) == value}
    if section.get("validation_steps") is None:
        runtime |= {"validation_steps", "validation_samples", "validation_seed"}
    return {
        key: without_runtime(value) if isinstance(value, dict) else value
        for key, value in section.items()
        if key not in runtime
    }
