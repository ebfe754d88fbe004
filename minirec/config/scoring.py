"""Settings of the reward and of scoring."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from minirec.config.choices import Reward, is_own
from minirec.config.section import PathText, Section, counted, share_or_all

ITEM_COLUMNS = ("item_id", "key", "title", "text")
"""Columns of ``items.parquet`` in every corpus; see `minirec.corpus.schema`."""


class RewardConfig(Section):
    """Reward of a rollout (method, section 1)."""

    name: Reward = "ndcg_softmax"
    """Reward of a rollout."""
    cutoff: int = Field(1000, ge=1)
    """Lowest rank m that still earns a reward, as in NDCG@m."""
    softmax_weight: float = Field(0.05, ge=0, le=1)
    """Weight b of the target's probability in ndcg_softmax."""
    item_weight: str | None = Field(None, min_length=1)
    """Numeric column of the catalogue, such as a price or a margin, in proportion to which a target
    counts in rewards, losses and value@10; null weights all targets alike."""
    horizon: int = Field(1, ge=1)
    """Next items of a user in the train split that count as relevant in the reward of a training
    rollout; 1 counts the target alone."""
    reference: PathText = "base"
    """LM that reads the target's text for reference_likelihood: base, the policy without its
    adapter, or the folder of an LM with the same tokenizer. Other rewards ignore it."""
    reference_weight: float = Field(0.2, gt=0, le=1)
    """Weight b of the target's text in reference_likelihood; 1 leaves the ranks out."""
    judge: str | None = None
    """Your function package.module:function of a prompt and the texts of its rollouts, whose order
    of them replaces the rewards of a training; null takes the rewards."""
    judge_calls: int = Field(1, ge=1)
    """Prompts that the judge is asked about at the same time, each in a thread of its own."""
    judge_deadline_s: float = Field(60, gt=0)
    """A training fails after this many seconds without an answer of the judge."""
    feedback: Literal["score", "comparison"] = "score"
    """What a training sees of the rollouts of a prompt: their rewards, or only which of two has the
    larger reward; scoring and selection read the rewards."""
    comparison_noise: float = Field(0.0, ge=0)
    """Temperature T at which the better of two rollouts wins a comparison, with the probability
    sigmoid(difference / T); 0: it always wins."""

    @field_validator("item_weight")
    @classmethod
    def _column(cls, column: str | None) -> str | None:
        if column in ITEM_COLUMNS:
            raise ValueError(
                f"item_weight {column} is the name of a column that every catalogue of MiniRec "
                f"has; rename the column with the weights in your file"
            )
        return column

    @field_validator("judge")
    @classmethod
    def _own(cls, judge: str | None) -> str | None:
        if judge is not None and not is_own(judge):
            raise ValueError(
                f"judge {judge} does not name a function; write package.module:function"
            )
        return judge

    @model_validator(mode="after")
    def _check_texts(self) -> RewardConfig:
        reads = f"judge {self.judge}" if self.judge else f"name {self.name}"
        if self.reads_texts and self.horizon > 1:
            raise ValueError(
                f"horizon {self.horizon} counts the ranks of later items, but {reads} reads texts; "
                f"set horizon to 1"
            )
        if self.judge and self.reads_reference:
            raise ValueError(
                f"{reads} replaces the rewards of a training, and name {self.name} is computed for "
                f"nothing; set judge to null or name to ndcg_softmax"
            )
        return self

    @model_validator(mode="after")
    def _noise(self) -> RewardConfig:
        if self.comparison_noise and self.feedback == "score":
            raise ValueError(
                f"comparison_noise {self.comparison_noise:g} acts on comparisons, but feedback is "
                f"score; set feedback to comparison or comparison_noise to 0"
            )
        return self

    @property
    def reads_reference(self) -> bool:
        """Whether an LM reads the target's text after each rollout."""
        return self.name == "reference_likelihood"

    @property
    def reads_base(self) -> bool:
        """Whether this LM is the policy without its adapter."""
        return self.reads_reference and self.reference == "base"

    @property
    def reads_texts(self) -> bool:
        """Whether a training needs the texts of its rollouts for their rewards."""
        return self.reads_reference or self.judge is not None

    def settings(self) -> dict[str, Any]:
        """The settings that a fingerprint covers: those that have an effect on rewards."""
        unset = {"feedback", "comparison_noise", "judge", "judge_calls", "judge_deadline_s"}
        unset |= set() if self.item_weight else {"item_weight"}
        unset |= set() if self.reads_reference else {"reference", "reference_weight"}
        if self.horizon == 1:
            unset.add("horizon")
        return self.model_dump(mode="json", exclude=unset)

    def feedback_settings(self) -> dict[str, Any]:
        """The settings of comparisons and of a judge, for the fingerprint of a training; empty
        without them."""
        found: dict[str, Any] = {"judge": self.judge} if self.judge else {}
        if self.feedback == "comparison":
            found |= {"feedback": self.feedback, "comparison_noise": self.comparison_noise}
        return found


