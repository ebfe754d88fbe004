"""Compute what a run would do, without starting anything."""

from __future__ import annotations

import math
from collections.abc import Sequence

from actors.engines.engine import engine_choice, resolve_engine
from jobs.stages.prepare import made_with
from jobs.tracking import check as check_trackers
from minirec.config.choices import (
    CURRICULA,
    JUDGES,
    LEARNABILITY,
    METHODS,
    REWARDS,
    TOKEN_LOSSES,
)
from minirec.config.run import Config
from minirec.config.scoring import ScoringConfig
from minirec.config.selection import ONE_GROUP
from minirec.config.training import TrainingConfig
from minirec.corpus.files import sources
from minirec.errors import ConfigError, CorpusError
from minirec.model.gguf import read_header
from minirec.model.hub import check_reference
from minirec.resources.allocation import allocate, this_machine
from minirec.store.files import read_json
from minirec.store.run import Run
from minirec.trials.checks import check, check_learns, check_trials, check_warm
from minirec.trials.trial import FOLDERS, Trial, trials_of
from minirec.trials.variants import EQUAL_TOKENS

Row = tuple[str, str, str]
TRIALS = tuple(FOLDERS)
USES_MODEL = ("model", "warm", "proxy", "score", "gradients", "train", "evaluate", *TRIALS)
NO_ROLLOUTS = "0: the policy ranks right after the prompt"
CPU_HEADS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Sizes of an attention head that vLLM supports on CPUs."""


def plan(
    config: Config, *, command: str = "plan", again: bool = False, starts: bool = True
) -> list[Row]:
    """Rows (stage, quantity, value); refuses settings that cannot work.

    Sizes are exact after `prepare`. Before `prepare`, the demo corpus is estimated from its
    settings, and the sizes of other sources are unknown.

    Args:
        command: only its stages and trials are checked; ``plan`` checks all.
        again: the command may repeat `prepare`, so the sizes of the existing corpus do not count.
        starts: work starts after the plan, so missing corpus files are an error. Otherwise they
            are reported in a row, because another machine may have them.

    Raises:
        ConfigError: the settings cannot work.
        CorpusError: `starts`, and the files of the corpus are missing or lack a column.
    """
    if _runs(command, "warm", "proxy", "train", *TRIALS):
        check_trackers(config)
    if _runs(command, "proxy", "score", "train", "evaluate", *TRIALS):
        _check_head(config)
    if command == "model" and not config.model.built:
        raise ConfigError(
            f"model.name={config.model.name} is used as it is; `minirec model` builds the model "
            f"of model.name=demo, or converts a GGUF file"
        )
    if command == "sasrec" and not config.sasrec.epochs:
        raise ConfigError("sasrec.epochs=0 leaves SASRec out; set it above 0 to train SASRec")
    if command == "select" and config.selection.mode == "live":
        raise ConfigError(
            "selection.mode=live chooses the samples of each step during `minirec train`; set "
            "selection.mode to static to choose them before"
        )
    _check_functions(config, command)
    samples, exact = _samples(config, again)
    about = "" if exact else "about "
    rows: list[Row] = [("prepare", "training samples", f"{about}{samples:,}" if samples else "?")]
    if not exact and config.corpus.source != "demo" and _runs(command, "prepare", *TRIALS):
        rows += _files_rows(config, starts)
    if column := config.reward.item_weight:
        rows.append(("prepare", "weights of items", f"the column {column} of the catalogue"))
    if config.model.name == "demo":
        rows.append(("prepare", "warm-up steps", f"{config.model.demo.warmup_steps:,}"))
    if config.model.gguf and _runs(command, *USES_MODEL):
        rows.append(("model", "GGUF file", _gguf_text(config.model.name)))
    rows += _earlier_rows(config, samples, command)
    if samples:
        if _runs(command, "train" if config.selection.mode == "live" else "select"):
            check(config, samples)
        rows += _counted_rows(config, samples, command, again=again, exact=exact)
    else:
        rows += _uncounted_rows(config, command)
    return rows + _resource_rows(config)


def _earlier_rows(config: Config, samples: int, command: str) -> list[Row]:
    """Rows of the warm start and the proxy; `samples` is 0 if unknown. Refuses a small corpus."""
    rows: list[Row] = []
    warm, earlier = config.warm, config.earlier_policies
    if command == "warm" or "warm" in earlier:
        if samples and _runs(command, "warm", *TRIALS):
            check_warm(config, samples)
        if samples or warm.training.steps or isinstance(warm.samples, int):
            count = warm.count(samples) if samples else int(warm.samples or 0)
            rows += _training_rows("warm", config, warm.training, count)
    if command == "proxy":  # its own command also runs where nothing uses the proxy
        check_learns(config, "proxy.training", config.proxy.training)
    if command == "proxy" or "proxy" in earlier:
        rows += _training_rows("proxy", config, config.proxy.training, config.proxy.samples)
    return rows


def _runs(command: str, *stages: str) -> bool:
    """Whether a command runs one of the stages, or plans them."""
    return command in ("plan", "run", *stages)


def _check_functions(config: Config, command: str) -> None:
    """Refuse functions of the user that cannot be imported."""
    s = config.selection
    names = [(REWARDS, config.reward.name)] if _runs(command, "proxy", "score", *TRIALS) else []
    if _runs(command, "select", *TRIALS):
        names += [(METHODS, s.method), (LEARNABILITY, s.learnability), (CURRICULA, s.curriculum)]
    losses = [config.training.loss] if _runs(command, "train", *TRIALS) else []
    if _runs(command, "proxy", "score", *TRIALS):
        losses.append(config.proxy.training.loss)
    names += [(TOKEN_LOSSES, loss) for loss in losses]
    if config.reward.judge and _runs(command, "proxy", "train", *TRIALS):
        names.append((JUDGES, config.reward.judge))
    if config.reward.reads_reference and not config.reward.reads_base:
        check_reference(config.reward.reference)
    for choices, name in names:
        if ":" in name:
            choices.find(name)


def _gguf_text(path: str) -> str:
    """What the file holds and needs; refuses one that is missing or cannot be converted."""
    weights = read_header(path).parameters
    return f"{weights / 1e6:,.1f} million parameters; as safetensors {4 * weights / 2**30:.2f} GiB"


def _check_head(config: Config) -> None:
    """Refuse a demo model whose attention heads vLLM does not support on CPUs."""
    demo, on_cpu = config.model.demo, config.resources.gpus_per_engine == 0
    head = demo.hidden_size // demo.heads
    if config.model.name != "demo" or not on_cpu or resolve_engine(config) != "vllm":
        return
    if head not in CPU_HEADS:
        raise ConfigError(
            f"model.demo.hidden_size {demo.hidden_size} over {demo.heads} heads is {head} for "
            f"each; on CPUs vLLM supports {', '.join(map(str, CPU_HEADS))}; change one of the two "
            f"or set rollout.engine=transformers"
        )


def _counted_rows(
    config: Config, samples: int, command: str, *, again: bool, exact: bool
) -> list[Row]:
    """Rows that depend on the number of training samples."""
    about = "" if exact else "about "
    rows: list[Row] = []
    if config.scores:
        shards = math.ceil(config.scoring.count(samples) / config.scoring.shard_size)
        rows += _rollout_rows(config, samples, about, again=again)
        rows.append(("score", "shards", f"{about}{shards:,}"))
    rows += _gradient_rows(config, compared=command in ("plan", "compare"))
    rows += _chosen_rows(config, samples, about)
    rows += _training_rows("train", config, config.training, config.selection.count(samples))
    benches = _benches(config, command)
    if not benches:  # trials train no SASRec
        rows += _sasrec_rows(config, samples, about)
    for bench in benches:
        rows += _trial_rows(bench, trials_of(config, bench, samples), samples, exact=exact)
    return rows


def _chosen_rows(config: Config, samples: int, about: str) -> list[Row]:
    """How many samples are chosen, or what live selection takes and measures."""
    selection = config.selection
    budget = selection.count(samples)
    if selection.mode == "static":
        grouped = selection.curriculum not in ONE_GROUP
        order = f"{selection.groups} groups" if grouped else f"the order {selection.curriculum}"
        return [("select", "budget", f"{about}{budget:,} in {order}")]
    each = f"of {samples:,} samples, chosen in each step"
    return [("train", "prompts in an epoch", f"{about}{budget:,} {each}"), *_live_rows(config)]


def _live_rows(config: Config) -> list[Row]:
    """What live selection looks for, and what it measures at most."""
    live = config.live
    if live.rule == "skip":
        rule = f"skip, by the chance {live.explore:g} to the power of dead groups in a row"
        return [("train", "live rule", rule), ("train", "measured, at most", "0")]
    if live.rule == "influence":
        rule = f"influence, once for {live.stage_steps} steps"
        most = f"{live.candidates} prompts for each that is trained, and {live.validation_samples} "
        most += "validation samples for each choice, one forward pass each"
        return [("train", "live rule", rule), ("train", "measured, at most", most)]
    low, high = live.band
    rule = f"{live.rule}, lift from {low:g} to {high:g}"
    most = f"{live.share:.0%} of the tokens of the training (live.share)"
    if not live.share:
        most = "0: lifts are known from rollouts only (live.share=0)"
    return [("train", "live rule", rule), ("train", "measured, at most", most)]


def _rollout_rows(config: Config, samples: int, about: str, *, again: bool) -> list[Row]:
    """Rollouts and tokens of `score`; `about` is said before a number that is an estimate."""
    if config.scores_forced:
        return [("score", "rollouts", NO_ROLLOUTS), ("score", "tokens, at most", "0")]
    scoring = config.scoring
    rollouts = scoring.count(samples) * (scoring.stages[-1] + 1)
    most = ", at most" if scoring.screen or len(scoring.stages) > 1 else ""
    each = " to ".join(map(str, scoring.stages))
    screened = "; none where screened" if scoring.screen else ""
    return [
        ("score", f"rollouts{most}", f"{about}{rollouts:,} ({each} and a greedy one{screened})"),
        *([] if again else _rollouts_made(Run(config.run_dir), samples)),
        ("score", "tokens, at most", f"{about}{rollouts * config.rollout.max_new_tokens:,}"),
    ]


def _sasrec_rows(config: Config, samples: int, about: str) -> list[Row]:
    """The steps of SASRec without early stopping."""
    c = config.sasrec
    steps = c.epochs * math.ceil(samples / c.batch)
    return [("sasrec", "optimizer steps, at most", f"{about}{steps:,}")] if steps else []


def _uncounted_rows(config: Config, command: str) -> list[Row]:
    """Rows that do not depend on the number of samples; refuses trials with bad settings."""
    unknown = "known once `minirec prepare` has counted the samples"
    rows: list[Row] = []
    if config.scores:
        rows.append(("score", "rollouts", NO_ROLLOUTS if config.scores_forced else unknown))
    if config.selection.mode == "live":
        rows += _live_rows(config)
    budget = config.selection.budget
    counted = isinstance(budget, int) and config.selection.method != "full"
    if config.training.steps or counted:
        rows += _training_rows("train", config, config.training, int(budget))
    for bench in _benches(config, command):
        rows.append((bench, "trials", f"{len(trials_of(config, bench, 1)):,}"))
    return rows


def _benches(config: Config, command: str) -> list[str]:
    """The commands with trials that `command` runs or plans and whose settings vary something."""
    return [name for name in TRIALS if command in ("plan", name) and getattr(config, name).varies]


def _samples(config: Config, again: bool) -> tuple[int, bool]:
    """The number of training samples, 0 if unknown, and whether it is exact."""
    run = Run(config.run_dir)
    path = run.path("corpus", "corpus.json")
    other = run.done("prepare") is not None and not made_with(run, config.corpus)
    if path.exists() and not again and not other:
        return int(read_json(path)["samples"]["train"]), True
    if config.corpus.source == "demo":
        demo, split = config.corpus.demo, config.corpus.split
        targets = max(0, demo.events_per_user - config.corpus.min_history)  # for each user
        if split == "leave_one_out":
            return demo.users * (targets if targets < 3 else targets - 2), False
        return round(demo.users * targets * split[0]), False
    return 0, False


def _files_rows(config: Config, starts: bool) -> list[Row]:
    """Refuse (`starts`) or report corpus files that are missing or lack a column."""
    corpus_exists = Run(config.run_dir).path("corpus", "corpus.json").exists()
    if config.corpus.download or corpus_exists:  # needs no files
        return []
    try:
        sources.locate(config.corpus, weight=config.reward.item_weight)
    except CorpusError as error:
        if starts:
            raise
        return [("prepare", "files", f"not usable from this machine: {error}")]
    return []


def _rollouts_made(run: Run, samples: int) -> list[Row]:
    """The rollouts of a finished scoring, if they are fewer than the maximum."""
    record = run.done("score")
    if record is None:
        return []
    setting = record["settings"]["scoring.rollouts"]
    scored = ScoringConfig(samples=record["settings"].get("scoring.samples")).count(samples)
    full = scored * (1 + (setting[-1] if isinstance(setting, list) else setting))
    made = sum(row["rollouts"] for row in run.costs() if row["stage"] == "score")
    return [("score", "rollouts made", f"{made:,} of {full:,}")] if made < full else []


def _training_rows(stage: str, config: Config, training: TrainingConfig, samples: int) -> list[Row]:
    steps = training.steps_on(samples)
    rows = [(stage, "optimizer steps", f"{steps:,} of {training.prompts_per_step} prompts")]
    most = training.token_limit
    limit = [(stage, "forward-equivalent tokens", f"ends at {most:,}")] if most else []
    if not training.rolls_out:
        return rows + limit
    drawn = training.draws(steps)
    rollouts = drawn * training.prompts_per_step * training.rollouts_per_prompt
    further = rollouts * training.credit_draws
    least = ""
    if training.rollouts_first is not None:
        least = f"{drawn * training.prompts_per_step * training.rollouts_first:,} to "
    whole = training.scales and training.credit == "rollout"
    pairs = training.rollouts_per_prompt == 2 and whole
    signs = "groups of two give only +1, -1 or 0, however much the rewards differ"
    return [
        *rows,
        (stage, "rollouts", f"{least}{rollouts:,}"),
        *([(stage, "completions for credit, at most", f"{further:,}")] if further else []),
        (stage, "tokens, at most", f"{(rollouts + further) * config.rollout.max_new_tokens:,}"),
        *([(stage, "advantages", signs)] if pairs else []),
        *([(stage, "staleness", "1: rollouts run one step ahead")] if training.staleness else []),
        *limit,
    ]


def _gradient_rows(config: Config, *, compared: bool) -> list[Row]:
    own = [config.selection.method] if config.selection.mode == "static" else []
    methods = {*own, *(config.compare.methods if compared else ())}
    if "less" not in methods:
        return []
    s = config.scoring
    rollouts = s.validation_samples * (s.stages[-1] + 1)
    return [("gradients", "rollouts, at most", f"{rollouts:,} of validation samples")]


def _trial_rows(kind: str, trials: Sequence[Trial], samples: int, *, exact: bool) -> list[Row]:
    """What the trials of a sweep or comparison do if none is stopped early."""
    check_trials(trials, samples, exact=exact)
    counts = [trial.config.selection.count(samples) for trial in trials]
    steps = rollouts = greedy = 0
    for trial, count in zip(trials, counts, strict=True):
        t = trial.config.training
        if trial.table == EQUAL_TOKENS:  # the cost ends it, not the number of steps
            continue
        steps += (own := t.steps_on(count))
        if not t.rolls_out:
            continue
        drawn = t.draws(own)
        rollouts += drawn * t.prompts_per_step * t.rollouts_per_prompt * (1 + t.credit_draws)
        if t.validation_steps:
            greedy += t.validation_samples * math.ceil(own / t.validation_steps)
    settings = len({trial.setting for trial in trials})
    limits = [t.config.training.token_limit for t in trials if t.table == EQUAL_TOKENS]
    counted = [
        (kind, "optimizer steps, at most", f"{steps:,}"),
        (kind, "rollouts, at most", f"{rollouts:,}, and {greedy:,} greedy ones to validate"),
    ]
    limited = f"{len(limits):,} trials may each cost {limits[0]:,} in all" if limits else ""
    return [
        (kind, "trials", f"{len(trials):,}: {settings:,} settings, each with its seeds"),
        (kind, "budgets", ", ".join(f"{n:,}" for n in sorted(set(counts)))),
        *([(kind, "forward-equivalent tokens", limited)] if limits else []),
        *(counted if steps else []),
    ]


def _resource_rows(config: Config) -> list[Row]:
    """Resources on this machine; on a cluster ``auto`` depends on its nodes."""
    r = config.resources
    a = allocate(config, [this_machine()], local=True)
    auto, gpus = " (auto, on this machine)", r.gpus_per_engine
    device = "the GPUs present" if gpus == "auto" else f"{gpus:g} GPU" if gpus else "CPU"
    workers = a.most_workers
    engines = "none"
    if a.engines:
        engines = f"{a.engines} x {device}{auto if r.engines == 'auto' else ''}"
    trainers = f"{workers}, ZeRO {r.zero_stage}{auto if r.training_workers == 'auto' else ''}"
    # Resident sizes in GiB of processes just after their start, measured on a CPU machine: driver
    # and Ray 2.0, engine 1.1, worker or scorer 1.0.
    kept = workers == a.scorers == 1 and r.zero_stage < 3  # the worker stays beside the scorer
    memory = 2.0 + 1.1 * a.engines + (2 if kept else max(workers, a.scorers))
    text = f"{memory:.1f} GiB and the weights of the model in each process"
    return [
        ("resources", "rollout engines", engines),
        ("resources", "rollout library", "{}: {}".format(*engine_choice(config))),
        ("resources", "training workers", trainers),
        ("resources", "memory, at least", text),
    ]
