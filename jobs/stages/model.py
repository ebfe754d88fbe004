"""The base model: a hub name or folder as given, or the demo model built from the corpus."""

from __future__ import annotations

from typing import Any

from jobs.console import bar
from minirec.config.run import Config
from minirec.corpus.table import load_catalogue, load_samples
from minirec.store.files import atomic_dir
from minirec.store.run import Cost, Run

MATCHING = 2
"""Raised when matching changes: a model that was made otherwise is not taken for finished."""


def model_inputs(config: Config) -> list[str]:
    """Stages that the base model comes from."""
    return ["prepare", "model"] if config.model.name == "demo" else ["prepare"]


def demo_settings(config: Config) -> dict[str, Any]:
    """The settings that the weights of the demo model follow from."""
    model = config.model.model_dump(mode="json")
    keys = ["max_item_tokens", "max_prompt_tokens", "demo"]
    settings: dict[str, Any] = {"seed": config.seed}
    if config.model.demo.warmup_match:
        keys.append("temperature")  # that of the matching
        settings["matching"] = MATCHING
    return settings | {"model": {key: model[key] for key in keys}}


def base_model(run: Run, config: Config) -> str:
    """Path or name of the base model; the demo model is built if it is not there."""
    if config.model.name != "demo":
        return config.model.name
    folder = run.path("model")
    if "model" in run.checked:
        return str(folder)

    def body(cost: Cost) -> None:
        from minirec.model import demo

        corpus = run.path("corpus")
        catalogue = load_catalogue(corpus)
        samples = load_samples(corpus, "train")
        with (
            bar("demo model", config.model.demo.warmup_steps) as progress,
            atomic_dir(folder) as work,
        ):
            demo.build(
                work,
                histories=[s.history for s in samples],
                items=list(zip(catalogue.titles, catalogue.texts, strict=True)),
                config=config.model,
                category=catalogue.category,
                seed=config.seed,
                progress=lambda step, _, loss: progress.update(step, f"loss {loss:.2f}"),
            )
        cost.optimizer_steps = config.model.demo.warmup_steps

    run.stage(
        "model",
        settings=demo_settings(config),
        inputs=["prepare"],
        outputs=["model"],
        body=body,
    )
    return str(folder)
