"""The arguments of the `minirec` command."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable
from typing import Any

from jobs import run
from minirec import __version__
from minirec.config.common import COMMON
from minirec.store.remote import expanded

Arguments = argparse.Namespace
RUN = {"run": "all stages in order; finished ones are skipped"}
TRIALS = {
    "sweep": "search the budget: features once, then a trial for each combination of sweep.*",
    "compare": "compare selection methods at equal cost, over budgets and seeds of compare.*",
}
OVERWRITE = (
    "redo stages that were made with other settings; the command of one stage also redoes a "
    "finished stage; `select --features` replaces the files in --out"
)
ANALYSIS = {"action": "store_true", "help": "rank at once, without a written analysis"}
EXPORTS = ("jsonl", "datasets", "trl", "trl-dpo", "verl", "openrlhf", "adapter", "merged")
"""What `minirec export` writes."""


def parse(argv: list[str] | None) -> Arguments:
    """Parse the command line. Overrides may stand anywhere after the command."""
    top = parser()
    a, rest = top.parse_known_args(argv)
    unknown = [word for word in rest if word.startswith("-") or "=" not in word]
    if unknown or (rest and not hasattr(a, "overrides")):
        top.error(_unknown((unknown or rest)[0], a))
    if rest:
        a.overrides += rest
    if a.command == "recommend":
        if (a.users is None) != (a.out is None):
            top.error("--users and --out need each other")
        if a.items and a.users is None:
            top.error("--items needs --users")
    if a.command == "runs" and a.yes and not a.remove:
        top.error("--yes needs --remove")
    if a.command == "export" and a.public and a.push is None:
        top.error("--public needs --push")
    if a.command == "select" and a.features is None:
        for name in ("budget", "out", "chance"):
            if getattr(a, name) is not None:
                setting = "; for a run, write selection.budget=N" if name == "budget" else ""
                top.error(f"--{name} needs --features{setting}")
    return a


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    top = argparse.ArgumentParser(
        prog="minirec",
        description="Find the small, ordered subset of interactions worth reinforcing, and train "
        "an LLM recommender on it (arXiv 2602.04278).",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"minirec {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, text: str, *, config: bool = False, about: str = ""
    ) -> argparse.ArgumentParser:
        # No abbreviations: a typo such as --overwrit must not overwrite.
        one = commands.add_parser(name, help=text, description=about or text, allow_abbrev=False)
        if config:
            _config_arguments(one)
        return one

    commands_of_stages = {stage.name: stage.help for stage in run.STAGES}
    for name, text in (RUN | commands_of_stages | TRIALS).items():
        _add(command(name, text, config=True), "--overwrite", action="store_true", help=OVERWRITE)
    _table_arguments(commands.choices["select"])
    command("plan", "print what a run would do, without starting anything", config=True)

    text = "list the settings with their defaults and meanings"
    section = {"nargs": "?", "default": "", "metavar": "SECTION"}
    one = command("settings", text)
    which = one.add_mutually_exclusive_group()
    _add(which, "section", **section, help="e.g. selection; default: all")
    text = f"the {len(COMMON)} that most users change, with what they cost"
    _add(which, "--common", action="store_true", help=text)
    _submit_arguments(command("submit", "send a command to a Ray cluster as a job"))
    _handover_commands(command)
    _setup_commands(command)
    _watch_commands(command)
    return top


def _setup_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands `init` and `doctor`."""
    one = command("init", "look at your files, show how they are read, and write a config for them")
    text = "CSV, TSV, JSONL, Parquet or Arrow file, a folder or a pattern of such files, or a "
    text += "folder that save_to_disk wrote"
    _add(one, "file", type=_path, metavar="FILE", help=text)
    text = "config to write (default config.yaml)"
    _add(one, "--out", type=_path, default="config.yaml", metavar="FILE", help=text)
    _add(one, "--overwrite", action="store_true", help="replace the config")
    one = command("doctor", "say what of installation, GPU, disk, memory and Ray works")
    text = "folder in which runs are kept (default runs)"
    _add(one, "--runs", type=_path, default="runs", metavar="DIR", help=text)


def _submit_arguments(one: argparse.ArgumentParser) -> None:
    _add(one, "--address", required=True, metavar="URL", help="http://HOST:8265")
    text = "folder to copy to the job"
    _add(one, "--working-dir", type=_path, default=".", metavar="DIR", help=text)
    text = "environment variable to pass to the job, e.g. HF_TOKEN; may be repeated"
    _add(one, "--env", action="append", default=[], metavar="NAME", help=text)
    _add(one, "--follow", action="store_true", help="print the job's log until the job ends")
    about = one.add_mutually_exclusive_group()
    _add(about, "--status", metavar="ID", help="print the state of a job")
    _add(about, "--logs", metavar="ID", help="print the output of a job")
    _add(about, "--stop", metavar="ID", help="stop a job")
    text = "e.g. -- run --config configs/demo.yaml"
    _add(one, "words", nargs="*", metavar="-- COMMAND", help=text)


