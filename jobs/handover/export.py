"""`minirec export`: the ordered subset for other trainers, or the policy for transformers."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jobs.console import quiet, say
from jobs.handover.recommend import finished_run, refreshed_counts
from jobs.stage import base_model, prior_folder
from jobs.stages.proxy import PROXY
from jobs.stages.train import TRAIN
from jobs.stages.warm import WARM
from minirec.config.choices import REWARDS
from minirec.config.run import Config
from minirec.corpus import prompts
from minirec.corpus.following import with_following
from minirec.corpus.table import Catalogue, Sample, SampleFile, load_catalogue
from minirec.errors import ArtifactError, ConfigError
from minirec.export import pairs
from minirec.store.files import MANIFEST, atomic_dir, fetch, read_json
from minirec.store.remote import is_remote
from minirec.store.run import Run
from minirec.store.tables import read_table

if TYPE_CHECKING:
    from minirec.model.recommender import Encoder, Policy

POLICIES = ("adapter", "merged")
WRITING = ("trl", "trl-dpo", "verl", "openrlhf")
"""Formats with a command of a trainer, which lets a policy write completions."""
PolicyName = Literal["warm", "proxy", "trained"]
STAGE = {"warm": WARM, "proxy": PROXY, "trained": TRAIN}
OWN_IMPORTS = {
    "from minirec.corpus import prompts\n": "import prompts\n",
    "from minirec.prior import counts\n": "import prior as counts\n",
}
"""Imports of `recommender.py`, and those of the copies in an exported folder."""


def export(
    run_dir: str, to: str, out: Path, *, policy: PolicyName | None = None, overwrite: bool = False
) -> None:
    """Write a folder that works without MiniRec.

    Args:
        run_dir: of a run that has finished `select`, or `train` to export the trained policy or
            the samples of live selection.
        to: a subset as jsonl, trl, verl or openrlhf, as preference pairs (trl-dpo), or a policy as
            adapter or merged.
        out: the folder to write.
        policy: the policy to export; for a subset, the policy that computes its reward. Default:
            the trained policy for adapter and merged, that of `scoring.policy` for a subset;
            a run that does not score has only the trained policy.
        overwrite: replace the folder.

    Raises:
        ArtifactError: the folder exists, or a stage has not finished.
        ConfigError: the reward is a user's function that cannot be imported, or a trainer would
            have no completions, or rewards instead of comparisons.
    """
    _, config = finished_run(run_dir)
    default: PolicyName = config.scoring.policy if config.scores else "trained"
    name: PolicyName = policy or ("trained" if to in POLICIES else default)
    chooses = "train" if config.selection.mode == "live" else "select"
    if to in WRITING and not config.rollout.analysis:
        raise ConfigError(
            f"--to {to} is for a trainer of written completions, but the policy of this run writes "
            f"none (rollout.max_new_tokens 0); give --to jsonl"
        )
    if to == pairs.TO:
        _check_pairs(config, name)
    elif to not in POLICIES:
        check_ranks(config, to)
    run, _ = finished_run(run_dir, STAGE[name].name, *([] if to in POLICIES else [chooses]))
    if out.exists() and not overwrite:
        raise ArtifactError(f"{out} exists; give another --out, or --overwrite")
    holds_run = not is_remote(run.root) and run.root.resolve().is_relative_to(out.resolve())
    if holds_run or out.exists() and not (out / MANIFEST).exists():
        raise ArtifactError(f"{out} is not an export, so it is not replaced; give another --out")
    quiet(config)
    source = _Source(run, config, name)
    with atomic_dir(out) as folder:
        if to in POLICIES:
            _policy(folder, source, to)
        elif to == pairs.TO:
            _pairs(folder, source)
        else:
            _subset(folder, source, to)
    say(f"export: {out} holds {to}")


class _Source:
    """What an export reads from a run."""

    def __init__(self, run: Run, config: Config, policy: PolicyName):
        from minirec.model.recommender import Encoder

        self.run, self.config, self.name = run, config, policy
        self.catalogue: Catalogue = load_catalogue(run.path("corpus"))
        self.base = fetch(base_model(run, config))
        self.adapter = fetch(str(run.path(*STAGE[policy].outputs, "adapter")))
        self.encoder: Encoder = Encoder.load(
            self.base, config.model, category=self.catalogue.category
        )

    @cached_property
    def policy(self) -> Policy:
        """The policy with its merged adapter, on the CPU; loaded where the export needs it."""
        from minirec.model.recommender import load_policy

        return load_policy(
            self.base, self.config.model, self.encoder.tokenizer, adapter=self.adapter
        )

    def save_merged(self, folder: Path) -> None:
        self.policy.lm.save_pretrained(folder)
        self.encoder.tokenizer.save_pretrained(folder)

    def save_items(self, folder: Path) -> None:
        """items.npy, (V, d) float32 unit vectors, and items.jsonl.

        The vectors are those that a stage of the run has encoded with these weights, if any.
        """
        import numpy as np

        from minirec.export import formats
        from minirec.model.passes import item_table
        from minirec.store.tables import read_array

        c = self.catalogue
        if stored := encoded(self.run, self.config, self.name):
            vectors = read_array(stored)
        else:
            vectors = item_table(self.policy, self.encoder.items(c)).numpy()
        np.save(folder / "items.npy", vectors)
        items = ({"item_id": item, "title": title} for item, title in enumerate(c.titles))
        formats.write(folder / "items.jsonl", items)

    def save_factors(self, folder: Path) -> None:
        """factors.npy, (V,) float32: the factor of each item in the reward, if items have weights.

        `Scorer` in reward.py reads it.
        """
        import numpy as np

        from minirec.corpus.weights import load_factors

        factors = load_factors(self.run.path("corpus"), self.config.reward.item_weight)
        if factors is not None:
            np.save(folder / "factors.npy", factors.astype(np.float32))

    @property
    def prior(self) -> str | None:
        """Folder of the weights of the prior with this policy; None: no prior."""
        return prior_folder(self.run, self.config, STAGE[self.name].outputs[0])

    @property
    def temperature(self) -> float:
        """Temperature of the softmax, divided by the policy's weight beside the prior."""
        from minirec.prior.prior import weights_in

        return self.config.model.temperature / (weights_in(self.prior)[0] if self.prior else 1)

    def save_prior(self, folder: Path) -> tuple[dict[str, float] | None, bool]:
        """prior.npz and prior.py; returns the weights by part, and whether `refresh` added events.

        Without a prior nothing is written, and the weights are None.
        """
        from minirec.prior import counts, serving

        if self.prior is None:
            return None, False
        refreshed = refreshed_counts(self.run, self.config)
        prior = serving.load(self.run.path("corpus"), self.prior, refreshed=refreshed)
        prior.counts.save(folder / serving.FILE)
        shutil.copy(str(counts.__file__), folder / "prior.py")
        return dict(zip(counts.PARTS, prior.weights, strict=True)), refreshed is not None

    def save_sample_prior(self, folder: Path, samples: Sequence[Sample]) -> None:
        """prior.npz, the scores of the prior for each sample at its own time, if there is a prior.

        Refreshed counts are not used, because they hold the samples' own targets.
        """
        from minirec.export.formats import write_prior
        from minirec.prior.prior import Prior
        from minirec.store.remote import located

        if self.prior is not None:
            prior = Prior.load(self.run.path("corpus"), located(self.prior))
            write_prior(folder / "prior.npz", prior, samples)


