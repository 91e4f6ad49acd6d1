"""Numbers are kept on one line: no break around ± or before a percent sign."""

from typing import Any

NO_BREAK = "\u00a0"


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Put blanks there that do not break."""
    return html.replace(" ± ", f"{NO_BREAK}±{NO_BREAK}").replace(" %", f"{NO_BREAK}%")
