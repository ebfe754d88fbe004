"""Settings of the evaluation and of experiment tracking."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, field_validator

from minirec.config.section import Section
from minirec.store.remote import expanded


class EvaluationConfig(Section):
    """Full ranking of valid and test (method, section 9)."""

    cutoffs: tuple[PositiveInt, ...] = Field((5, 10, 20, 50), min_length=1)
    """Values k of the metrics HR@k and NDCG@k."""
    bootstrap: int = Field(1000, ge=1)
    """Number of bootstrap resamples of a confidence interval."""
    policies: tuple[Literal["base", "warm", "proxy", "trained"], ...] = Field(
        ("base", "trained"), min_length=1
    )
    """Policies that are evaluated; warm and proxy are left out where the run does not train
    them."""
    train_samples: PositiveInt | None = None
    """Number of random training samples that the base and the trained policy also rank; null ranks
    none."""


class TrackingConfig(Section):
    """Services that a run reports to. They do not change results."""

    tensorboard: bool = True
    """Whether event files of TensorBoard are written to run_dir/tensorboard."""
    mlflow: str | None = None
    """Tracking URI of MLflow, e.g. http://host:5000 or sqlite:///mlflow.db; null turns it off."""
    wandb: Literal["online", "offline"] | None = None
    """Weights & Biases: online, or offline into run_dir/wandb; null turns it off."""
    project: str = "minirec"
    """Name of the MLflow experiment and of the Weights & Biases project."""

    @field_validator("mlflow")
    @classmethod
    def _home(cls, uri: str | None) -> str | None:
        """Expand ``~`` in paths and file addresses, which MLflow does not do."""
        for scheme in ("", "sqlite:///", "file://", "file:"):
            if uri is not None and uri.startswith(f"{scheme}~"):
                return scheme + expanded(uri.removeprefix(scheme))
        return uri
