"""Settings whose values name functions: rewards, selection methods, curricula, sources and others.

The functions of a setting are in one table, e.g. ``METHODS`` in `minirec.selection.baselines`. To
add a choice, write the function there and add it to the table. The key is the value of the setting.
``minirec settings`` prints the first line of the docstring.

The table is read from the source text, since its module may load torch or scipy, and settings must
be checked without these.
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
        table: name of the table, a dict literal from names to functions of the module. ``@K`` at
            the end of a name means any whole number above 0, e.g. ``hit@10``.
        first: names that are not in the table, with their meaning.
        without: names of the table that this setting refuses.
        own: whether a user's function ``package.module:function`` is allowed.
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
        """Return `name`; raise `ValueError` with the nearest name if it is unknown."""
        own = is_own(name)
        names = [*self.meanings(), *([OWN] if self.own else [])]
        if (_key(name) in names and not name.endswith("@K")) or (self.own and own):
            return name
        near = difflib.get_close_matches(name, names, n=1)
        meant = f"did you mean {near[0].replace('@K', '@10')}? " if near else ""
        raise ValueError(
            f"{name!r} is unknown; {meant}choose {', '.join(names[:-1])} or {names[-1]}"
        )

    def find(self, name: str) -> Callable[..., Any]:
        """The function of a name; raises `ConfigError` if a user's function cannot be imported."""
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


def is_own(name: str) -> bool:
    """Whether a name can be ``package.module:function``."""
    module, colon, function = name.partition(":")
    return bool(colon) and all(map(str.isidentifier, [*module.split("."), function]))


def _key(name: str) -> str:
    """``hit@K`` for ``hit@10``, other names unchanged."""
    stem, at, number = name.partition("@")
    return f"{stem}@K" if at and number.isdecimal() and not number.startswith("0") else name


@cache
def _entries(module: str, table: str) -> dict[str, str]:
    """Keys of a table with the first docstring line of their functions, from the source text."""
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
        raise LookupError(f"{ast.unparse(value)} in a table is not a function of its module")
    return texts[value.id]


REWARDS = Choices("reward.name", "minirec.rl.reward", "REWARDS")
SOURCES = Choices(
    "corpus.source",
    "minirec.corpus.files.sources",
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
        "supervised": "The item loss at the forced answer on all samples, without rollouts.",
    },
    without=("full",),
    own=False,  # the names become those of folders
)
TOKEN_LOSSES = Choices(
    "training.loss",
    "minirec.rl.token_losses",
    "TOKEN_LOSSES",
    first={
        "dpo": "The best rollout of each prompt should gain on the worst, over a reference.",
        "contrastive": "Better rollouts of a prompt should be likelier than worse ones, by a "
        "margin.",
        "supervised": "No rollouts: the probability of the target right after the prompt is "
        "maximised.",
    },
)
JUDGES = Choices("reward.judge", "", "")  # has no names, only functions of the user
CANDIDATES = Choices("training.item_candidates", "minirec.rl.candidates", "CANDIDATES", own=False)
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
TokenLoss = Annotated[str, AfterValidator(TOKEN_LOSSES.check), TOKEN_LOSSES]
ItemCandidates = Annotated[str, AfterValidator(CANDIDATES.check), CANDIDATES]
Reference = Annotated[str, REFERENCES]  # also a variant, so `CompareConfig` checks it
