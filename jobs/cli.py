"""The `minirec` command."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

from minirec.errors import ArtifactError, ConfigError, MiniRecError
from minirec.remote import explain, located

STAGES = {
    "run": "all stages in order; what is finished is skipped",
    "prepare": "read interactions and catalogue, make samples",
    "proxy": "train the proxy policy on a small random subset",
    "score": "roll out and score every training sample",
    "gradients": "projected LoRA gradients; `score` makes them where the selection uses them",
    "select": "choose and order the subset",
    "train": "train the policy on the subset",
    "evaluate": "rank valid and test over the full catalogue",
    "report": "write report.html",
    "sweep": "search the budget: features once, then a trial for each combination of sweep.*",
    "compare": "compare selection methods at equal cost, over budgets and seeds of compare.*",
}


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    top = argparse.ArgumentParser(
        prog="minirec",
        description="Find the small, ordered subset of interactions worth reinforcing, and train "
        "an LLM recommender on it (arXiv 2602.04278).",
        allow_abbrev=False,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in STAGES.items():
        command = _command(commands, name, text)
        _config_arguments(command)
        command.add_argument(
            "--overwrite",
            action="store_true",
            help="redo what was made with other settings; a single stage is redone anyway",
        )
        if name == "select":
            _table_arguments(command)
    text = "print what a run would do, without starting anything"
    _config_arguments(_command(commands, "plan", text))
    _submit_arguments(commands)
    _export_arguments(commands)
    _recommend_arguments(commands)
    return top


def _command(commands: argparse._SubParsersAction, name: str, text: str) -> argparse.ArgumentParser:
    # Without abbreviations: --overwrit is a slip, not an order.
    return commands.add_parser(name, help=text, description=text, allow_abbrev=False)


def _config_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", metavar="FILE", help="YAML file; see configs/")
    command.add_argument(
        "overrides", nargs="*", metavar="key=value", help="e.g. selection.budget=0.2"
    )


def _table_arguments(command: argparse.ArgumentParser) -> None:
    table = command.add_argument_group(
        "without a run",
        "Choose from a bare table of sample_id and rewards, ndcg, hits, embedding, hvp, gradient, "
        "el2n, as far as there are: .parquet, .jsonl, .npz or a folder of Parquet parts. "
        "key=value then takes selection.*, seed and preset.",
    )
    table.add_argument("--features", metavar="TABLE", help="file or folder to choose from")
    table.add_argument(
        "--budget", type=_budget, metavar="K", help="samples, or a share below 1 (default 0.1)"
    )
    table.add_argument(
        "--out", metavar="FOLDER", help="where selection.parquet and scores.parquet go (default .)"
    )
    table.add_argument(
        "--chance",
        type=float,
        metavar="C",
        help="NDCG, or reward where there is none, of a policy that knows nothing (default 0); "
        "`minirec select` of a run prints that of its catalogue",
    )


def _submit_arguments(commands: argparse._SubParsersAction) -> None:
    command = _command(commands, "submit", "send a command to a Ray cluster as a job")
    command.add_argument("--address", required=True, metavar="URL", help="http://HOST:8265")
    command.add_argument(
        "--working-dir", default=".", metavar="DIR", help="folder that the job gets a copy of"
    )
    command.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME",
        help="variable of this shell that the job gets too, e.g. HF_TOKEN; may be repeated",
    )
    command.add_argument("--follow", action="store_true", help="print the job's log to its end")
    about = command.add_mutually_exclusive_group()
    about.add_argument("--status", metavar="ID", help="print the state of a job")
    about.add_argument("--logs", metavar="ID", help="print what a job has printed")
    about.add_argument("--stop", metavar="ID", help="stop a job")
    command.add_argument(
        "words", nargs="*", metavar="-- COMMAND", help="e.g. -- run --config configs/demo.yaml"
    )


def _export_arguments(commands: argparse._SubParsersAction) -> None:
    text = "hand over the ordered subset, or the policy, as other software reads it"
    command = _command(commands, "export", text)
    command.add_argument("--run", required=True, metavar="DIR", help="run directory")
    command.add_argument(
        "--to",
        required=True,
        choices=("jsonl", "trl", "verl", "openrlhf", "adapter", "merged"),
        help="the subset with a reward function, or the policy: as peft adapter, or merged",
    )
    command.add_argument("--out", required=True, metavar="FOLDER", help="folder to write")
    command.add_argument(
        "--policy",
        choices=("proxy", "trained"),
        help="whose weights; default: trained for adapter and merged, else proxy",
    )
    command.add_argument("--overwrite", action="store_true", help="replace the folder")


def _recommend_arguments(commands: argparse._SubParsersAction) -> None:
    one = _command(commands, "recommend", "recommend items for a history, or for a file of users")
    one.add_argument("--run", required=True, metavar="DIR", help="run directory")
    whom = one.add_mutually_exclusive_group(required=True)
    whom.add_argument("--history", help="titles, oldest first, with commas between")
    whom.add_argument(
        "--users",
        metavar="FILE",
        help=".parquet or .jsonl with user and history, a list of item keys, oldest first",
    )
    one.add_argument("--out", metavar="FILE", help=".parquet or .jsonl, for --users")
    one.add_argument(
        "--items",
        metavar="FILE",
        help="new items for --users: .parquet or .jsonl with key, title and maybe text",
    )
    one.add_argument("--top", type=_positive, default=10, help="how many items (default 10)")
    one.add_argument(
        "--no-analysis", action="store_true", help="rank at once, without a written analysis"
    )


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def _budget(text: str) -> int | float:
    if text.isdigit() and int(text) > 0:
        return int(text)
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a number of samples nor a share below 1; write 500 or 0.1"
        )
    return share


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status: 0 done, 1 failed, 2 wrong use, 130 interrupted."""
    arguments = parse(argv)
    try:
        if arguments.command == "recommend":
            return _recommend(arguments)
        if arguments.command == "submit":
            return _submit(arguments)
        if arguments.command == "export":
            return _export(arguments)
        if getattr(arguments, "features", None) is not None:
            return _select_table(arguments)
        return _with_config(arguments)
    except ConfigError as error:
        print(f"minirec: {error}", file=sys.stderr)
        return 2
    except MiniRecError as error:
        print(f"minirec: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        # Of a job only the view has ended: the same command would submit another.
        how = (
            "the job goes on"
            if arguments.command == "submit"
            else "the same command goes on from here"
        )
        print(f"minirec: interrupted; {how}", file=sys.stderr)
        return 130
    except Exception as error:
        problem = explain(error, _run_dir(arguments))
        if problem is None and isinstance(error, OSError):
            problem = f"{error.strerror}: {error.filename}" if error.strerror else str(error)
        if problem is None:
            raise
        print(f"minirec: {problem}", file=sys.stderr)
        return 1


def _run_dir(arguments: argparse.Namespace) -> str:
    """The run directory, for the sentence of an error; empty where the settings are no good."""
    for word in reversed(getattr(arguments, "overrides", [])):
        if word.startswith("run_dir="):
            return word.partition("=")[2]
    if getattr(arguments, "config", None):
        from minirec.settings import load

        try:
            return load(arguments.config, arguments.overrides).run_dir
        except ConfigError:
            return ""
    return getattr(arguments, "run", "")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse; overrides may stand anywhere after the command, also between options."""
    top = parser()
    arguments, rest = top.parse_known_args(argv)
    strange = [word for word in rest if word.startswith("-") or "=" not in word]
    if strange or (rest and not hasattr(arguments, "overrides")):
        top.error(f"unrecognized arguments: {' '.join(strange or rest)}")
    if rest:
        arguments.overrides += rest
    if arguments.command == "recommend":
        if (arguments.users is None) != (arguments.out is None):
            top.error("--users and --out belong together")
        if arguments.items and arguments.users is None:
            top.error("--items needs --users")
    if arguments.command == "select" and arguments.features is None:
        for name in ("budget", "out", "chance"):
            if getattr(arguments, name) is not None:
                top.error(f"--{name} needs --features")
    return arguments


def _config_of_the_run(arguments: argparse.Namespace) -> Path | None:
    """Without --config, a single stage takes the settings that the run directory was made with."""
    given = dict(word.split("=", 1) for word in arguments.overrides if "=" in word)
    path = located(given.get("run_dir") or ".") / "config.yaml"
    if "run_dir" not in given or not path.exists():
        return None
    if "preset" in given:
        raise ConfigError(
            f"preset={given['preset']} would have no effect: {path} sets every value itself; give "
            f"--config FILE with the settings of your own"
        )
    return path


def _with_config(arguments: argparse.Namespace) -> int:
    from minirec.settings import load

    config = load(arguments.config or _config_of_the_run(arguments), arguments.overrides)
    from jobs.submit import check_shared, in_job

    if in_job():
        check_shared(config)
    from jobs.plan import plan
    from jobs.summary import print_plan, print_summary

    if arguments.command == "plan":
        from jobs.plan_costs import estimates

        print_plan(plan(config) + estimates(config))
        return 0
    plan(config, again=arguments.overwrite)  # refuses what cannot work before anything starts
    if arguments.command in ("sweep", "compare"):
        # Before ray is imported: else Tune's thread starts a Ray of its own after Ctrl-C.
        os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
        module = importlib.import_module(f"jobs.{arguments.command}")
        trials = getattr(module, arguments.command)
        print_summary(trials(config, overwrite=arguments.overwrite), config)
        return 0
    from jobs import run

    names = run.STAGES if arguments.command == "run" else (arguments.command,)
    finished = run.stages(config, names, overwrite=arguments.overwrite)
    print_summary(finished, config)
    return 0


def _select_table(arguments: argparse.Namespace) -> int:
    """Without the stages: this path loads neither torch nor ray."""
    from jobs.submit import check_table, in_job

    if in_job():
        check_table(arguments.features, arguments.out)
    for word in arguments.overrides:
        key = word.partition("=")[0]
        known = key in ("seed", "preset") or key.startswith("selection.")
        if key == "selection.budget" and arguments.budget is not None:
            raise ConfigError("--budget and selection.budget both say how many; give one of them")
        if not known or key == "selection.shards":
            raise ConfigError(
                f"{key} has no effect with --features; give selection.* (but shards), seed "
                f"or preset"
            )
    from jobs.console import console
    from jobs.select_table import select_table
    from minirec.settings import load

    budget = [] if arguments.budget is None else [f"selection.budget={arguments.budget}"]
    select_table(
        Path(arguments.features),
        load(arguments.config, arguments.overrides + budget),
        out=Path(arguments.out or "."),
        chance=arguments.chance or 0.0,
        overwrite=arguments.overwrite,
        say=lambda line: console.print(f"select: {line}", markup=False),
    )
    return 0


def _submit(arguments: argparse.Namespace) -> int:
    from jobs.submit import ask, follow, submit

    for what in ("status", "logs", "stop"):
        if about := getattr(arguments, what):
            print(ask(what, about, address=arguments.address))
            return 0
    job = submit(
        arguments.words,
        address=arguments.address,
        working_dir=arguments.working_dir,
        variables=tuple(arguments.env),
    )
    print(f"job {job}: minirec submit --address {arguments.address} --logs|--status|--stop {job}")
    if not arguments.follow:
        return 0
    done = follow(job, address=arguments.address, say=lambda text: print(text, end="", flush=True))
    return 0 if done else 1


def _recommend(arguments: argparse.Namespace) -> int:
    from jobs.recommend import recommend
    from jobs.summary import print_recommendation

    if not located(arguments.run).is_dir():
        raise ArtifactError(f"{arguments.run} is not a directory; give the run_dir of a run")
    if arguments.users:
        from jobs.recommend_files import recommend_files

        recommend_files(
            arguments.run,
            Path(arguments.users),
            Path(arguments.out),
            items=Path(arguments.items) if arguments.items else None,
            top=arguments.top,
            analysis=not arguments.no_analysis,
        )
        return 0
    analysis, items = recommend(
        arguments.run, arguments.history, top=arguments.top, analysis=not arguments.no_analysis
    )
    print_recommendation(analysis, items)
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from jobs.export import export

    export(
        arguments.run,
        arguments.to,
        Path(arguments.out),
        policy=arguments.policy,
        overwrite=arguments.overwrite,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
