"""The `minirec` command."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from pathlib import Path

from jobs.arguments import parse
from minirec.errors import ConfigError, MiniRecError
from minirec.store.disk import full
from minirec.store.remote import expanded, explain, located


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status: 0 done, 1 failed, 2 wrong use, 130 interrupted."""
    arguments = parse(argv)
    try:
        if arguments.command == "recommend":
            return _recommend(arguments)
        if arguments.command == "settings":
            return _settings(arguments)
        if arguments.command == "submit":
            return _submit(arguments)
        if arguments.command == "export":
            return _export(arguments)
        if arguments.command == "serve":
            return _serve(arguments)
        if getattr(arguments, "features", None) is not None:
            return _select_table(arguments)
        return _with_config(arguments)
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
        raised = _raised(error)
        problem = _problem(raised, arguments)
        if problem is None:
            raise
        print(f"minirec: {problem}", file=sys.stderr)
        return 2 if isinstance(raised, ConfigError) else 1


def _raised(error: BaseException) -> BaseException:
    """What a task of Ray raised, where Ray is in use; it takes seconds to import."""
    if "ray" not in sys.modules:
        return error
    from actors.causes import raised_in

    return raised_in(error)


def _problem(error: BaseException, arguments: argparse.Namespace) -> str | None:
    """One sentence for an error that a user can do something about; None for any other."""
    if isinstance(error, MiniRecError):
        return str(error)
    run_dir = _run_dir(arguments)
    if disk := full(error, getattr(arguments, "out", None) or run_dir or os.getcwd()):
        return str(disk)
    problem = explain(error, run_dir)
    if problem is None and isinstance(error, OSError):
        file = "" if error.filename is None else f": {error.filename}"
        refused = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        advice = "; change its rights or give another path" if refused else ""
        return f"{error.strerror}{file}{advice}" if error.strerror else str(error)
    return problem


def _run_dir(arguments: argparse.Namespace) -> str:
    """The run directory, for the sentence of an error; empty where the settings are no good."""
    for word in reversed(getattr(arguments, "overrides", [])):
        if word.startswith("run_dir="):
            return os.path.expanduser(word.partition("=")[2])
    if getattr(arguments, "config", None):
        from minirec.config.reading import load

        try:
            return load(arguments.config, arguments.overrides).run_dir
        except ConfigError:
            return ""
    return getattr(arguments, "run", "")


def _config_of_the_run(arguments: argparse.Namespace) -> Path | None:
    """Without --config, a command takes the settings that the run directory was made with."""
    from minirec.config.run import Config

    given = dict(word.split("=", 1) for word in arguments.overrides if "=" in word)
    default = Config.model_fields["run_dir"].default
    try:
        path = located(expanded(given.get("run_dir") or default)) / "config.yaml"
    except ValueError as error:
        raise ConfigError(f"run_dir: {error}") from None
    if not path.exists():
        return None
    if "preset" in given:
        raise ConfigError(
            f"preset={given['preset']} would have no effect: {path} sets every value itself; give "
            f"another run_dir, or --config FILE with the settings of your own"
        )
    return path


def _with_config(arguments: argparse.Namespace) -> int:
    from minirec.config.reading import load

    file = arguments.config or _config_of_the_run(arguments)
    config = load(file, arguments.overrides)
    if file and not arguments.config:
        from jobs.console import say

        say(f"settings: {file}")
    from jobs.cluster.submit import check_shared, in_job

    if in_job():
        check_shared(config)
    from jobs.console import print_plan, print_summary
    from jobs.plan import plan
    from minirec.trials.checks import check

    if arguments.command == "plan":
        from jobs.plan_costs import estimated

        print_plan(plan(config, starts=False) + estimated(config))
        return 0
    # Refuses what cannot work before anything starts.
    plan(config, command=arguments.command, again=arguments.overwrite)
    if arguments.command in ("sweep", "compare"):
        # Before ray is imported: else Tune's thread starts a Ray of its own after Ctrl-C.
        os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
        # Trials have many processes, most of them idle; Ray would warn of their number.
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "worker processes have been started")
        from jobs.trials.bench import run_bench

        print_summary(run_bench(arguments.command, config, overwrite=arguments.overwrite))
        return 0
    from jobs import run

    names = run.STAGES if arguments.command == "run" else (arguments.command,)

    def counted(samples: int) -> None:
        """`run` must not compute for hours what `select` then refuses; others only tell of it."""
        try:
            check(config, samples)
        except ConfigError as error:
            if "select" in names:
                raise
            if names[0] in run.STAGES[: run.STAGES.index("select")]:
                run.say(f"`minirec select` would refuse these settings: {error}")

    finished = run.stages(config, names, overwrite=arguments.overwrite, check=counted)
    print_summary(finished)
    return 0


def _file(option: str, text: str) -> Path:
    """A path of this machine, from an option that takes no address of an object store."""
    if "://" in text:
        raise ConfigError(f"{option} {text} is an address; give a file or folder of this machine")
    return Path(text)


def _select_table(arguments: argparse.Namespace) -> int:
    """Without the stages: this path loads neither torch nor ray."""
    from jobs.cluster.submit import check_table, in_job

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
    from jobs.handover.select_table import select_table
    from minirec.config.reading import load

    budget = [] if arguments.budget is None else [f"selection.budget={arguments.budget}"]
    select_table(
        _file("--features", arguments.features),
        load(arguments.config, arguments.overrides + budget),
        out=_file("--out", arguments.out or "."),
        chance=arguments.chance or 0.0,
        overwrite=arguments.overwrite,
        say=lambda line: console.print(f"select: {line}", markup=False),
    )
    return 0


def _settings(arguments: argparse.Namespace) -> int:
    from jobs.console import print_settings
    from minirec.config.reading import described

    print_settings(described(arguments.section))
    return 0


def _submit(arguments: argparse.Namespace) -> int:
    from jobs.cluster.submit import ask, follow, submit

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
    from jobs.console import print_recommendation
    from jobs.handover.recommend import recommend

    if arguments.users:
        from jobs.handover.recommend_files import recommend_files

        recommend_files(
            arguments.run,
            _file("--users", arguments.users),
            _file("--out", arguments.out),
            items=_file("--items", arguments.items) if arguments.items else None,
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
    from jobs.handover.export import export

    export(
        arguments.run,
        arguments.to,
        _file("--out", arguments.out),
        policy=arguments.policy,
        overwrite=arguments.overwrite,
    )
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    # Before ray is imported: it would report the end of Serve's controller as a failure.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "ServeController.graceful_shutdown failed")
    from jobs.handover.serve import serve

    serve(
        arguments.run,
        host=arguments.host,
        port=arguments.port,
        replicas=arguments.replicas,
        queue=arguments.queue,
        analysis=not arguments.no_analysis,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
