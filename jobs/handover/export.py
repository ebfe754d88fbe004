"""`minirec export`: the ordered subset for other trainers, or the policy for transformers."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from jobs.console import quiet, say
from jobs.handover.export_source import STAGE, PolicyName, Source
from jobs.handover.recommend import finished_run
from minirec.config.choices import REWARDS
from minirec.config.run import Config
from minirec.corpus import prompts
from minirec.corpus.following import with_following
from minirec.corpus.table import SampleFile
from minirec.errors import ArtifactError, ConfigError
from minirec.export import pairs, push
from minirec.store.files import atomic_dir
from minirec.store.remote import is_remote
from minirec.store.run import Run
from minirec.store.tables import read_table

POLICIES = ("adapter", "merged")
WRITING = ("trl", "trl-dpo", "verl", "openrlhf")
"""Formats with a command of a trainer, which lets a policy write completions."""
OWN_IMPORTS = {
    "from minirec.corpus import prompts\n": "import prompts\n",
    "from minirec.prior import counts\n": "import prior as counts\n",
}
"""Imports of `recommender.py`, and those of the copies in an exported folder."""


def export(
    run_dir: str,
    to: str,
    out: Path,
    *,
    policy: PolicyName | None = None,
    overwrite: bool = False,
    push_to: str | None = None,
    public: bool = False,
) -> None:
    """Write a folder that works without MiniRec.

    Args:
        run_dir: of a run that has finished `select`, or `train` to export the trained policy or
            the samples of live selection.
        to: a subset as jsonl, datasets, trl, verl or openrlhf, as preference pairs (trl-dpo), or a
            policy as adapter or merged.
        out: the folder to write.
        policy: the policy to export; for a subset, the policy that computes its reward. Default:
            the trained policy for adapter and merged, that of `scoring.policy` for a subset;
            a run that does not score has only the trained policy.
        overwrite: replace the folder, and that of `push_to`.
        push_to: where to copy the folder, see `minirec.export.push.target_of`.
        public: whether a new repository of the hub is public.

    Raises:
        ArtifactError: the folder exists, a stage has not finished, or the copy failed.
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
    if holds_run or out.exists() and not push.is_export(out):
        raise ArtifactError(f"{out} is not an export, so it is not replaced; give another --out")
    target = None if push_to is None else push.target_of(push_to)
    if target:
        push.check(target, overwrite=overwrite, public=public)
    quiet(config)
    source = Source(run, config, name)
    with atomic_dir(out) as folder:
        if to in POLICIES:
            _policy(folder, source, to)
        elif to == pairs.TO:
            _pairs(folder, source)
        else:
            _subset(folder, source, to)
    say(f"export: {out} holds {to}")
    if target:
        kind: push.Kind = "model" if to in POLICIES else "dataset"
        say(f"export: pushed to {push.push(out, target, kind=kind, public=public)}")


def _subset(folder: Path, source: Source, to: str) -> None:
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
    if to == "datasets":
        formats.write(folder / formats.ITEMS[to], formats.items_of(catalogue))
    source.save_sample_prior(folder, [by_id[i] for i in ids])
    source.save_factors(folder)
    settings = config.reward.settings() | {"name": name}
    settings["temperature"] = source.temperature
    settings["trust_remote_code"] = config.model.trust_remote_code
    settings["files"] = sorted(path.name for path in folder.iterdir())
    _write_json(folder / "reward.json", settings)
    card = cards.data_card(
        config,
        to=to,
        samples=len(ids),
        steps=_steps(source.run, config, samples=len(ids)),
        policy=source.name,
        has_template=source.encoder.has_template,
        evaluation=source.evaluation("trained"),
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


def _pairs(folder: Path, source: Source) -> None:
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


def _policy(folder: Path, source: Source, to: str) -> None:
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
        evaluation=source.evaluation(),
        weights=weights,
        refreshed=refreshed,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
