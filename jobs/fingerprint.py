"""The settings of models, rollouts and trainings that enter the fingerprint of a stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minirec.config.run import Config
    from minirec.config.training import TrainingConfig


def model_settings(config: Config) -> dict[str, Any]:
    """The settings of the model. The stage `model` knows the content of a GGUF file."""
    settings = config.model.model_dump(mode="json")
    return settings | ({"name": "GGUF"} if config.model.gguf else {})


def policy_settings(config: Config) -> dict[str, Any]:
    """The settings of a stage that computes rewards with a policy."""
    return {
        "seed": config.seed,
        "model": model_settings(config),
        "reward": config.reward.settings(),
        "rollout": rollout_settings(config),
    }


def weight_settings(config: Config) -> dict[str, Any]:
    """The weights of items, for a stage without other settings of the reward; empty if unset."""
    column = config.reward.item_weight
    return {"reward": {"item_weight": column}} if column else {}


def feedback_settings(config: Config) -> dict[str, Any]:
    """What a training sees of rewards; empty if it sees the rewards themselves."""
    found = config.reward.feedback_settings()
    return {"feedback": found} if found else {}


def rollout_settings(config: Config) -> dict[str, Any]:
    """The rollout settings that change results.

    Two engines draw different tokens from the same seed. A merged adapter and an active one differ
    in the last digits. Without an analysis, no other setting of rollouts has an effect.
    """
    from actors.engines.engine import resolve_adapter, resolve_engine, resolve_prompts_per_call

    r = config.rollout
    if not r.analysis:
        return {"max_new_tokens": 0}
    return {
        "engine": resolve_engine(config),
        "adapter": resolve_adapter(config),
        "temperature": r.temperature,
        "max_new_tokens": r.max_new_tokens,
        "prompts_per_call": resolve_prompts_per_call(config) or "auto",
    }


def live_settings(config: Config) -> dict[str, Any]:
    """The settings of live selection, and those of the selection that its rule reads."""
    read = {"mu", "sigma", "alpha", "fusion"} if config.live.rule == "value" else set()
    selection = config.selection.model_dump(mode="json", include=read)
    left_out = set() if config.live.rule == "influence" else config.live.of_influence
    return {**config.live.model_dump(mode="json", exclude=left_out), **selection}


def _content(table: str) -> str:
    """The sha256 of the table of an expert; raises `ConfigError` if there is no such file."""
    from minirec.errors import ConfigError
    from minirec.store.files import file_entry
    from minirec.store.remote import located

    file = located(table)
    if not file.exists():
        raise ConfigError(
            f"training.expert_table {table} is missing; name a Parquet file with the columns "
            f"sample_id, item and probability"
        )
    return str(file_entry(file)["sha256"])


def training_settings(training: TrainingConfig) -> dict[str, Any]:
    """Training settings, without those that a restart may change or that have no effect."""
    left_out = {"max_failures", "step_deadline_s", "gradient_checkpointing", "max_log_ratio"}
    if training.tokens_per_micro_batch is None:
        left_out.add("tokens_per_micro_batch")
    if training.update:
        left_out.add("update")
    if training.loss == "grpo":
        left_out.add("loss")
    if training.loss != "dpo":
        left_out |= {"preference_beta", "preference_reference"}
    if training.loss != "contrastive":
        left_out |= {"contrastive_margin", "contrastive_weight"}
    if training.item_negatives == 0:
        left_out.add("item_negatives")
    if training.item_loss == "softmax":
        left_out |= {"item_loss", "rankings", "ranking_depth", "ranking_temperature"}
    if not training.live_tokens:
        left_out.add("live_tokens")
    if training.expert == "none":
        left_out |= {name for name in type(training).model_fields if name.startswith("expert")}
    left_out |= {"replays"} if training.replays == 1 else set()
    left_out |= set() if training.reset_steps else {"reset_steps", "reset_keep"}
    left_out |= set() if training.imitate_best else {"imitate_best"}
    left_out |= {name for name in ("token_limit", "kl_steps") if getattr(training, name) is None}
    left_out |= {name for name in ("kl_weight", "entropy_weight") if not getattr(training, name)}
    if training.credit == "rollout":
        left_out |= {"credit", "credit_chunks", "credit_lambda"}
    if not training.unlabelled:
        left_out |= {"unlabelled", "unlabelled_confidence", "unlabelled_most"}
    if not training.consistency:
        left_out |= {"consistency", "consistency_temperature"}
    if training.credit != "vine":
        left_out.add("credit_completions")
    if training.rollouts_first is None:
        left_out.add("rollouts_first")
    if training.weighting == "none":
        left_out |= {"weighting", "weighting_temperature", "weighting_most"}
    if training.validation_steps is None:
        left_out |= {"validation_steps", "validation_samples", "validation_seed"}
    settings = training.model_dump(mode="json", exclude=left_out)
    if training.expert_table:
        settings["expert_table"] = _content(training.expert_table)
    return settings