def encoded(run: Run, config: Config, policy: PolicyName) -> Path | None:
    """File of the item vectors of these weights: of `evaluate`, or of `score`; None if neither has
    encoded them since the policy was trained."""
    files = {"evaluate": run.path("evaluation", f"{policy}.npy")}
    if config.scoring.policy == policy:
        files["score"] = run.path("features", "item_table.npy")
    trained = STAGE[policy].name
    for stage, file in files.items():
        inputs = (run.done(stage) or {"inputs": {}})["inputs"]
        if inputs.get(trained) == run.fingerprint(trained) and file.exists():
            return file
    return None


def _subset(folder: Path, source: _Source, to: str) -> None:
    from minirec.export import cards, formats, reward
    from minirec.rl import reward as ranking

    config = source.config
    name = _own_reward(folder, config.reward.name)
    order = read_table(source.run.path("selection.parquet")).sort_by("rank")["sample_id"]
    ids = order.to_pylist()
    corpus, horizon = source.run.path("corpus"), config.reward.horizon
    found = {s.sample_id: s for s in SampleFile(corpus, "train").find(ids)}
    by_id = with_following(found, corpus, horizon=horizon)
    file, row = formats.FORMATS[to]
    encoder, catalogue = source.encoder, source.catalogue
    examples = (
        formats.example(rank, by_id[i], encoder, catalogue, horizon=horizon)
        for rank, i in enumerate(ids)
    )
    formats.write(folder / file, (row(one, catalogue) for one in examples))
    shutil.copy(str(reward.__file__), folder / "reward.py")
    shutil.copy(str(ranking.__file__), folder / "ranking.py")
    source.save_merged(folder / "scorer")
    source.save_items(folder)
    source.save_sample_prior(folder, [by_id[i] for i in ids])
    source.save_factors(folder)
    settings = config.reward.settings() | {"name": name}
    settings["temperature"] = source.temperature
    settings["trust_remote_code"] = config.model.trust_remote_code
    _write_json(folder / "reward.json", settings)
    card = cards.data_card(
        config,
        to=to,
        samples=len(ids),
        steps=_steps(source.run, config, samples=len(ids)),
        policy=source.name,
        has_template=source.encoder.has_template,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    if to == "verl" and not source.encoder.has_template:
        say(
            f"export: {config.model.name} has no chat template, but verl needs one; the command "
            f"in README.md sets one that does not change the prompts"
        )


def check_ranks(config: Config, to: str) -> None:
    """Raise `ConfigError` if a trainer would need more than the ranks of a completion."""
    if to in WRITING and config.reward.feedback == "comparison":
        raise ConfigError(
            f"--to {to} computes advantages from rewards, but this run trains on comparisons of "
            f"rollouts (reward.feedback comparison); give --to {pairs.TO}, or --to jsonl"
        )
    if config.reward.reads_texts:
        reads = "reward.judge" if config.reward.judge else f"reward.name {config.reward.name}"
        raise ConfigError(
            f"--to {to} brings along the reward of a completion by its ranks, but {reads} reads "
            f"texts; give --to {pairs.TO}, whose pairs hold the rewards of scoring"
        )


def _check_pairs(config: Config, policy: PolicyName) -> None:
    """Raise `ConfigError` unless the run has scored rollouts of this policy."""
    if not config.scores or config.scores_forced:
        raise ConfigError(
            f"--to {pairs.TO} needs scored rollouts, but this run scores none; score with "
            f"selection.mode=static or live.scores=true, and scoring.rollouts above 1"
        )
    if policy != config.scoring.policy:
        raise ConfigError(
            f"--to {pairs.TO} has the rollouts of scoring.policy {config.scoring.policy}, not of "
            f"{policy}; leave out --policy"
        )


def _pairs(folder: Path, source: _Source) -> None:
    from minirec.export import formats

    config = source.config
    order = read_table(source.run.path("selection.parquet")).sort_by("rank")["sample_id"]
    ids = order.to_pylist()
    by_id = {s.sample_id: s for s in SampleFile(source.run.path("corpus"), "train").find(ids)}
    rollouts: dict[int, pairs.Rollouts] = {}
    for part in sorted(source.run.path("features").glob("part-*.parquet")):
        columns = read_table(part, ["sample_id", "completions", "rewards"])
        for one, texts, rewards in zip(*columns.to_pydict().values(), strict=True):
            if one in by_id:
                rollouts[one] = texts, rewards
    examples = (
        formats.example(rank, by_id[i], source.encoder, source.catalogue)
        for rank, i in enumerate(ids)
    )
    floor = config.training.advantage_floor
    rows = [*pairs.preference_rows(examples, rollouts, floor=floor)]
    if not rows:
        raise ConfigError(
            f"--to {pairs.TO} found no pair: the rollouts of each of the {len(ids):,} interactions "
            f"have equal rewards; raise scoring.rollouts or rollout.temperature"
        )
    formats.write(folder / pairs.FILE, rows)
    source.save_merged(folder / "scorer")
    tokens = config.model.max_prompt_tokens + config.rollout.max_new_tokens
    card = pairs.pairs_card(
        pairs=len(rows), samples=len(ids), policy=source.name, tokens=tokens, beta=0.1
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _steps(run: Run, config: Config, *, samples: int) -> int:
    """Optimizer steps of the run's own training on a subset of `samples`."""
    if config.selection.mode == "static":
        return config.training.steps_on(samples)
    last = read_table(run.path("policy", "choices.parquet"), ["step"])["step"][-1].as_py()
    steps = int(last) + config.training.replays
    return min(steps, config.training.steps or steps)


def _own_reward(folder: Path, name: str) -> str:
    """Copy the file of a user's reward function into the folder; return its name there."""
    if ":" not in name:
        return name
    module, _, function = name.partition(":")
    REWARDS.find(name)
    shutil.copy(str(sys.modules[module].__file__), folder / "own_reward.py")
    from minirec.export.reward import imported

    try:
        imported(folder / "own_reward.py")
    except Exception as error:
        raise ConfigError(
            f"reward.name={name!r} cannot be exported: alone, its file cannot be imported "
            f"({error}); put the function into a file that imports no part of its package"
        ) from None
    return f"minirec_own_reward:{function}"


def _policy(folder: Path, source: _Source, to: str) -> None:
    from minirec.export import cards, recommender

    config, model = source.config, source.config.model
    base = "base" if model.built or Path(model.name).is_dir() else model.name
    if to == "merged":
        source.save_merged(folder)
    else:
        for path in Path(source.adapter).glob("adapter_*"):
            shutil.copy(path, folder / path.name)
        described = json.loads((folder / "adapter_config.json").read_text())
        _write_json(folder / "adapter_config.json", described | {"base_model_name_or_path": base})
        if base == "base":
            shutil.copytree(source.base, folder / base)
    source.save_items(folder)
    settings: dict[str, Any] = {
        "base": base if to == "adapter" else None,
        "category": source.encoder.category,
        "max_new_tokens": config.rollout.max_new_tokens,
        "max_prompt_tokens": model.max_prompt_tokens,
        "max_item_tokens": model.max_item_tokens,
        "trust_remote_code": model.trust_remote_code,
    }
    if source.catalogue.choices:
        settings["choices"] = source.catalogue.choices
    weights, refreshed = source.save_prior(folder)
    if weights is not None:
        settings |= {"temperature": source.temperature, "prior": weights}
    _write_json(folder / "recommender.json", settings)
    code = Path(str(recommender.__file__)).read_text(encoding="utf-8")
    for ours, alone in OWN_IMPORTS.items():
        assert ours in code
        code = code.replace(ours, alone)
    (folder / "recommender.py").write_text(code, encoding="utf-8")
    shutil.copy(str(prompts.__file__), folder / "prompts.py")
    card = cards.model_card(
        config,
        to=to,
        base=base,
        policy=source.name,
        evaluation=_evaluation(source),
        weights=weights,
        refreshed=refreshed,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _evaluation(source: _Source) -> dict[str, Any] | None:
    """Metrics of these weights by split; None if they were not evaluated."""
    run, stage = source.run, STAGE[source.name].name
    record = run.done("evaluate")
    if record is None or record["inputs"].get(stage) != run.fingerprint(stage):
        return None
    found: dict[str, Any] = read_json(run.path("evaluation.json"))["policies"]
    return found.get(source.name)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
