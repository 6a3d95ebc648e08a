"""What the documents name exists."""

import pkgutil
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import occdistill

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page):
    named = set(
        re.findall(r"`((?:occdistill|tools|configs|tests|benchmarks)/[\w./-]*)`", page.read_text())
    )
    missing = [name for name in sorted(named) if not (ROOT / name).exists() and "my_" not in name]
    assert not missing
    if page.name == "architecture.md":
        assert len(named) > 40


def test_the_site_has_every_page_and_no_other():
    listed = set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert listed == pages


def test_the_api_page_documents_what_there_is():
    page = (ROOT / "docs" / "api.md").read_text()
    for name in re.findall(r"^::: ([\w.]+)$", page, re.MULTILINE):
        found = pkgutil.resolve_name(name)
        listed = page.partition(f"::: {name}\n")[2].partition(":::")[0]
        for member in re.findall(r"members: \[(.*)\]", listed):
            assert all(getattr(found, one).__doc__ for one in member.split(", "))


def test_the_architecture_page_has_every_package():
    page = (ROOT / "docs" / "architecture.md").read_text()
    packages = [p.parent.name for p in (ROOT / "occdistill").glob("*/__init__.py")]
    assert len(packages) > 10
    assert not [name for name in packages if f"`occdistill/{name}/`" not in page]


def test_a_new_method_is_found_by_its_file_alone():
    from occdistill.distill import methods

    stems = {p.stem for p in (ROOT / "occdistill" / "distill").glob("*.py")}
    found = {kind.__module__.rpartition(".")[2] for kind in methods().values()}
    assert {"mfd", "meanflow", "dmd2"} <= found <= stems


def test_one_version_one_licence():
    version = f"## {occdistill.__version__} "
    assert version in (ROOT / "CHANGELOG.md").read_text()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == occdistill.__version__
    assert len(citation["references"]) == 3
    assert all(one["authors"] and one["url"] for one in citation["references"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == citation["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")


def test_commits_are_checked_by_what_make_lint_runs():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    rule = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    ran = [
        line.split("$(BIN)/")[1].removesuffix(" .") for line in rule.splitlines() if "$(B" in line
    ]
    assert [hook["entry"] for hook in hooks] == ran
