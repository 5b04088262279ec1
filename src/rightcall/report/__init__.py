"""A run folder → one self-contained HTML page.

    write_report(load_run("runs/demo"), "runs/demo/report.html")

The page makes no request of any kind (a content security policy forbids it), shows all model text
escaped, and needs no script except for filtering chains. What a run lacks is shown as missing.

    data.py   the run folder read into `RunData`
    plots.py  figures as inline SVG, coloured by the page's own style sheet
    text.py   text from models and files, bounded and without invisible characters
    page.py   what the page shows, and the template it is put into
"""

from __future__ import annotations

from rightcall.report.data import RunData, TaskData, load_run
from rightcall.report.page import render_report, write_report

__all__ = ["RunData", "TaskData", "load_run", "render_report", "write_report"]
