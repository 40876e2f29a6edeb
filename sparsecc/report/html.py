"""A report as one self-contained HTML page."""

from __future__ import annotations

from sparsecc.report import table
from sparsecc.report.base import Report


def page(report: Report) -> str:
    """The page's text. Names from the model are escaped; nothing is loaded from elsewhere."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sparsecc.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    rows = [(site, table.cells(site)) for site in report.sites]
    return environment.get_template("page.html.jinja").render(
        report=report, columns=table.columns(), rows=rows, summary=table.summary(report)
    )
