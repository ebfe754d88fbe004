"""Settings of a run, one section for each part.

No module of this package loads torch or ray, so that a wrong setting is reported at once.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from minirec.config.corpus import CorpusConfig
from minirec.config.earlier import ProxyConfig, WarmConfig
from minirec.config.evaluation import EvaluationConfig, SasrecConfig, TrackingConfig
from minirec.config.live import LiveConfig
from minirec.config.model import ModelConfig, RolloutConfig
from minirec.config.resources import ResourcesConfig
from minirec.config.scoring import RewardConfig, ScoringConfig
from minirec.config.section import PathText, Section
from minirec.config.selection import SelectionConfig
from minirec.config.texts import check_texts
from minirec.config.training import TrainingConfig
from minirec.config.trials import CompareConfig, SweepConfig

DEMO_WEIGHT = "margin"
"""The only weight of items that the demo corpus generates."""


class Config(Section):
    """All settings of a run."""

    run_dir: PathText = "runs/demo"
    """Where the run is stored: a folder, s3://... or gs://..."""
    seed: int = Field(42, ge=0)
    """Seed of all random draws."""
    preset: Literal["minirec", "paper", "paper-amazon"] = "minirec"
    """Named set of defaults; a file and the command line can override them."""
    corpus: CorpusConfig = CorpusConfig()
    model: ModelConfig = ModelConfig()
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    warm: WarmConfig = WarmConfig()
    proxy: ProxyConfig = ProxyConfig()
    scoring: ScoringConfig = ScoringConfig()
    selection: SelectionConfig = SelectionConfig()
    live: LiveConfig = LiveConfig()
    training: TrainingConfig = TrainingConfig()
    sasrec: SasrecConfig = SasrecConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    sweep: SweepConfig = SweepConfig()
    compare: CompareConfig = CompareConfig()
    tracking: TrackingConfig = TrackingConfig()
    resources: ResourcesConfig = ResourcesConfig()

    @model_validator(mode="after")
    def _check(self) -> Config:
        weight = self.reward.item_weight
        if self.corpus.source == "demo" and weight not in (None, DEMO_WEIGHT):
            raise ValueError(
                f"reward.item_weight {weight} is no column of the demo corpus, whose items have "
                f"only the weight {DEMO_WEIGHT}; set it to {DEMO_WEIGHT} or null"
            )
        if self.selection.method == "less" and not self.scoring.validation_samples:
            raise ValueError(
                "selection.method less compares with validation gradients; set "
                "scoring.validation_samples above 0"
            )
        if self.selection.mode == "live" and self.selection.method != "value":
            raise ValueError(
                f"selection.method {self.selection.method} chooses from the features of all "
                f"samples before the training, but selection.mode live chooses in each step; set "
                f"selection.mode to static, or selection.method to value"
            )
        self._check_pace()
        self._check_choices()
        t = self.training
        if self.reward.horizon > 1 and not t.rolls_out and t.item_loss == "softmax":
            raise ValueError(
                f"reward.horizon {self.reward.horizon} changes rewards, but training.loss "
                f"supervised has none with item_loss softmax; set reward.horizon to 1, or "
                f"training.item_loss to plackett_luce"
            )
        supervised = self.selection.mode == "live" and not self.training.rolls_out
        if self.live.rule == "value" and (supervised or self.warm.live):
            raise ValueError(
                "live.rule value compares the samples that a step has measured, but supervised "
                "training measures in few steps; set live.rule to band"
            )
        if self.live.rule == "skip" and (supervised or self.warm.live):
            raise ValueError(
                "live.rule skip passes over samples whose rollouts earned the same, but supervised "
                "training has no rollouts; set live.rule to band, or warm.live to false"
            )
        if self.live.rule == "influence":
            self._check_influence()
        budget, scored = self.selection.budget, self.scoring.samples
        chosen = self.selection.mode == "static" and self.selection.method != "full"
        if type(budget) is type(scored) and budget > scored and chosen:
            raise ValueError(
                f"selection.budget {budget} exceeds scoring.samples {scored}, of which it is "
                f"chosen; lower the one or raise the other"
            )
        if self.scores and self.scores_forced:
            self._check_forced()
        if not self.rollout.analysis:
            self._check_without_analysis()
        trainings = {"training": self.training, "proxy.training": self.proxy.training}
        if "warm" in self.earlier_policies:
            trainings["warm.training"] = self.warm.training
            if isinstance(self.warm.samples, int):
                self.check_warm(self.warm.samples)
        if self.rollout.replay and self.training.validation_steps:
            raise ValueError(
                "rollout.replay starts no engines, but validations need them; set "
                "training.validation_steps and training.patience to null"
            )
        check_texts(self.reward, self.training, trainings)
        if self.reward.reads_reference and self.scores and self.scores_forced:
            raise ValueError(
                "reward.name reference_likelihood reads what rollouts tell of the target, but "
                "scoring has none with scoring.rollouts 0 or rollout.max_new_tokens 0; raise them, "
                "or choose another reward"
            )
        for name, training in trainings.items():
            if self.reward.feedback == "comparison":
                _check_compared(name, training)
            if training.unlabelled and self.reward.horizon > 1:
                raise ValueError(
                    f"reward.horizon {self.reward.horizon} rewards several later items, but "
                    f"{name}.unlabelled {training.unlabelled:g} finds one item for a prompt; set "
                    f"reward.horizon to 1 or unlabelled to 0"
                )
            waits = self.rollout.start_deadline_s + self.rollout.deadline_s
            if training.rolls_out and training.step_deadline_s <= waits:
                raise ValueError(
                    f"{name}.step_deadline_s {training.step_deadline_s:g} must exceed "
                    f"rollout.start_deadline_s and rollout.deadline_s together, {waits:g}: a step "
                    f"waits for engines that start, and for its rollouts"
                )
            if self.resources.training_workers != "auto":
                training.check_workers(self.resources.training_workers)
        return self

    def _check_choices(self) -> None:
        """Raise ValueError for prompts that would not have the lines of `corpus.choices`."""
        number, e = self.corpus.choices, self.evaluation
        if number and self.training.unlabelled:
            raise ValueError(
                f"training.unlabelled {self.training.unlabelled:g} has prompts whose last items "
                f"have no rating, but corpus.choices {number} shows ratings in all others; set one "
                f"of them to 0"
            )
        if number and e.orders:
            raise ValueError(
                f"evaluation.orders {e.orders} moves the events of a history, but corpus.choices "
                f"{number} shows its most recent pairs, which would then be others; set one of "
                f"them to 0"
            )
        if number and e.rerank == "rise":
            raise ValueError(
                f"evaluation.rerank rise lists items below a history without its pairs, but "
                f"corpus.choices {number} trains the policy with them; set rerank to none or "
                f"choices to 0"
            )

    def _check_pace(self) -> None:
        if self.selection.curriculum != "self_paced":
            return
        name = "selection.curriculum self_paced"
        if not self.training.rolls_out:
            raise ValueError(
                f"{name} learns from the rewards of rollouts, but training.loss supervised has "
                f"none; set selection.curriculum to shuffled"
            )
        if self.reward.judge and self.selection.pace == "signal":
            raise ValueError(
                f"{name} with selection.pace signal compares how far rewards differ, but those of "
                f"reward.judge are ranks, which differ alike in each prompt; set selection.pace to "
                f"hard or progress"
            )
        if self.training.item_candidates == "corrected":
            raise ValueError(
                f"{name} trains some samples more often than others, but "
                f"training.item_candidates corrected counts with equal chances; set it to batch"
            )
        if self.selection.mode == "live" and self.live.rule in ("value", "influence"):
            raise ValueError(
                f"{name} and live.rule {self.live.rule} would both choose the samples of a step; "
                f"set live.rule to band"
            )

    def _check_influence(self) -> None:
        name = "live.rule influence"
        if self.selection.mode != "live":
            raise ValueError(
                f"{name} chooses again and again during the training, but selection.mode "
                f"{self.selection.mode} chooses once before it; set selection.mode to live, or "
                f"selection.method to less, which compares with validation samples too"
            )
        if self.training.replays > 1:
            raise ValueError(
                f"{name} chooses the samples of each step of a stage, but training.replays "
                f"{self.training.replays} trains those of one step again; set replays to 1, or "
                f"live.rule to band"
            )
        if self.training.item_candidates == "corrected":
            raise ValueError(
                f"{name} trains some samples more often than others, but training.item_candidates "
                f"corrected counts with equal chances; set it to batch"
            )
        if self.live.candidates == 1:
            raise ValueError(
                f"{name} takes the best of live.candidates 1 sample for each prompt, which leaves "
                f"nothing to choose; raise live.candidates"
            )
        if self.live.scores:
            raise ValueError(
                f"{name} measures gradients and reads no lifts, but live.scores would score "
                f"samples for their lifts; set live.scores to false"
            )

    @property
    def scores(self) -> bool:
        """Whether a run scores samples before it trains."""
        return self.selection.mode == "static" or self.live.scores

    @property
    def needs_lora_gradients(self) -> bool:
        """Whether a run computes projected LoRA gradients."""
        return self.selection.mode == "static" and self.selection.needs_lora_gradients

    @property
    def earlier_policies(self) -> tuple[str, ...]:
        """The policies that a run trains before its policy: ``warm`` and ``proxy``, where used."""
        users = {self.training.start, *([self.scoring.policy] if self.scores else [])}
        if "proxy" in users:
            users.add(self.proxy.training.start)
        return tuple(name for name in ("warm", "proxy") if name in users)

    @property
    def scores_forced(self) -> bool:
        """Whether scoring ranks right after the prompt, without rollouts."""
        return not self.rollout.analysis or self.scoring.rollouts == 0

    @property
    def effective_scoring(self) -> ScoringConfig:
        """`scoring`, without what has no effect if scoring has no rollouts."""
        return self.scoring.without_analysis() if self.scores_forced else self.scoring

    def _check_without_analysis(self) -> None:
        self.check_learns("training", self.training)
        if "proxy" in self.earlier_policies:
            self.check_learns("proxy.training", self.proxy.training)

    def _check_forced(self) -> None:
        s = self.selection
        if s.mode == "live":
            return
        why = "scoring.rollouts 0" if self.rollout.analysis else "rollout.max_new_tokens 0"
        if s.method == "less" or s.directions != "head_hvp":
            used, other = f"directions {s.directions}", "directions to head_hvp"
            if s.method == "less":
                used, other = "method less", "method to another one"
            raise ValueError(
                f"selection.{used} weights gradients by the advantages of rollouts, but scoring "
                f"has none with {why}; set selection.{other}"
            )

    def check_learns(self, name: str, training: TrainingConfig) -> None:
        """Raise ValueError if a training has rollouts that are all equal."""
        if training.rolls_out and not self.rollout.analysis:
            raise ValueError(
                f"{name}.loss {training.loss} compares the rollouts of a prompt, which are all "
                f"equal with rollout.max_new_tokens 0; set {name}.loss to supervised, or "
                f"max_new_tokens above 0"
            )

    def check_warm(self, samples: int) -> None:
        """Raise ValueError if the warm start of a corpus of `samples` cannot fill a step."""
        count, step = self.warm.count(samples), self.warm.training.prompts_per_step
        if count < step:
            raise ValueError(
                f"the warm start has {count:,} training samples, but one step takes "
                f"warm.training.prompts_per_step {step}; lower it, or raise warm.samples"
            )


def _check_compared(name: str, training: TrainingConfig) -> None:
    """Raise ValueError for a training that needs more than comparisons of rollouts."""
    if training.rollouts_first is not None:
        raise ValueError(
            f"{name}.rollouts_first {training.rollouts_first} looks whether rewards differ, but "
            f"with reward.feedback comparison a training sees only which rollout is better; set "
            f"rollouts_first to null or feedback to score"
        )
    if training.credit != "rollout":
        raise ValueError(
            f"{name}.credit {training.credit} compares rewards of answers, but with "
            f"reward.feedback comparison a training sees only which rollout is better; set credit "
            f"to rollout or feedback to score"
        )
    if training.rolls_out and training.item_loss != "softmax":
        raise ValueError(
            f"{name}.item_loss {training.item_loss} reads the rewards of drawn lists, but with "
            f"reward.feedback comparison a training sees only which rollout is better; set "
            f"item_loss to softmax or feedback to score"
        )
    if training.loss == "maxrl":
        raise ValueError(
            f"{name}.loss maxrl divides by the mean reward of a group, but with reward.feedback "
            f"comparison it is always 1/2; set feedback to score or choose another loss"
        )
