"""`minirec model`: build the demo model, or convert a GGUF file.

Any other base model is a hub name or a folder, which is used as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobs.stage import Stage, Work
from minirec.store.files import atomic_dir

if TYPE_CHECKING:
    from minirec.config.run import Config


def model_inputs(config: Config) -> list[str]:
    """The stages that make the samples, the base model and the collaborative prior."""
    model = ["model"] if config.model.built else []
    return ["prepare", *model, *([] if config.model.prior == "none" else ["prior"])]


def model_settings(config: Config) -> dict[str, Any]:
    """The settings that the weights of the model depend on.

    A GGUF file counts by its content: it may lie elsewhere later, or under another name.
    """
    if config.model.gguf:
        from minirec.model.gguf import sha256

        return {"model": {"gguf": sha256(config.model.name)}}
    model = config.model.model_dump(mode="json")
    keys = ["max_item_tokens", "max_prompt_tokens", "demo"]
    if config.model.demo.warmup_match:
        keys.append("temperature")  # the matching uses it
    return {"seed": config.seed, "model": {key: model[key] for key in keys}}


def _body(work: Work) -> None:
    if work.config.model.gguf:
        _convert(work)
    else:
        _build(work)


def _convert(work: Work) -> None:
    from jobs.console import without_stderr
    from minirec.model.gguf import convert, read_header

    name = work.config.model.name
    millions = read_header(name).parameters / 1e6
    work.run.say(f"model: converting {name}, {millions:,.1f} million parameters, to safetensors")
    with atomic_dir(work.run.path("model")) as folder, without_stderr():  # three progress bars
        convert(name, folder)


def _build(work: Work) -> None:
    from jobs.console import bar
    from minirec.corpus.table import load_catalogue, load_samples
    from minirec.model import demo

    model, corpus = work.config.model, work.run.path("corpus")
    catalogue = load_catalogue(corpus)
    samples = load_samples(corpus, "train")
    with (
        bar("demo model", model.demo.warmup_steps) as progress,
        atomic_dir(work.run.path("model")) as folder,
    ):
        demo.build(
            folder,
            histories=[s.history for s in samples],
            items=list(zip(catalogue.titles, catalogue.texts, strict=True)),
            config=model,
            category=catalogue.category,
            seed=work.config.seed,
            progress=lambda step, _, loss: progress.update(step, f"loss {loss:.2f}"),
        )
    work.cost.optimizer_steps = model.demo.warmup_steps


MODEL = Stage(
    name="model",
    help="build the demo model or convert a GGUF file; the stages that use it do so too",
    inputs=lambda config: ["prepare"] if config.model.name == "demo" else [],
    outputs=("model",),
    settings=lambda run, config: model_settings(config),
    body=_body,
    needed=lambda config: config.model.built,
    comes_with=("warm", "proxy", "score", "gradients", "train", "evaluate"),
    shared=True,
)
