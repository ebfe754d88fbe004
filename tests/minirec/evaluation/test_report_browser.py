"""The report in a real browser: its table works, and a script in a title is text."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from helpers.live_run import make_live_run
from helpers.report_run import SAMPLES, config, make_run

from jobs.stages.report import REPORT
from jobs.stages.select import SELECT
from minirec.config.run import Config
from minirec.evaluation.report import render

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs chromium"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("report") / "run")
    SELECT.run(run, config(budget=6), None)
    REPORT.run(run, Config(), None)
    return run.path("report.html")


def opened(page, tmp_path, fragment=""):
    """The document after its scripts have run, and the console output.

    The page forbids itself every request, and the console names each that was tried.
    """
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    options += ["--disable-background-networking", "--disable-component-update", "--disable-quic"]
    options += [f"--user-data-dir={tmp_path / 'profile'}"]
    result = subprocess.run(
        [BROWSER, *options, "--enable-logging=stderr", "--dump-dom", f"{page.as_uri()}{fragment}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    return result.stdout, [line for line in result.stderr.splitlines() if "CONSOLE" in line]


def rows(dom):
    """Text of each cell of the table of samples."""
    body = re.search(r'<table id="table">.*?<tbody>(.*?)</tbody>', dom, re.DOTALL)[1]
    return [
        [re.sub("<[^>]+>", "", cell) for cell in re.findall(r"<td.*?>(.*?)</td>", row)]
        for row in re.findall(r"<tr>(.*?)</tr>", body)
    ]


def test_all_samples_are_listed_without_error_or_request(page, tmp_path):
    dom, said = opened(page, tmp_path)
    assert said == []
    found = rows(dom)
    assert len(found) == min(50, SAMPLES)
    assert [row[1] for row in found[:6]] == ["1", "2", "3", "4", "5", "6"]
    assert f"{SAMPLES} of {SAMPLES}" in dom


def test_a_search_and_a_fate_leave_what_fits(page, tmp_path):
    dom, said = opened(page, tmp_path, "#why=kept")
    assert said == []
    assert [row[2] for row in rows(dom)] == ["kept"] * 6
    dom, _ = opened(page, tmp_path, "#q=no-sample-has-this")
    assert rows(dom) == [] and f"0 of {SAMPLES}" in dom


def test_a_live_run_lists_its_samples_in_the_order_of_first_training(tmp_path):
    run = make_live_run(tmp_path / "run")
    path = run.path("report.html")
    path.write_text(render(run.root))
    dom, said = opened(path, tmp_path)
    assert said == []
    found = rows(dom)
    assert [row[0] for row in found[:5]] == ["0", "2", "4", "6", "10"]
    # Times trained and the first step are whole, lifts and rewards are not.
    assert found[0][4:6] == ["8", "1"] and found[0][6:9] == ["0.300", "0.200", "0.340"]
    assert found[25][1:3] == ["–", "not reached"] and found[25][4:] == ["0", *4 * ["–"]]


def test_a_script_in_a_title_is_text(page, tmp_path):
    dom, said = opened(page, tmp_path, "#q=script")
    assert said == []
    assert rows(dom), "the title is not found"
    assert "&lt;script&gt;" in dom


def test_the_console_would_name_a_request(page, tmp_path):
    """Without this the tests above could not fail."""
    broken = tmp_path / "broken.html"
    text = page.read_text().replace("<main>", '<main><img src="http://127.0.0.1:9/x.png">')
    broken.write_text(text)
    assert any("127.0.0.1:9" in line for line in opened(broken, tmp_path)[1])
