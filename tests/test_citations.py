"""Citations lead somewhere: to a heading of docs/method.md, or to a place in a paper as it is printed."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEADINGS = set(re.findall(r"^#+ (.+?) *$", (ROOT / "docs/method.md").read_text(encoding="utf-8"), re.MULTILINE))
SOURCES = sorted(
    path for folder in ("benchmarks", "guided_diffusion", "realnet") for path in (ROOT / folder).rglob("*.py")
)
PAGES = sorted([*ROOT.glob("*.py"), *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])
FILES_OF_NETWORKS = {"checkpoint", "extractors", "levels", "packages", "statistics", "weights"}
METHOD = [
    *(ROOT / "guided_diffusion").glob("*.py"),
    *(path for path in (ROOT / "realnet/models").glob("*.py") if path.stem not in FILES_OF_NETWORKS),
    ROOT / "realnet/anomalies/perlin.py",
    *(ROOT / "realnet/metrics").glob("*.py"),
]
"""The modules that compute the method."""

TO_HEADINGS = re.compile(r"docs/method\.md, ([^).;:\"]+)")
TO_PAPER = re.compile(r"\b(paper|ADM|DDPM|DDIM|PaDiM|PatchCore), (Eq\.|equations?|Alg\.|algorithm|Table|arXiv) \d")
NOWHERE = re.compile(r"\bmethod, sections?\b|\bmethod\.md, sections?\b|\bsections? \d", re.IGNORECASE)


def by_file(paths):
    return pytest.mark.parametrize("name", sorted(path.relative_to(ROOT).as_posix() for path in paths))


def text_of(name: str) -> str:
    """Return a file on one line, as citations run over the ends of lines; without the marks of comments."""
    return re.sub(r"\s*\n\s*(# )?", " ", (ROOT / name).read_text(encoding="utf-8"))


def cited_in(text: str) -> list[str]:
    return [heading.strip() for listed in TO_HEADINGS.findall(text) for heading in listed.split(",")]


def is_exempt(name: str, node: ast.stmt) -> bool:
    is_helper = name == "realnet/models/build.py" and not node.name.startswith("build_")
    return node.name.startswith("_") or is_helper


@pytest.mark.parametrize("name", [path.relative_to(ROOT).as_posix() for path in SOURCES])
def test_every_cited_heading_exists(name):
    assert not set(cited_in(text_of(name))) - HEADINGS


def test_citations_are_found_over_the_ends_of_lines_and_in_lists(tmp_path):
    (tmp_path / "a.py").write_text(
        '"""A (docs/method.md,\n    AFS, RRS)."""\n# b (paper, Eq. 4; docs/method.md, U-Net;\n# c)'
    )
    assert cited_in(text_of(str(tmp_path / "a.py"))) == ["AFS", "RRS", "U-Net"]
    assert sum(len(cited_in(text_of(str(path)))) for path in SOURCES) > 100


@by_file([*SOURCES, *PAGES])
def test_no_citation_leads_nowhere(name):
    assert not NOWHERE.search(text_of(name))


@by_file(METHOD)
def test_what_computes_the_method_cites_it(name):
    nodes = ast.parse((ROOT / name).read_text(encoding="utf-8")).body
    public = [n for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef) and not is_exempt(name, n)]
    docs = {node.name: " ".join((ast.get_docstring(node) or "").split()) for node in public}
    assert not [known for known, doc in docs.items() if not (cited_in(doc) or TO_PAPER.search(doc))]
