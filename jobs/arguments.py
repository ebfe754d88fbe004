"""The arguments of the `minirec` command."""

from __future__ import annotations

import argparse
import difflib

from minirec import __version__
from minirec.store.remote import expanded

MOST = 10**9
"""Of items, processes or requests that an option may ask for."""
COMMANDS = {
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
    top.add_argument("--version", action="version", version=f"minirec {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        command = _command(commands, name, text)
        _config_arguments(command)
        command.add_argument(
            "--overwrite",
            action="store_true",
            help="redo what was made with other settings; a command for one stage redoes it in any "
            "case, and `select --features` replaces what --out holds",
        )
        if name == "select":
            _table_arguments(command)
    text = "print what a run would do, without starting anything"
    _config_arguments(_command(commands, "plan", text))
    text = "list the settings, with their defaults and what they mean"
    _command(commands, "settings", text).add_argument(
        "section", nargs="?", default="", metavar="SECTION", help="e.g. selection; default: all"
    )
    _submit_arguments(commands)
    _export_arguments(commands)
    _recommend_arguments(commands)
    _serve_arguments(commands)
    return top


def _command(commands: argparse._SubParsersAction, name: str, text: str) -> argparse.ArgumentParser:
    # Without abbreviations: --overwrit is a slip, not an order.
    return commands.add_parser(name, help=text, description=text, allow_abbrev=False)


def _config_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--config",
        type=_path,
        metavar="FILE",
        help="YAML file such as those in configs/; default: that of the run directory, if any",
    )
    command.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="e.g. selection.budget=0.2; `minirec settings` lists all",
    )


def _table_arguments(command: argparse.ArgumentParser) -> None:
    table = command.add_argument_group(
        "without a run",
        "Choose from a bare table of sample_id and rewards, ndcg, hits, embedding, hvp, gradient, "
        "el2n, as far as there are: .parquet, .jsonl, .ndjson, .npz or a folder of Parquet parts. "
        "key=value then takes selection.*, seed and preset.",
    )
    table.add_argument(
        "--features", type=_path, metavar="TABLE", help="file or folder to choose from"
    )
    table.add_argument(
        "--budget", type=_budget, metavar="K", help="samples, or a share below 1 (default 0.1)"
    )
    table.add_argument(
        "--out",
        type=_path,
        metavar="FOLDER",
        help="where selection.parquet and scores.parquet go (default .)",
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
        "--working-dir",
        type=_path,
        default=".",
        metavar="DIR",
        help="folder that the job gets a copy of",
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
    command.add_argument("--run", required=True, type=_path, metavar="DIR", help="run directory")
    command.add_argument(
        "--to",
        required=True,
        choices=("jsonl", "trl", "verl", "openrlhf", "adapter", "merged"),
        help="the subset with a reward function, or the policy: as peft adapter, or merged",
    )
    command.add_argument(
        "--out", required=True, type=_path, metavar="FOLDER", help="folder to write"
    )
    command.add_argument(
        "--policy",
        choices=("proxy", "trained"),
        help="whose weights; default: trained for adapter and merged, else proxy",
    )
    command.add_argument("--overwrite", action="store_true", help="replace the folder")


def _recommend_arguments(commands: argparse._SubParsersAction) -> None:
    one = _command(commands, "recommend", "recommend items for a history, or for a file of users")
    one.add_argument("--run", required=True, type=_path, metavar="DIR", help="run directory")
    whom = one.add_mutually_exclusive_group(required=True)
    whom.add_argument("--history", help="titles or item keys, oldest first, with commas between")
    whom.add_argument(
        "--users",
        type=_path,
        metavar="FILE",
        help=".parquet, .jsonl or .jsonl.gz with user and history, a list of item keys, oldest "
        "first",
    )
    one.add_argument(
        "--out", type=_path, metavar="FILE", help="for --users, with one of these endings"
    )
    one.add_argument(
        "--items",
        type=_path,
        metavar="FILE",
        help="new items for --users, with key, title and maybe text",
    )
    one.add_argument("--top", type=_positive, default=10, help="how many items (default 10)")
    one.add_argument(
        "--no-analysis", action="store_true", help="rank at once, without a written analysis"
    )


def _serve_arguments(commands: argparse._SubParsersAction) -> None:
    one = _command(commands, "serve", "answer POST /recommend over HTTP with the trained policy")
    one.add_argument("--run", required=True, type=_path, metavar="DIR", help="run directory")
    one.add_argument("--host", default="127.0.0.1", help="address (default 127.0.0.1)")
    one.add_argument("--port", type=_port, default=8000, help="port (default 8000)")
    one.add_argument("--replicas", type=_positive, default=1, help="processes (default 1)")
    one.add_argument(
        "--queue", type=_positive, default=256, help="requests that may wait (default 256)"
    )
    one.add_argument(
        "--no-analysis", action="store_true", help="rank at once, without a written analysis"
    )


def _path(text: str) -> str:
    try:
        return expanded(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _positive(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {MOST:,}")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; give a number from 1 to 65535")
    return int(text)


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


def _unknown(word: str, arguments: argparse.Namespace) -> str:
    """What is said of a word that the command does not take."""
    words = {"command", "overrides", "words"}  # which are no options
    options = [f"--{name.replace('_', '-')}" for name in vars(arguments) if name not in words]
    near = difflib.get_close_matches(word.partition("=")[0], options, n=1)
    way_out = f"did you mean {near[0]}?" if near else f"see minirec {arguments.command} --help"
    return f"{arguments.command} takes no {word}; {way_out}"


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse; overrides may stand anywhere after the command, also between options."""
    top = parser()
    arguments, rest = top.parse_known_args(argv)
    strange = [word for word in rest if word.startswith("-") or "=" not in word]
    if strange or (rest and not hasattr(arguments, "overrides")):
        top.error(_unknown((strange or rest)[0], arguments))
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
                run = "; of a run, write selection.budget=N" if name == "budget" else ""
                top.error(f"--{name} needs --features{run}")
    return arguments
