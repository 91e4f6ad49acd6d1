"""The figures of `paper_figs/gallery`: the pages link to them there, and the site has them in a folder of its own."""

import ast
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
GALLERY = "paper_figs/gallery"
MARKER = "<!-- figures -->"


def figures() -> list[Path]:
    """Return the pictures, by number."""
    return sorted((ROOT / GALLERY).glob("fig*.png"), key=lambda path: int(re.findall(r"\d+", path.name)[0]))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every figure to the site."""
    for path in figures():
        files.append(File.generated(config, f"gallery/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put all figures where a page has the marker, and turn links into the repository into links into the site."""
    listed = markdown.replace(MARKER, "\n\n".join(map(_entry, figures())))
    return listed.replace(f"](../{GALLERY}/", "](gallery/")


def _entry(path: Path) -> str:
    """Return the figure below its command, with what the module that draws it says of it."""
    number = path.stem.partition("_")[0]
    source = (ROOT / "paper_figs" / path.stem).with_suffix(".py")
    shown = (ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
    return f"### {number}\n\n{shown} `python -m paper_figs --only {number}`\n\n![{shown}](../{GALLERY}/{path.name})"
