"""Settings whose values name functions: rewards, selection methods, curricula, sources and so on.

The functions of a setting are in one table of one module, e.g. ``METHODS`` at the end of
`minirec.selection.baselines`. To add a choice, write the function there and add a line to the
table: its key is the value of the setting, and the first line of the function's docstring is the
meaning that ``minirec settings`` prints. Nothing else needs a change.

The names are read from the source text of the module, since these modules load torch or scipy, and
settings must be checked without.
"""

from __future__ import annotations

import ast
import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from minirec.errors import ConfigError

ROOT = Path(__file__).parents[2]
OWN = "package.module:function"


@dataclass(frozen=True)
class Choices:
    """The names that a setting takes.

    Attributes:
        setting: its key, for messages.
        module: module of the table.
        table: name of the table, a dict literal from names to functions of the module. A name that
            ends in ``@K`` stands for all names with a whole number above 0 there, e.g. ``hit@10``.
        first: names that are no function of the table, with their meaning.
        without: names of the table that this setting does not take.
        own: whether a function of the user is taken too, as ``package.module:function``.
    """

    setting: str
    module: str
    table: str
    first: dict[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    own: bool = True

    def meanings(self) -> dict[str, str]:
        """Each name with its meaning in one line."""
        found = self.first | _entries(self.module, self.table)
        return {name: text for name, text in found.items() if name not in self.without}

    def check(self, name: str) -> str:
        """The name itself.

        Raises:
            ValueError: it is unknown; the message has the nearest one, and all.
        """
        module, colon, function = name.partition(":")
        own = colon and all(map(str.isidentifier, [*module.split("."), function]))
        names = [*self.meanings(), *([OWN] if self.own else [])]
        if (_key(name) in names and not name.endswith("@K")) or (self.own and own):
            return name
        near = difflib.get_close_matches(name, names, n=1)
        meant = f"did you mean {near[0].replace('@K', '@10')}? " if near else ""
        raise ValueError(
            f"{name!r} is unknown; {meant}choose {', '.join(names[:-1])} or {names[-1]}"
        )

    def find(self, name: str) -> Callable[..., Any]:
        """The function of a name.

        Raises:
            ConfigError: a function of the user that cannot be imported.
        """
        module, colon, function = name.partition(":")
        if not colon:
            return getattr(importlib.import_module(self.module), self.table)[_key(name)]
        try:
            return getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"{self.setting}={name!r} cannot be imported: {error}; correct the name, or add "
                f"the folder of the module to PYTHONPATH"
            ) from None


def _key(name: str) -> str:
    """``hit@10`` -> ``hit@K``, other names as they are."""
    stem, at, number = name.partition("@")
    return f"{stem}@K" if at and number.isdecimal() and not number.startswith("0") else name


@cache
def _entries(module: str, table: str) -> dict[str, str]:
    """Keys of a table with the first docstring line of their functions, read from the source."""
    body = ast.parse(ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text("utf-8")).body
    texts = {
        node.name: (ast.get_docstring(node) or "").partition("\n")[0]
        for node in body
        if isinstance(node, ast.FunctionDef)
    }
    for node in body:
        target = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(target, ast.Name) and target.id == table:
            assert isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict)
            both = zip(node.value.keys, node.value.values, strict=True)
            return {ast.literal_eval(k): _meaning(v, texts) for k, v in both if k}
    raise LookupError(f"{module} has no table {table}: TYPE = {{...}}")


def _meaning(value: ast.expr, texts: dict[str, str]) -> str:
    if not isinstance(value, ast.Name) or value.id not in texts:
        raise LookupError(f"{ast.unparse(value)} in a table is no function of its module")
    return texts[value.id]


REWARDS = Choices("reward.name", "minirec.rl.reward", "REWARDS")
SOURCES = Choices(
    "corpus.source",
    "minirec.corpus.sources",
    "SOURCES",
    first={"demo": "A generated corpus with planted truth; no files are read."},
)
METHODS = Choices(
    "selection.method",
    "minirec.selection.baselines",
    "METHODS",
    first={"value": "The criteria of the paper: value, made diverse by MaxMin."},
)
LEARNABILITY = Choices("selection.learnability", "minirec.selection.pipeline", "LEARNABILITY")
SWEPT = replace(LEARNABILITY, setting="sweep.learnability", own=False)  # they name folders
CURRICULA = Choices("selection.curriculum", "minirec.selection.curriculum", "CURRICULA")
COMPARED = Choices(
    "compare.methods",
    METHODS.module,
    METHODS.table,
    first={
        "minirec": "The selection of the preset minirec.",
        "paper": "The selection of the preset paper.",
    },
    without=("full",),
    own=False,  # the names become those of folders
)
CANDIDATES = Choices("training.item_candidates", "minirec.rl.losses", "CANDIDATES", own=False)
REFERENCES = Choices(
    "compare.references", COMPARED.module, COMPARED.table, first=COMPARED.first, own=False
)

Reward = Annotated[str, AfterValidator(REWARDS.check), REWARDS]
Source = Annotated[str, AfterValidator(SOURCES.check), SOURCES]
Method = Annotated[str, AfterValidator(METHODS.check), METHODS]
Learnability = Annotated[str, AfterValidator(LEARNABILITY.check), LEARNABILITY]
Swept = Annotated[str, AfterValidator(SWEPT.check), SWEPT]
Curriculum = Annotated[str, AfterValidator(CURRICULA.check), CURRICULA]
Compared = Annotated[str, AfterValidator(COMPARED.check), COMPARED]
ItemCandidates = Annotated[str, AfterValidator(CANDIDATES.check), CANDIDATES]
Reference = Annotated[str, AfterValidator(REFERENCES.check), REFERENCES]
