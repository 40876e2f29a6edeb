"""Reports as self-contained HTML pages."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any

from sparsecc.errors import UserError
from sparsecc.report import table

if TYPE_CHECKING:
    from sparsecc.report.base import Report
    from sparsecc.report.sensitivity import SensitivityReport


def page(report: Report) -> str:
    """The page's text. Names from the model are escaped; nothing is loaded from elsewhere."""
    rows = [(site, table.cells(site)) for site in report.sites]
    return rendered("page.html.jinja", report=report, columns=table.columns(), rows=rows, summary=table.summary(report), cost=table.cost)


def sensitivity_page(report: SensitivityReport) -> str:
    """As `page`; the picture is in it where there are curves and matplotlib is installed."""
    from sparsecc.report.curves import picture

    try:
        drawn = b64encode(picture(report)).decode()
    except UserError:
        drawn = ""  # the table says it all
    return rendered("sensitivity.html.jinja", report=report, picture=drawn)


def rendered(template: str, **values: Any) -> str:
    """A template of this folder, filled."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sparsecc.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(**values)
