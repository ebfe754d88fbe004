"""The `minirec` command; a function for each of its commands.

Heavy imports are inside the functions, so `--help` and the error for a typo appear at once.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.arguments import TRIALS, Arguments, parse
from minirec.errors import ConfigError, MiniRecError
from minirec.store.disk import full
from minirec.store.remote import expanded, explain, located

if TYPE_CHECKING:
    from minirec.config.run import Config


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status: 0 done, 1 failed, 2 wrong use, 130 interrupted."""
    a = parse(argv)
    try:
        return COMMANDS.get(a.command, _run)(a) or 0
    except KeyboardInterrupt:
        # `submit` stops only its output; running it again would start another job.
        submitted = a.command == "submit"
        how = "the job goes on" if submitted else "run the same command again to continue"
        print(f"minirec: interrupted; {how}", file=sys.stderr)
        return 130
    except Exception as error:
        raised: BaseException = error
        if "ray" in sys.modules:  # otherwise importing it takes seconds
            from actors.causes import raised_in

            raised = raised_in(error)
        problem = _problem(raised, a)
        if problem is None:
            raise
        print(f"minirec: {problem}", file=sys.stderr)
        return 2 if isinstance(raised, ConfigError) else 1


def _problem(error: BaseException, a: Arguments) -> str | None:
    """One sentence for an error that the user can fix; None for any other error."""
    if isinstance(error, MiniRecError):
        return str(error)
    run_dir = _run_dir(a)
    if disk := full(error, getattr(a, "out", None) or run_dir or os.getcwd()):
        return str(disk)
    if (problem := explain(error, run_dir)) or not isinstance(error, OSError):
        return problem
    file = "" if error.filename is None else f": {error.filename}"
    refused = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    advice = "; change its permissions or give another path" if refused else ""
    return f"{error.strerror}{file}{advice}" if error.strerror else str(error)


def _run_dir(a: Arguments) -> str:
    """The run directory, for error messages; empty if the settings are not valid."""
    given = _given(a)
    if "run_dir" in given:
        return os.path.expanduser(given["run_dir"])
    if getattr(a, "config", None):
        from minirec.config.reading import load

        try:
            return load(a.config, a.overrides).run_dir
        except ConfigError:
            return ""
    return getattr(a, "run", "")


def _given(a: Arguments) -> dict[str, str]:
    """The overrides by key."""
    words = getattr(a, "overrides", [])
    return dict(word.split("=", 1) for word in words if "=" in word)


def _config_of_the_run(a: Arguments) -> Path | None:
    """The config.yaml of the run directory, if it exists; a command uses it without --config."""
    from minirec.config.run import Config

    given = _given(a)
    default = Config.model_fields["run_dir"].default
    try:
        path = located(expanded(given.get("run_dir") or default)) / "config.yaml"
    except ValueError as error:
        raise ConfigError(f"run_dir: {error}") from None
    if not path.exists():
        return None
    if "preset" in given:
        raise ConfigError(
            f"preset={given['preset']} has no effect, because {path} sets every value; give "
            f"another run_dir, or --config FILE with your own settings"
        )
    return path


def _config(a: Arguments) -> Config:
    from jobs.cluster.submit import check_shared, in_job
    from jobs.console import say
    from minirec.config.reading import load

    file = a.config or _config_of_the_run(a)
    config = load(file, a.overrides)
    if file and not a.config:
        say(f"settings: {file}")
    if in_job():
        check_shared(config)
    return config


def _plan(a: Arguments) -> None:
    from jobs.console import print_plan
    from jobs.plan import plan
    from jobs.plan_costs import estimated

    config = _config(a)
    print_plan(plan(config, starts=False) + estimated(config))


def _run(a: Arguments) -> None:
    """Run all stages, or the stage that the command names."""
    from jobs.checked import run_stages
    from jobs.console import print_summary

    print_summary(run_stages(_config(a), a.command, overwrite=a.overwrite))


def _trials(a: Arguments) -> None:
    from jobs.checked import run_trials
    from jobs.console import print_summary

    print_summary(run_trials(_config(a), a.command, overwrite=a.overwrite))


def _file(option: str, text: str) -> Path:
    """The path of an option that takes no address of an object store."""
    if "://" in text:
        raise ConfigError(f"{option} {text} is an address; give a file or folder of this machine")
    return Path(text)


