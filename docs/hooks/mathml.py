"""Formulas between dollar signs become MathML while the pages are built, so that a reader's browser needs no script."""

import re
from xml.etree.ElementTree import Element

from latex2mathml.converter import convert_to_element
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority

FORMULA = r"(?<![\\$])(\$\$?)(?=[^\s$])((?:\\.|[^\\$])+?)(?<=\S)\1(?![\d$])"
"""$…$ in a line of text, $$…$$ on a line of its own; a dollar sign before a blank, or escaped, is only a sign."""
BELOW_CODE = 185
"""Priority among Markdown's patterns: after code between backticks, before backslashes and emphasis."""


class Formula(InlineProcessor):
    """A formula in LaTeX, in the middle of a paragraph or not."""

    def handleMatch(self, m: re.Match[str], data: str) -> tuple[Element, int, int]:  # noqa: N802 — Markdown's name
        display = "block" if m[1] == "$$" else "inline"
        return convert_to_element(m[2].strip(), display=display), m.start(0), m.end(0)


class Formulas(Extension):
    """The extension for Markdown."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802 — Markdown's name
        md.inlinePatterns.register(Formula(FORMULA, md), "formula", BELOW_CODE)


@event_priority(100)  # before mkdocstrings takes over the list of extensions
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the extension, for the pages and for the docstrings in them."""
    config.markdown_extensions.append(Formulas())  # type: ignore[arg-type]
    return config
