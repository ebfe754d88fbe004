"""The functions of `minirec` that run a pipeline, and what a run directory holds.

`minirec` shows them as `minirec.run`, `minirec.compare` and `minirec.RunResults`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.arguments import EXPORTS
from jobs.checked import run_stages, run_trials
from minirec.config.reading import configured, load
from minirec.config.run import Config
from minirec.config.section import plain_number
from minirec.errors import ArtifactError, ConfigError
from minirec.store.files import read_json
from minirec.store.run import Run
from minirec.store.tables import read_table

if TYPE_CHECKING:
    import pandas as pd

    from actors.serving.recommender import Recommender

Settings = str | Path | Mapping[str, Any] | Config
History = str | Sequence[str]


def run(config: Settings | None = None, *, overwrite: bool = False, **overrides: Any) -> RunResults:
    """Run all stages of the pipeline, as `minirec run` does.

    It prints what the stages print, without the tables at the end; `RunResults.report` has them.
    Finished stages are skipped, so the same call continues after an interruption. Ray is started
    for the call and ended after it. Without `config` the defaults hold, also for a run directory
    that has a config.yaml: give that file, or `RunResults.config`, to go on with its settings.

    Args:
        config: path of a YAML file, a dict of settings, or a `Config`; None takes the defaults.
        overwrite: redo stages that were made with other settings.
        **overrides: other values: ``run_dir="runs/mine"``, ``selection={"budget": 0.2}``, or a
            dotted key as ``**{"training.steps": 20}``.

    Raises:
        ConfigError: a setting is unknown, has a wrong type, or cannot work.
        ArtifactError: a stage was made with other settings, or another command uses the directory.
        CorpusError: the files cannot become a corpus.
    """
    settings = configured(config, overrides)
    run_stages(settings, "run", overwrite=overwrite)
    return RunResults(settings.run_dir)


def compare(
    config: Settings | None = None, *, overwrite: bool = False, **overrides: Any
) -> RunResults:
    """Compare selection methods at equal cost over seeds, as `minirec compare` does.

    Arguments and errors are those of `run`. `RunResults.trials` has the figures.
    """
    settings = configured(config, overrides)
    run_trials(settings, "compare", overwrite=overwrite)
    return RunResults(settings.run_dir)


class RunResults:
    """What a run directory holds. It starts no process and changes nothing, except for `export`.

    Attributes:
        config: the settings of the run.
    """

    def __init__(self, run_dir: str | Path):
        """`run_dir`: of a run that has begun; else `ArtifactError` is raised."""
        self._run = Run(run_dir)
        path = self._run.path("config.yaml")
        if not path.exists():
            raise ArtifactError(
                f"{self._run.root} is not a run directory; give the run_dir of a run that has begun"
            )
        self.config: Config = load(path)
        self._loaded: tuple[Any, Recommender] | None = None

    def __repr__(self) -> str:
        return f"RunResults({str(self._run.root)!r})"

    def path(self, *parts: str) -> Path:
        """The path of a file in the run directory, such as ``path("report.html")``."""
        return self._run.path(*parts)

    def report(self) -> dict[str, Any]:
        """The figures of the run; what has not been made yet is None.

        Returns:
            ``headline``: where the trained policy stands beside the best reference.
            ``evaluation``: the content of ``evaluation.json``; ``["policies"][name][split]`` holds
            the metrics, and NDCG@10 with its 95% interval. ``cost``: by stage, with ``seconds``,
            ``rollouts``, ``generated_tokens``, ``optimizer_steps``. ``selection``: the numbers
            of ``samples`` in the train split, of ``chosen`` ones, and of distinct ``trained``
            ones (at most as many as the steps had prompts). ``choosing``: what choosing
            them cost, in sentences. ``html``: the path of ``report.html``.
        """
        from minirec.evaluation.choosing import choosing
        from minirec.evaluation.headline import headline

        done = self._run.done
        evaluation = read_json(self.path("evaluation.json")) if done("evaluate") else None
        found = choosing(self._run, self.config) if done("train") else None
        selection = None
        if found is not None:
            rows = read_table(self.path("selection.parquet"), ["sample_id"]).num_rows
            selection = {"chosen": rows, "trained": found.distinct, "samples": found.samples}
        return {
            "headline": headline(evaluation) if evaluation else None,
            "evaluation": evaluation,
            "cost": {row["stage"]: row for row in self._run.costs()},
            "selection": selection,
            "choosing": found.sentences() if found else None,
            "html": self.path("report.html") if done("report") else None,
        }

    def selection(self) -> pd.DataFrame:
        """The chosen samples in training order.

        Returns:
            The columns of ``selection.parquet``, then ``user``, ``history`` (titles, oldest
            first) and ``target`` (a title).

        Raises:
            ArtifactError: nothing has been chosen yet.
        """
        chooses = "train" if self.config.selection.mode == "live" else "select"
        self._needs(chooses)
        corpus = self.path("corpus")
        table = read_table(self.path("selection.parquet")).to_pandas()
        columns = ["sample_id", "user", "history", "target"]
        samples = read_table(corpus / "train.parquet", columns).to_pandas().set_index("sample_id")
        chosen = samples.loc[table["sample_id"]]
        titles = self._items()["title"].to_numpy()
        table["user"] = chosen["user"].to_numpy()
        table["history"] = [titles[list(items)].tolist() for items in chosen["history"]]
        table["target"] = titles[chosen["target"].to_numpy()]
        return table

    def trials(self) -> pd.DataFrame:
        """The trials of `compare`, a row each: method, budget, seed, cost, NDCG@10 on valid and
        test, and the other columns of ``trials.parquet``.

        Raises:
            ArtifactError: the run directory has no comparison.
        """
        from minirec.trials.trial import FOLDERS

        path = self.path(FOLDERS["compare"], "trials.parquet")
        if not path.exists():
            raise ArtifactError(f"{path} is missing; call minirec.compare with this run_dir first")
        return read_table(path).to_pandas()

    def recommend(
        self,
        histories: History | Sequence[History] | None = None,
        *,
        users: Sequence[Any] | None = None,
        k: int = 10,
        analysis: bool = True,
    ) -> pd.DataFrame:
        """The best `k` items for histories, or for users of the corpus. Ray is not started.

        Args:
            histories: one text with titles or item keys between commas, oldest first; or a list
                of histories, each such a text or a list of titles or keys.
            users: ids of the corpus, instead of histories; the history is all that the corpus
                knows of a user, up to ``corpus.history`` events.
            k: items for each.
            analysis: whether the policy writes an analysis before it ranks.

        Returns:
            A row for each recommended item: ``history`` (number of the history, from 0) or
            ``user``, ``rank`` from 1, ``item`` (its key), ``title``, ``cosine``, and ``score`` if
            the policy has a prior. Items of the history are never recommended.

        Raises:
            ConfigError: a title, key or user is unknown, or a title is ambiguous.
            ArtifactError: the run has not been trained and evaluated.
        """
        import pandas as pd

        if (histories is None) == (users is None):
            raise ConfigError("give either histories or users")
        k = _count("k", k)
        self._needs("train")
        if users is None:
            name, whom = "history", None
            ids = self._histories(_listed("histories", histories, single=str))
        else:
            name, whom = "user", _listed("users", users, single=str | Integral)
            ids = self._of_users(whom)
        keys = self._items()["key"].to_numpy()
        recommender = self._recommender(analysis=analysis)
        found = recommender.recommend(ids, top=[k] * len(ids))
        columns = [name, "rank", "item", "title", "cosine"]
        columns += ["score"] if recommender.prior is not None else []
        rows = []
        for number, one in enumerate(found):
            of = number if whom is None else whom[number]
            for at, item in enumerate(one.items):
                row = [of, at + 1, keys[item], recommender.titles[item], one.cosines[at]]
                rows.append(row if one.scores is None else [*row, one.scores[at]])
        return pd.DataFrame(rows, columns=columns)

    def export(self, to: str, out: str | Path, *, overwrite: bool = False) -> Path:
        """Write the subset or the policy in the format of other software, as `minirec export`.

        Args:
            to: ``jsonl``, ``datasets``, ``trl``, ``trl-dpo``, ``verl`` or ``openrlhf`` for the
                subset; ``adapter`` or ``merged`` for the policy.
            out: the folder to write.
            overwrite: replace the folder.

        Returns:
            The folder.

        Raises:
            ConfigError: `to` is unknown, or does not fit the run.
            ArtifactError: `out` exists or is no export, or a stage has not finished.
        """
        if to not in EXPORTS:
            raise ConfigError(f"to is {to!r}; give one of {', '.join(EXPORTS)}")
        from jobs.handover.export import export

        export(str(self._run.root), to, Path(out), overwrite=overwrite)
        return Path(out)

    def _needs(self, stage: str) -> None:
        if self._run.done(stage) is None:
            raise ArtifactError(
                f"{self._run.root} has not finished {stage}; call minirec.run with its settings"
            )

    def _items(self) -> pd.DataFrame:
        return read_table(self.path("corpus", "items.parquet"), ["key", "title"]).to_pandas()

    def _histories(self, histories: Sequence[History]) -> list[list[int]]:
        from jobs.handover.recommend import find_titles
        from minirec.corpus.table import load_catalogue

        catalogue = load_catalogue(self.path("corpus"))
        keys = self._items()["key"].tolist()
        found = []
        for history in histories:
            parts = [history] if isinstance(history, str) else [str(part) for part in history]
            if not parts:
                raise ConfigError("a history is empty; give titles or item keys, oldest first")
            found.append([i for part in parts for i in find_titles(part, catalogue, keys)])
        return found

    def _of_users(self, users: Sequence[Any]) -> list[list[int]]:
        known = self._latest()
        for user in users:
            if str(user) not in known:
                raise ConfigError(
                    f"user {user!r} is not in the corpus, which has users such as "
                    f"{next(iter(known), None)!r}; give the history of a new user instead"
                )
        return [known[str(user)] for user in users]

    def _latest(self) -> dict[str, list[int]]:
        """The last events of each user, oldest first."""
        tails = self.path("corpus", "tails.parquet")
        if tails.exists():
            table = read_table(tails, ["user", "history"])
            return dict(zip(table["user"].to_pylist(), table["history"].to_pylist(), strict=True))
        # The demo generator writes no tails. The last target ends the history of its user.
        last: dict[str, tuple[int, list[int]]] = {}
        for split in ("train", "valid", "test"):
            path = self.path("corpus", f"{split}.parquet")
            for row in read_table(path, ["user", "history", "target", "time"]).to_pylist():
                if row["user"] not in last or row["time"] >= last[row["user"]][0]:
                    events = [*row["history"], row["target"]][-self.config.corpus.history :]
                    last[row["user"]] = row["time"], events
        return {user: events for user, (_, events) in last.items()}

    def _recommender(self, *, analysis: bool) -> Recommender:
        """The recommender; it is loaded again only if the run has changed."""
        from jobs.handover.recommend import local_spec

        spec = local_spec(self._run, self.config, analysis=analysis)
        state = (spec, self._run.fingerprint("evaluate"))
        if self._loaded is None or self._loaded[0] != state or spec.refreshed:
            from actors.serving.recommender import Recommender

            self._loaded = state, Recommender(spec)
        return self._loaded[1]


def _count(name: str, value: Any) -> int:
    number = plain_number(value)
    if type(number) is not int or number < 1:
        raise ConfigError(f"{name} is {value!r}; give a number of items, 1 or more")
    return number


def _listed(name: str, values: Any, *, single: Any) -> list[Any]:
    """The values of a list, an array or a column; of one value of the type `single`, itself."""
    if isinstance(values, single):
        return [values]
    if not isinstance(values, Iterable):
        raise ConfigError(f"{name} is {values!r}; give a list")
    return [*values]
