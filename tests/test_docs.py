"""The documentation: pages made of the source are complete, the site stands alone, and the notebook runs."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import nbclient
import nbformat
import pyarrow as pa
import pytest
import yaml

from core import columns

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SCHEMAS = {name: schema for name, schema in vars(columns).items() if isinstance(schema, pa.Schema)}


def hook(name: str) -> ModuleType:
    """Return a hook of the site, which is a file and in no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / "hooks" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_columns_has_every_column_of_every_file_in_order() -> None:
    text = hook("columns").on_page_markdown((DOCS / "files.md").read_text(encoding="utf-8"), page=None)
    sections = text.split("\n### ")[1:]
    assert len(sections) == len(SCHEMAS) > 4
    for section, schema in zip(sections, SCHEMAS.values(), strict=True):
        assert re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE) == schema.names


def test_the_page_of_columns_says_what_a_row_and_a_column_is() -> None:
    text = hook("columns").on_page_markdown("<!-- columns -->", page=None)
    assert "| `salience_threshold` | float | the salience at which that force changes sign (R2) |" in text
    assert (
        re.findall(r"^\| `(\w+)` \| [\w, ]+ \|  \|$", text.split("### table.parquet, of the screen")[0], re.MULTILINE)
        == []
    )
    assert "### trace.parquet\n\nOne row per (arm, recorded step)." in text
    assert "\n### table.parquet, of the screen\n" in text


def test_the_recipes_name_files_that_are_there() -> None:
    text = (DOCS / "how-to-add.md").read_text(encoding="utf-8") + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:core|theory|empirical|paper_figs|tests|docs)/[\w/.-]+)`", text))
    assert len(named) > 20
    placeholders = {name for name in named if "NAME" in name}
    assert [name for name in sorted(named - placeholders) if not (ROOT / name).exists()] == []


def test_published_numbers_are_all_on_their_page() -> None:
    text = hook("published").on_page_markdown("<!-- published -->", page=None)
    rows = hook("published").SOURCE.read_text(encoding="utf-8").splitlines()
    assert len(text.splitlines()) == len(rows) + 1


def test_the_citation_has_the_project_s_version_and_cites_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["version"] == project["version"]
    assert citation["title"].startswith(project["name"])
    assert [one["value"] for one in citation["references"][0]["identifiers"]] == ["arXiv:2406.14785"]


def test_the_quickstart_has_no_outputs_in_the_repository_and_runs() -> None:
    notebook = nbformat.read(DOCS / "quickstart.ipynb", 4)
    assert all(not cell.get("outputs") for cell in notebook.cells)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT)}})
    client.execute()
    text = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert re.search(r"bottom +predicted 0\.\d+, measured 0\.\d+", text)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The site, built: warnings, broken links and missing anchors among them, are errors."""
    pytest.importorskip("mkdocs", reason="the tools for the documentation are missing: make docs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    yield folder


def test_no_page_needs_the_network(site: Path) -> None:
    # What a browser would fetch by itself; links that a reader may follow are something else.
    fetched = r"<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc=[\"']?(?:https?:)?//"
    fetched += r"|<link\b(?![^>]*\brel=[\"']?(?:canonical|prev|next))[^>]*\bhref=[\"']?(?:https?:)?//"
    in_styles = r"(?:url\(|@import)\s*[\"']?(?:https?:)?//"
    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    styles = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.css")}
    assert len(pages) > 20 and styles
    assert [path.name for path, text in pages.items() if re.search(f"{fetched}|{in_styles}", text)] == []
    assert [path.name for path, text in styles.items() if re.search(in_styles, text)] == []


def test_every_figure_of_the_gallery_is_among_the_results(site: Path) -> None:
    text = (site / "results.html").read_text(encoding="utf-8")
    figures = [path.name for path in (ROOT / "paper_figs" / "gallery").glob("*.png")]
    assert figures and [name for name in figures if f'src="gallery/{name}"' not in text] == []
    assert all((site / "gallery" / name).exists() for name in figures)


@pytest.mark.parametrize("result", [f"R{i}" for i in range(1, 9)])
def test_every_result_has_its_derivation_with_formulas(site: Path, result: str) -> None:
    text = (site / "theory.html").read_text(encoding="utf-8")
    section = re.split(r"<h[23] ", text.split(f">{result}: ")[-1])[0]
    assert 'id="theory.law.' in section
    assert "<math" in section


def test_no_formula_is_left_as_source(site: Path) -> None:
    for path in site.rglob("*.html"):
        text = re.sub(r"<(pre|code|script|style|math)\b.*?</\1>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert not re.search(r"\$[^$\n]*\\[a-z]+|\\(?:alpha|frac|mathrm|sum)\b", text), path.name


def test_every_module_is_on_the_map_and_has_a_page(site: Path) -> None:
    modules = [path for top in ("core", "theory", "empirical") for path in (ROOT / top).rglob("*.py")]
    pages = "".join(path.read_text(encoding="utf-8") for path in [*site.glob("api/*.html"), site / "theory.html"])
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in modules if path.name[0] != "_"]
    assert [name for name in names if not re.search(rf'id="{re.escape(name)}["\.]', pages)] == []
