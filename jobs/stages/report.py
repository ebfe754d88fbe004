"""`minirec report`: one HTML page about the selection, its cost and its quality."""

from __future__ import annotations

from jobs.stage import Stage, Work
from minirec.store.files import atomic


def _body(work: Work) -> None:
    from minirec.evaluation.report import render

    run = work.run
    html = render(run.root)
    with atomic(run.path("report.html")) as file:
        file.write(html.encode())
    run.say(f"report: {run.path('report.html')}, {len(html) / 1e6:.1f} MB")


REPORT = Stage(
    name="report",
    help="write report.html",
    inputs=lambda config: [
        "prepare",
        *(["score"] if config.scores else []),
        *(["select"] if config.selection.mode == "static" else []),
        "train",
        "evaluate",
    ],
    outputs=("report.html",),
    settings=lambda run, config: {},
    body=_body,
)
