"""Settings of tracking: where the figures of a training go besides its log."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from minirec.section import Section


class TrackingConfig(Section):
    """None of it changes a result."""

    tensorboard: bool = Field(True, description="event files below run_dir/tensorboard")
    mlflow: str | None = Field(
        None, description="tracking URI, e.g. http://host:5000 or sqlite:///mlflow.db; null: off"
    )
    wandb: Literal["online", "offline"] | None = Field(
        None, description="Weights & Biases; offline writes below run_dir/wandb; null: off"
    )
    project: str = Field("minirec", description="experiment of MLflow, project of W&B")
