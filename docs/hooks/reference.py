"""Pages made of docstrings: one for every package, and the derivations of R1 to R9 from the theory's own modules."""

import ast
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("core", "theory", "empirical")
DERIVATIONS = ("theory.law.theorem", "theory.law.flow", "theory.law.reversal", "theory.law.selection")
"""Modules whose functions are the page on the theory, and are therefore left out of the pages of packages."""
DERIVATION = re.compile(r"<!-- derivations: (R\d+) -->")
MAP = "<!-- modules -->"


def packages() -> dict[str, list[str]]:
    """Return every package with its public modules, itself first."""
    folders = [file.parent for top in PACKAGES for file in sorted((ROOT / top).rglob("__init__.py"))]
    return {_dotted(folder): [_dotted(folder), *_modules(folder)] for folder in sorted(folders)}


def derivations(result: str) -> list[str]:
    """Return the public functions of `DERIVATIONS` whose docstring's first paragraph names this result first."""
    return [
        f"{module}.{node.name}"
        for module in DERIVATIONS
        for node in ast.parse(_source(module)).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and result in _named(node)
    ]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the packages' pages to the navigation."""
    assert config.nav is not None
    config.nav.append({"API": [{name: _page(name)} for name in packages()]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the packages' pages."""
    for name, modules in packages().items():
        entries = [_entry(module, level=1 + (module != name)) for module in modules if module not in DERIVATIONS]
        files.append(File.generated(config, _page(name), content="\n\n".join(entries)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put a result's derivations, or the map of all modules, where a page has the marker."""
    derived = DERIVATION.sub(lambda m: "\n\n".join(_entry(name, level=4) for name in derivations(m[1])), markdown)
    return derived.replace(MAP, "\n\n".join(f"## {name}\n\n{_table(of)}" for name, of in packages().items()))


def _page(package: str) -> str:
    return f"api/{package}.md"


def _dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def _modules(folder: Path) -> list[str]:
    return [_dotted(path) for path in sorted(folder.glob("*.py")) if not path.name.startswith("_")]


def _source(module: str) -> str:
    folder = ROOT / module.replace(".", "/")
    file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    return file.read_text(encoding="utf-8")


def _named(function: ast.FunctionDef) -> list[str]:
    """Return the first result, such as R3, that the first paragraph of a function's docstring names."""
    return re.findall(r"\bR\d+\b", (ast.get_docstring(function) or "").split("\n\n")[0])[:1]


def _table(modules: list[str]) -> str:
    """Return a table of modules, each with the first sentence of its docstring."""
    rows = [f"| {_link(name)} | {_summary(name)} |" for name in modules]
    return "\n".join(["| module | what it is |", "|---|---|", *rows])


def _link(module: str) -> str:
    place = "(theory.md#the-results-and-their-derivations)" if module in DERIVATIONS else f"[{module}]"
    return f"[`{module.rpartition('.')[2]}`]{place}"


def _summary(module: str) -> str:
    text = (ast.get_docstring(ast.parse(_source(module))) or "").split("\n\n")[0]
    return " ".join(text.split()).replace("|", "&#124;")


def _entry(name: str, *, level: int) -> str:
    full = str(level < 3).lower()
    return f"::: {name}\n    options:\n      heading_level: {level}\n      show_root_full_path: {full}"
