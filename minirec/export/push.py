"""Copies an exported folder to the Hugging Face hub, an object store or another folder."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from minirec.errors import ArtifactError, ConfigError
from minirec.store.files import atomic_dir, manifest
from minirec.store.remote import expanded, explained, located

CONNECT_S, ANSWER_S = 10.0, 120.0
"""Deadlines for a connection to the hub, and for each of its answers."""
NAME = re.compile(r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?")
Kind = Literal["dataset", "model"]


@dataclass(frozen=True)
class Target:
    """Where an export goes: `repository`, NAME/NAME on the hub, or else `folder`."""

    repository: str | None
    folder: Path | None


def target_of(text: str) -> Target:
    """The target that a text names.

    hf://USER/NAME and USER/NAME are repositories of the hub. A path that starts with /, ./, ../ or
    ~, or has no slash or several, and an address of an object store, are folders.

    Raises:
        ConfigError: it is neither, or USER is a folder here, so that USER/NAME could be both.
    """
    rest = text.removeprefix("hf://")
    user, _, name = rest.partition("/")
    fits = all(NAME.fullmatch(part) and ".." not in part for part in (user, name))
    if rest != text and not fits:
        raise ConfigError(f"--push {text} is no repository of the hub; write hf://USER/NAME")
    if rest == text and fits and Path(user).exists():
        raise ConfigError(
            f"--push {text} may be a folder or a repository; write ./{text} or hf://{text}"
        )
    if fits:
        return Target(rest, None)
    try:
        return Target(None, located(expanded(text)))
    except ValueError as error:
        raise ConfigError(f"--push: {error}") from None


def is_export(folder: Path) -> bool:
    """Whether a folder is an export of MiniRec: by its manifest, and by a file that each has."""
    try:
        found = manifest(folder)
    except ArtifactError:  # it is damaged
        found = None
    return found is not None and "README.md" in found


def check(target: Target, *, overwrite: bool, public: bool) -> None:
    """Refuse a push that cannot work, before anything is written. Asks nothing of the network.

    Raises:
        ConfigError: there is no token for the hub, or `public` is given with a folder.
        ArtifactError: the folder is not an export, or exists without `overwrite`.
    """
    if target.folder is not None:
        if public:
            raise ConfigError("--public is for repositories of the hub; leave it out")
        with explained(target.folder):
            there = target.folder.exists()
            export = there and is_export(target.folder)
        if there and not overwrite:
            raise ArtifactError(f"{target.folder} exists; give another --push, or --overwrite")
        if there and not export:
            raise ArtifactError(
                f"{target.folder} is not an export, so it is not replaced; give another --push"
            )
        return
    from huggingface_hub import get_token

    if get_token() is None:
        raise ConfigError(
            "--push has no token for the Hugging Face hub; log in with `hf auth login`, or set "
            "HF_TOKEN to a token with the right to write"
        )


def push(
    folder: Path,
    target: Target,
    *,
    kind: Kind,
    public: bool = False,
    endpoint: str | None = None,
    connect_s: float = CONNECT_S,
    answer_s: float = ANSWER_S,
) -> str:
    """Copy a finished export, which stays as it is; returns the address of the copy.

    The hub gets all files in one commit, so a failed push leaves the repository as it was. Files of
    the repository that the export does not have stay.

    Args:
        kind: of the repository.
        public: whether a new repository is public.
        endpoint: address of the hub; default: that of `huggingface_hub`, which HF_ENDPOINT sets.
        connect_s, answer_s: deadlines for a connection to the hub, and for each of its answers.

    Raises:
        ArtifactError: the hub or the store refuses or cannot be reached, or the repository is
            public and `public` is not given.
    """
    if target.folder is not None:
        _copy(folder, target.folder)
        return str(target.folder)
    name = str(target.repository)
    with _deadlines(connect_s, answer_s), _named(folder, name, kind, public=public):
        return _commit(folder, name, kind=kind, public=public, endpoint=endpoint)


def _copy(folder: Path, to: Path) -> None:
    try:
        with explained(to), atomic_dir(to) as work:
            shutil.copytree(folder, work, dirs_exist_ok=True)
    except ArtifactError as error:
        raise ArtifactError(f"{error}; {folder} is complete") from error


def _commit(folder: Path, name: str, *, kind: Kind, public: bool, endpoint: str | None) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(endpoint=endpoint)
    api.whoami()  # a wrong token is refused here with 401; later the same status says "not found"
    url = api.create_repo(name, repo_type=kind, private=not public, exist_ok=True)
    if not public and api.repo_info(name, repo_type=kind).private is False:
        raise ArtifactError(
            f"the {kind} {name} exists on the hub and is public, so nothing was pushed; give "
            f"--public, or another --push; {folder} is complete"
        )
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    operations = [
        CommitOperationAdd(path_in_repo=path.relative_to(folder).as_posix(), path_or_fileobj=path)
        for path in files
    ]
    api.create_commit(name, operations, commit_message="Export of MiniRec", repo_type=kind)
    return str(url)


@contextmanager
def _deadlines(connect_s: float, answer_s: float) -> Iterator[None]:
    """Requests to the hub end; those of `huggingface_hub` may wait forever."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    def client() -> Any:
        one = default_client_factory()
        one.timeout = (connect_s, answer_s, answer_s, None)
        return one

    set_client_factory(client)
    try:
        yield
    finally:
        set_client_factory(default_client_factory)


@contextmanager
def _named(folder: Path, name: str, kind: Kind, *, public: bool) -> Iterator[None]:
    """Turn an error of the hub into one sentence that says how to push again."""
    from huggingface_hub import errors

    command = f"hf upload {name} {folder} . --repo-type {kind}"
    again = f"{folder} is complete; then run `{command}{'' if public else ' --private'}`"
    try:
        yield
    except errors.LocalTokenNotFoundError:
        raise ArtifactError(
            f"there is no token for the Hugging Face hub; log in with `hf auth login`; {again}"
        ) from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            what = "does not know the token; log in with `hf auth login`, or correct HF_TOKEN"
        elif status == 403:
            what = f"does not let this token write to the {kind} {name}; use one with that right"
        else:
            said = error.server_message or error.response.reason_phrase
            what = f"answered {status} ({said}); try later"
        raise ArtifactError(f"the Hugging Face hub {what}; {again}") from error
    except (errors.HTTPError, OSError, RuntimeError, ValueError) as error:
        cause = error.__cause__ or error
        raise ArtifactError(
            f"the push to the Hugging Face hub failed ({type(cause).__name__}: {cause}); connect "
            f"the machine; {again}"
        ) from error
