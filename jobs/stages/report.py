"""`minirec report`: one HTML file that shows what was kept, why, its cost and its worth."""

from __future__ import annotations

from minirec.config.run import Config
from minirec.evaluation.report import render
from minirec.store.files import atomic
from minirec.store.run import Cost, Run


def report(run: Run, config: Config) -> bool:
    """Write ``report.html``; returns False if it is there for the same run already."""

    def body(cost: Cost) -> None:
        html = render(run.root)
        with atomic(run.path("report.html")) as file:
            file.write(html.encode())
        run.say(f"report: {run.path('report.html')}, {len(html) / 1e6:.1f} MB")

    return run.stage(
        "report",
        settings={},
        inputs=["prepare", "score", "select", "train", "evaluate"],
        outputs=["report.html"],
        body=body,
    )