def _select(a: Arguments) -> None:
    """Run the stage. With --features, select from a table, without loading torch or ray."""
    if a.features is None:
        return _run(a)
    from jobs.cluster.submit import check_table, in_job
    from jobs.console import say
    from jobs.handover.select_table import select_table
    from minirec.config.reading import load

    if in_job():
        check_table(a.features, a.out)
    for word in a.overrides:
        key = word.partition("=")[0]
        known = key in ("seed", "preset") or key.startswith("selection.")
        if key == "selection.budget" and a.budget is not None:
            raise ConfigError("--budget and selection.budget set the same value; give only one")
        if not known or key == "selection.shards":
            raise ConfigError(
                f"{key} has no effect with --features; give selection.* (except shards), seed "
                f"or preset"
            )
    budget = [] if a.budget is None else [f"selection.budget={a.budget}"]
    select_table(
        _file("--features", a.features),
        load(a.config, a.overrides + budget),
        out=_file("--out", a.out or "."),
        chance=a.chance or 0.0,
        overwrite=a.overwrite,
        say=lambda line: say(f"select: {line}"),
    )
    return None


def _settings(a: Arguments) -> None:
    from jobs.console import print_settings, say
    from minirec.config.common import COMMON, shortened
    from minirec.config.reading import described

    found = described(a.section)
    if a.common:
        rows = {key: (key, default, shortened(meaning)) for key, default, meaning in found}
        found = [rows[key] for key in COMMON]
    print_settings(found)
    if a.common:
        say("`minirec settings KEY` explains the choices of one, `minirec settings` lists all.")


def _submit(a: Arguments) -> int:
    from jobs.cluster.submit import ask, follow, submit

    for what in ("status", "logs", "stop"):
        if about := getattr(a, what):
            print(ask(what, about, address=a.address))
            return 0
    places = {"address": a.address, "working_dir": a.working_dir}
    job = submit(a.words, parse=parse, variables=tuple(a.env), **places)
    print(f"job {job}: minirec submit --address {a.address} --logs|--status|--stop {job}")
    if not a.follow:
        return 0
    done = follow(job, address=a.address, say=lambda text: print(text, end="", flush=True))
    return 0 if done else 1


def _recommend(a: Arguments) -> None:
    options = {"top": a.top, "analysis": not a.no_analysis}
    if a.users:
        from jobs.handover.recommend_files import recommend_files

        items = _file("--items", a.items) if a.items else None
        users, out = _file("--users", a.users), _file("--out", a.out)
        recommend_files(a.run, users, out, items=items, **options)
    else:
        from jobs.console import print_recommendation
        from jobs.handover.recommend import recommend

        print_recommendation(*recommend(a.run, a.history, **options))


def _export(a: Arguments) -> None:
    from jobs.handover.export import export

    options = {"policy": a.policy, "overwrite": a.overwrite}
    out = _file("--out", a.out)
    export(a.run, a.to, out, push_to=a.push, public=a.public, **options)


def _refresh(a: Arguments) -> None:
    from jobs.handover.refresh import refresh

    refresh(a.run, [_file("--events", file) for file in a.events])


def _serve(a: Arguments) -> None:
    # Must be set before ray is imported: Ray reports the normal end of Serve as a failure.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "ServeController.graceful_shutdown failed")
    from jobs.handover.serve import serve

    place = {"host": a.host, "port": a.port, "replicas": a.replicas, "queue": a.queue}
    serve(a.run, analysis=not a.no_analysis, **place)


def _init(a: Arguments) -> None:
    from jobs.setup.init import init

    init(str(_file("FILE", a.file)), _file("--out", a.out), overwrite=a.overwrite)


def _doctor(a: Arguments) -> int:
    from jobs.setup.doctor import doctor

    return doctor(_file("--runs", a.runs))


def _watch(a: Arguments) -> int:
    from jobs.watch.watch import watch

    return watch(a.run, once=a.once)


def _runs(a: Arguments) -> int:
    from jobs.watch.runs import print_runs, remove_runs

    if a.remove:
        return remove_runs(a.folder, a.remove, yes=a.yes)
    print_runs(a.folder)
    return 0


COMMANDS = {
    "select": _select,  # of a run, or of a table of features
    **dict.fromkeys(TRIALS, _trials),
    "plan": _plan,
    "settings": _settings,
    "submit": _submit,
    "export": _export,
    "recommend": _recommend,
    "refresh": _refresh,
    "serve": _serve,
    "init": _init,
    "doctor": _doctor,
    "watch": _watch,
    "runs": _runs,
}
"""The functions of commands. `run` and the commands of stages are in none: `_run` serves them."""

if __name__ == "__main__":
    sys.exit(main())
