"""The pages name only settings, files and pages that exist."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from minirec.config.reading import load, valid_keys

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LAB = ROOT / "docs" / "lab"  # its older entries name settings that were tried and not kept
FILES = (".parquet", ".html", ".json", ".py")


def commands(page: Path) -> list[list[str]]:
    """Words of each `minirec` command in the code blocks of a page."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.S | re.M)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [
        shlex.split(line, comments=True)
        for line in lines
        if re.match(r"(\.venv/bin/)?minirec ", line)
    ]


def named(page: Path) -> set[str]:
    """All names that a page gives as code."""
    return set(re.findall(r"`([^`\n]+)`", page.read_text()))


def name_of(page: Path) -> str:
    """For the output of pytest."""
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_settings_of_commands_are_valid(page):
    for words in commands(page):
        overrides = [word for word in words if re.match(r"[a-z_.]+=", word)]
        config = words[words.index("--config") + 1] if "--config" in words else None
        config = None if config == "config.yaml" else config  # the reader's own
        load(ROOT / config if config else None, [word for word in overrides if "$" not in word])


@pytest.mark.parametrize("page", [p for p in PAGES if p.parent != LAB], ids=name_of)
def test_settings_named_in_the_text_exist(page):
    keys = valid_keys()
    sections = {key.split(".")[0] for key in keys if "." in key}
    known = {*keys, *(key.rpartition(".")[0] for key in keys)}
    known |= {"corpus.columns.order", "corpus.columns.event"}
    for name in named(page):
        found = re.match(r"([a-z_]+)\.[a-z_]+(\.[a-z_]+)*(?==|:|$)", name)
        if found and found[1] in sections and not name.endswith(FILES):
            assert found[0] in known, name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_and_links_exist(page):
    for name in named(page):
        if re.fullmatch(
            r"(minirec|actors|jobs|tests|docs|benchmarks|examples|configs)/[\w./-]*", name
        ):
            assert (ROOT / name).exists(), name
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text())
    for link in links:
        assert (page.parent / link).exists(), link
    for path in re.findall(r'^--8<-- "(.+)"$', page.read_text(), re.M):
        assert (ROOT / path).exists(), path


def test_every_page_is_in_the_navigation():
    class Loader(yaml.SafeLoader):
        """Takes the tags of mkdocs as plain values."""

    Loader.add_multi_constructor("!", lambda loader, suffix, node: None)
    site = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)

    def pages(tree):
        if isinstance(tree, str):
            return {tree}
        branches = tree.values() if isinstance(tree, dict) else tree
        return set().union(*map(pages, branches))

    docs = ROOT / "docs"
    assert pages(site["nav"]) == {str(p.relative_to(docs)) for p in docs.rglob("*.md")}


@pytest.mark.slow
def test_the_site_builds_and_loads_nothing_from_other_hosts(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    loads = r"<(?:script|link|img|iframe|source)[^>]* (?:src|href)=[\"']?((?:https?:)?//[^\"' >]+)"
    for page in tmp_path.rglob("*.html"):
        assert not re.findall(loads, page.read_text()), page
