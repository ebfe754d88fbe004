"""Settings of the evaluation and of experiment tracking."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

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
    orders: int = Field(0, ge=0)
    """Number of other orders of each history for which its target is ranked again, to show what the
    order changes; each costs as much as the evaluation itself."""
    orders_keep: int = Field(1, ge=0)
    """Last events of a history that stay in place in the other orders."""
    rerank: Literal["none", "orders", "rise"] = "none"
    """How evaluate and recommend rank: none by the history alone; orders by the mean direction over
    all orders of the history; rise lists the 20 best items in the prompt, in ten rounds, and takes
    out the best of the list in each."""

    @model_validator(mode="after")
    def _orders(self) -> EvaluationConfig:
        if self.rerank == "orders" and not self.orders:
            raise ValueError(
                "rerank orders takes the mean over other orders of a history, but orders is 0; set "
                "orders to 4, or rerank to none"
            )
        return self


class SasrecConfig(Section):
    """SASRec, a reference that is trained on the train split (`minirec.evaluation.sasrec`)."""

    epochs: int = Field(100, ge=0)
    """Largest number of passes over the train split; 0 leaves SASRec out."""
    patience: PositiveInt = 8
    """Training stops after this number of epochs without a better NDCG@10 on valid."""
    width: PositiveInt = 64
    """Numbers of an item vector."""
    layers: PositiveInt = 2
    """Number of self-attention layers."""
    heads: PositiveInt = 2
    """Number of attention heads; it divides the width."""
    dropout: float = Field(0.3, ge=0, lt=1)
    """Share of values that dropout sets to 0 in training."""
    learning_rate: PositiveFloat = 1e-3
    """Learning rate of Adam; it is constant."""
    batch: PositiveInt = 256
    """Number of samples of a step."""

    @model_validator(mode="after")
    def _heads(self) -> SasrecConfig:
        if self.width % self.heads:
            raise ValueError(
                f"heads {self.heads} does not divide width {self.width}; change one of them"
            )
        return self


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