def _handover_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands `export`, `recommend`, `refresh` and `serve`."""
    text = "write the ordered subset, or the policy, in the format of other software"
    one = command("export", text)
    _add(one, "--run", **RUN_DIR)
    text = "the subset with a reward function or as preference pairs, or the policy: as peft"
    text += " adapter, or merged"
    _add(one, "--to", required=True, choices=EXPORTS, help=text)
    _add(one, "--out", required=True, type=_path, metavar="FOLDER", help="folder to write")
    text = "policy to export; default: trained for adapter and merged, otherwise scoring.policy"
    _add(one, "--policy", choices=("warm", "proxy", "trained"), help=text)
    _add(one, "--overwrite", action="store_true", help="replace the folder")
    text = "copy the folder: hf://USER/NAME (a private repository of the Hugging Face hub), a "
    text += "folder, s3:// or gs://"
    _add(one, "--push", metavar="TARGET", help=text)
    _add(one, "--public", action="store_true", help="a new repository of --push is public")

    text = (
        "Recommend items for a history, or for a file of users. They are ordered by the cosine, or "
        "with model.prior by the score: weight of the policy x cosine / temperature + prior."
    )
    one = command("recommend", "recommend items for a history, or for a file of users", about=text)
    _add(one, "--run", **RUN_DIR)
    whom = one.add_mutually_exclusive_group(required=True)
    _add(whom, "--history", help="titles or item keys, oldest first, with commas between")
    text = ".parquet, .jsonl or .jsonl.gz with user and history, a list of item keys, oldest first"
    _add(whom, "--users", type=_path, metavar="FILE", help=text)
    text = "file to write for --users, with one of the same endings"
    _add(one, "--out", type=_path, metavar="FILE", help=text)
    text = "new items for --users, with key, title and optionally text"
    _add(one, "--items", type=_path, metavar="FILE", help=text)
    _add(one, "--top", type=_positive, default=10, help="number of items (default 10)")
    _add(one, "--no-analysis", **ANALYSIS)

    text = "count new events in the collaborative prior of a trained run, without training"
    one = command("refresh", text)
    _add(one, "--run", **RUN_DIR)
    text = (
        "interactions in the format of the corpus, all that are new since; without any, the events "
        "of valid and test are added"
    )
    _add(one, "--events", nargs="*", type=_path, default=[], metavar="FILE", help=text)

    one = command("serve", "answer POST /recommend over HTTP with the trained policy")
    _add(one, "--run", **RUN_DIR)
    _add(one, "--host", default="127.0.0.1", help="address (default 127.0.0.1)")
    _add(one, "--port", type=_port, default=8000, help="port (default 8000)")
    _add(one, "--replicas", type=_positive, default=1, help="processes (default 1)")
    _add(one, "--queue", type=_positive, default=256, help="requests that may wait (default 256)")
    _add(one, "--no-analysis", **ANALYSIS)


def _watch_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands `watch` and `runs`."""
    text = "show a running command: its stage, reward, speed, cost and the time to its end"
    about = (
        f"{text[0].upper()}{text[1:]}. It reads only the run directory, so it may run elsewhere."
    )
    about += " Ends with the command; the exit status is 1 if that failed or seems to be dead."
    one = command("watch", text, about=about)
    _add(one, "run", type=_path, metavar="RUN", help="run directory, also s3:// or gs://")
    _add(one, "--once", action="store_true", help="show the present state and exit")

    one = command("runs", "list run directories with state, size and figures, or remove some")
    text = "folder to search (default runs)"
    _add(one, "folder", nargs="?", type=_path, default="runs", metavar="FOLDER", help=text)
    text = "remove these run directories, named as in the list"
    _add(one, "--remove", nargs="+", type=_path, default=[], metavar="NAME", help=text)
    _add(one, "--yes", action="store_true", help="remove without asking")


def _add(to: Any, *names: str, **options: Any) -> None:
    to.add_argument(*names, **options)


def _config_arguments(command: argparse.ArgumentParser) -> None:
    text = "YAML file, see configs/ for examples; default: config.yaml of the run directory, if any"
    _add(command, "--config", type=_path, metavar="FILE", help=text)
    text = "e.g. selection.budget=0.2; `minirec settings` lists all"
    _add(command, "overrides", nargs="*", metavar="key=value", help=text)


def _table_arguments(command: argparse.ArgumentParser) -> None:
    """The arguments of `select` without a run."""
    table = command.add_argument_group(
        "without a run",
        "Choose from a table with the column sample_id and any of rewards, ndcg, hits, embedding, "
        "hvp, gradient, el2n: .parquet, .jsonl, .ndjson, .npz or a folder of Parquet parts. "
        "key=value then takes selection.*, seed and preset.",
    )
    text = "file or folder to choose from"
    _add(table, "--features", type=_path, metavar="TABLE", help=text)
    text = "number of samples, or a share below 1 (default 0.1)"
    _add(table, "--budget", type=_budget, metavar="K", help=text)
    text = "folder for selection.parquet and scores.parquet (default .)"
    _add(table, "--out", type=_path, metavar="FOLDER", help=text)
    text = (
        "NDCG of a policy that ranks at random, or its reward if the table has no ndcg (default "
        "0); `minirec select` of a run prints it"
    )
    _add(table, "--chance", type=float, metavar="C", help=text)


def _path(text: str) -> str:
    try:
        return expanded(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


RUN_DIR = {"required": True, "type": _path, "metavar": "DIR", "help": "run directory"}


def _positive(text: str, most: int = 10**9) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {most:,}")
    return int(text)


def _port(text: str) -> int:
    return _positive(text, 65535)


def _budget(text: str) -> int | float:
    if text.isdecimal() and int(text) > 0:
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


def _unknown(word: str, a: Arguments) -> str:
    no_options = {"command", "overrides", "words"}
    options = [f"--{name.replace('_', '-')}" for name in vars(a) if name not in no_options]
    near = difflib.get_close_matches(word.partition("=")[0], options, n=1)
    advice = f"did you mean {near[0]}?" if near else f"see minirec {a.command} --help"
    return f"{a.command} takes no {word}; {advice}"
