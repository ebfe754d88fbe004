"""The variants of a comparison: named sets of settings, each trained with each seed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from minirec.config.reading import changed, check_keys
from minirec.config.run import Config
from minirec.errors import ConfigError
from minirec.model.tokens import LORA
from minirec.store.run import flatten

SECTIONS = ("rollout", "reward", "warm", "proxy", "scoring", "selection", "live", "training")
MODEL = tuple(f"model.{name}" for name in ("prior", "lora_rank", "lora_alpha", "lora_targets"))
"""What a variant may set: these sections, and these settings of the model."""
OF_COMPARE = {
    "training.steps": "compare.steps",
    "training.epochs": "compare.steps",
    "training.token_limit": "compare.tokens",
    "training.validation_steps": "compare.validation_steps",
    "training.validation_samples": "training.validation_samples",
    "training.validation_seed": "training.validation_seed",
}
"""What is the same for all variants, and the setting that says it."""
UNSCORED = ("full", "random")
"""Methods that need no scores, in the order `UNSCORED_ORDER`."""
UNSCORED_ORDER = "shuffled"
EQUAL_STEPS, EQUAL_TOKENS = "steps", "tokens"


def settings_of(name: str, variant: Mapping[str, Any]) -> dict[str, Any]:
    """The dotted settings of a variant, which may be nested.

    Raises:
        ConfigError: a setting is unknown, or must be the same for all.
    """
    found = flatten(dict(variant))
    for key in found:
        try:
            check_keys([key])
        except ConfigError as error:
            raise ConfigError(f"the variant {name} of compare.variants: {error}") from None
        if key in OF_COMPARE:
            raise ConfigError(
                f"the variant {name} of compare.variants sets {key}, which is the same for all; "
                f"set {OF_COMPARE[key]} outside compare.variants"
            )
        if key.split(".")[0] not in SECTIONS and key not in MODEL:
            raise ConfigError(
                f"the variant {name} of compare.variants sets {key}, which is the same for all; "
                f"a variant may set {', '.join(MODEL)} and the sections {', '.join(SECTIONS)}"
            )
    return found


def values(config: Config, name: str, table: str) -> dict[str, Any]:
    """Dotted settings of the trials of a variant in a table, `EQUAL_STEPS` or `EQUAL_TOKENS`.

    At equal cost, `training.token_limit` is the total. What the variant spends before its training
    is subtracted once it is known.

    Raises:
        ConfigError: names the variant.
    """
    c = config.compare
    own = settings_of(name, c.variants[name])
    s, t = config.selection, config.training
    if _unscored(
        own.get("selection.method", s.method),
        own.get("selection.curriculum", s.curriculum),
        own.get("training.start", t.start),
    ):
        own["scoring.policy"] = "warm"  # nothing is scored, so no proxy is an input of anything
    try:
        variant = changed(config, own)
    except ConfigError as error:
        raise ConfigError(f"the variant {name} of compare.variants: {error}") from None
    if any(key.startswith("live.") for key in own) and not _live(variant):
        raise ConfigError(
            f"the variant {name} of compare.variants sets live.*, but chooses before the training; "
            f"add selection.mode: live"
        )
    limit = c.tokens if table == EQUAL_TOKENS else None
    steps = c.steps
    if limit is not None:
        # No step is cheaper than one trained token of each prompt, so the cost ends the training.
        steps = math.ceil(limit / (LORA * variant.training.prompts_per_step))
    return {
        "training.patience": None,  # unless the variant sets it
        **own,
        "training.validation_steps": c.validation_steps,
        "training.steps": steps,
        "training.token_limit": limit,
        "evaluation.train_samples": None,
    }


def is_unscored(config: Config) -> bool:
    """Whether neither the choice, nor the order, nor the start of training needs rewards."""
    s = config.selection
    return _unscored(s.method, s.curriculum, config.training.start)


def _unscored(method: str, curriculum: str, start: str) -> bool:
    return method in UNSCORED and curriculum == UNSCORED_ORDER and start != "proxy"


def is_chosen(config: Config) -> bool:
    """Whether the samples of the training, or of its warm start, are chosen."""
    return config.selection.method not in UNSCORED or _live(config)


def is_whole(config: Config) -> bool:
    """Whether the training and its warm start take all samples."""
    return config.selection.method == "full" and not _live(config)


def _live(config: Config) -> bool:
    """Whether the training or its warm start chooses the samples of each step."""
    warm = config.training.start == "warm" and config.warm.live
    return config.selection.mode == "live" or warm