class ScoringConfig(Section):
    """Rollouts, rewards and head features of the train split."""

    policy: Literal["proxy", "warm"] = "proxy"
    """Policy whose rollouts are scored: the proxy, or that of the warm start, which needs no
    proxy."""
    samples: int | float | None = Field(None, gt=0)
    """Training samples that are scored, drawn at random: a number (1, 2, ...) or a share of the
    corpus (below 1); null scores all."""
    rollouts: NonNegativeInt | tuple[PositiveInt, PositiveInt] = 4
    """Rollouts of each sample, G; [2, 4] writes two first, and up to four if these disagree; 0
    writes none and ranks right after the prompt, which costs one forward pass and no engine."""
    screen: Literal["prefill"] | None = None
    """prefill ranks the target after a forced <answer> and rolls out only samples inside
    screen_band; null rolls out all."""
    screen_band: tuple[float, float] = (0.05, 1.0)
    """Lowest and highest lift of the screen at which a sample is rolled out."""
    doubt: float = Field(0.1, ge=0, le=1)
    """The other rollouts are written if the NDCGs of the first ones spread more than this."""
    control: float = Field(0.05, ge=0, le=1)
    """Share of screened samples that are rolled out anyway, to estimate what the screen loses."""
    shard_size: int = Field(64, ge=1)
    """Number of samples in one shard of scoring."""
    shard_deadline_s: float = Field(1800, gt=0)
    """Scoring fails after this many seconds without a finished shard."""
    projection_dim: int = Field(4096, ge=1)
    """Largest number of values of a projected LoRA gradient."""
    gradient_micro_batch: int = Field(8, ge=1)
    """Number of prompts in one pass of the LoRA gradients."""
    validation_samples: int = Field(256, ge=0)
    """Number of validation samples in the mean gradient that the method less compares with."""

    @field_validator("samples", mode="before")
    @classmethod
    def _samples(cls, samples: Any) -> Any:
        return share_or_all(samples)

    @field_validator("rollouts", mode="before")
    @classmethod
    def _rollouts(cls, rollouts: Any) -> Any:
        pair = isinstance(rollouts, (list, tuple))
        given = rollouts if pair else [rollouts]
        least = 1 if pair else 0
        whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= least for n in given)
        if not whole or (pair and len(given) != 2):
            raise ValueError(
                f"{rollouts!r} is neither a number of rollouts nor a pair; write 4, or [2, 4] for "
                f"two first and up to four where in doubt"
            )
        if pair and given[0] >= given[1]:
            raise ValueError(
                f"{list(given)} must rise: the first rollouts, then the most of a sample; "
                f"write {given[1]} for one stage"
            )
        return rollouts

    @field_validator("screen_band")
    @classmethod
    def _band(cls, band: tuple[float, float]) -> tuple[float, float]:
        if band[0] >= band[1]:
            raise ValueError(
                f"{list(band)} must rise: the lowest and the highest lift that is rolled out"
            )
        return band

    @property
    def stages(self) -> tuple[int, ...]:
        """Rollouts of a sample after each stage, rising."""
        return self.rollouts if isinstance(self.rollouts, tuple) else (self.rollouts,)

    def without_analysis(self) -> ScoringConfig:
        """The settings that act if all answers to a prompt are equal: one answer, no screen."""
        return self.model_copy(update={"rollouts": 1, "screen": None})

    def count(self, samples: int) -> int:
        """Samples that are scored of a corpus of `samples`."""
        return samples if self.samples is None else min(samples, counted(self.samples, samples))
