"""A line on the terminal for each trial that has ended."""

from __future__ import annotations

from typing import Any

from ray.tune import Callback

from jobs.console import say
from jobs.sweep_trial import METRIC, PROGRESS


class Lines(Callback):
    """Tune calls it in the driver. It is saved with the sweep, so that a restored one counts on."""

    def __init__(self, trials: int):
        self.trials = trials
        self.ended: set[str] = set()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial has finished, or ASHA has stopped it."""
        last = trial.last_result
        how = f"stopped at {last.get(PROGRESS, 0):.0%} of its steps"
        self._say(trial, "finished" if last.get("finished") else how, last)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial has failed."""
        self._say(trial, "failed", trial.last_result or {})

    def _say(self, trial: Any, how: str, last: dict[str, Any]) -> None:
        name = trial.config["name"]
        self.ended.add(name)
        quality = f", validation NDCG@10 {last[METRIC]:.4f}" if METRIC in last else ""
        say(f"  {len(self.ended)}/{self.trials} {name}: {how}{quality}")

    def get_state(self) -> dict[str, Any]:
        """For Tune's checkpoint."""
        return {"ended": self.ended}

    def set_state(self, state: dict[str, Any]) -> None:
        """From Tune's checkpoint."""
        self.ended = state["ended"]
