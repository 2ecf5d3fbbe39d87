"""Progress is told to whom it is to be told, and to the log of the package."""

import logging
import warnings
from importlib.util import find_spec

import pytest

from bayes_cannon.core import progress
from bayes_cannon.core.progress import reporter


def test_a_function_hears_of_each_part_and_the_log_of_beginning_and_end(caplog):
    heard = []
    with caplog.at_level(logging.INFO, "bayes_cannon"), reporter(heard.append, 5, "star", "label") as report:
        report(2)
        report(3)
    assert heard == [2, 3]
    assert [record.name for record in caplog.records] == ["bayes_cannon.core.progress"] * 2
    assert caplog.messages == ["label, 5 stars", "label, 5 stars: done in 00:00"]


def test_once_a_minute_the_log_says_how_long_it_will_take(caplog, monkeypatch):
    now = iter([0.0, 30.0, 100.0, 100.0, 110.0, 120.0])
    monkeypatch.setattr(progress, "monotonic", lambda: next(now))
    with caplog.at_level(logging.INFO, "bayes_cannon"), reporter(None, 300, "pixel", "train") as report:
        report(30)
        report(70)  # After 100 seconds a third is done.
        report(200)
    assert caplog.messages[1:] == ["train, 300 pixels: 100 done, 03:20 left", "train, 300 pixels: done in 02:00"]


def test_what_was_finished_before_is_told_and_does_not_shorten_the_time_left(caplog, monkeypatch, capsys):
    now, heard = iter([0.0, 100.0, 100.0, 110.0]), []
    monkeypatch.setattr(progress, "monotonic", lambda: next(now))
    with caplog.at_level(logging.INFO, "bayes_cannon"):
        with reporter(heard.append, 300, "pixel", "train", before=100) as report:
            report(50)  # In 100 seconds, so that the other 150 take 300.
        assert caplog.messages[1] == "train, 300 pixels: 150 done, 05:00 left"
    assert heard == [100, 50]
    monkeypatch.undo()
    with reporter(True, 4, "pixel", "train", before=3):
        pass
    assert "75%" in capsys.readouterr().err


def test_a_bar_is_on_the_standard_error(capsys):
    with reporter(True, 4, "pixel", "train") as report:
        report(4)
    said = capsys.readouterr()
    assert said.out == ""
    assert "train: 100%" in said.err
    assert "4/4" in said.err
    with reporter(False, 4, "pixel", "train") as report:
        report(4)
    assert capsys.readouterr().err == ""


def test_work_that_fails_is_not_done(caplog):
    with caplog.at_level(logging.INFO, "bayes_cannon"), pytest.raises(ValueError, match="broken"):  # noqa: SIM117
        with reporter(None, 1, "star", "label"):
            raise ValueError("broken")
    assert caplog.messages == ["label, 1 star"]


@pytest.mark.skipif(find_spec("nbclient") is None, reason="nbclient is not installed")
def test_jupyter_shows_the_bar_without_a_warning():
    import nbformat
    from nbclient import NotebookClient

    code = (
        "import warnings; warnings.simplefilter('error')\n"
        "from bayes_cannon.core.progress import reporter\n"
        "with reporter(True, 3, 'star', 'label') as report:\n    report(3)"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of the client.
        NotebookClient(notebook, timeout=60).execute()
    outputs = notebook.cells[0].outputs
    assert {one["name"] for one in outputs} == {"stderr"}
    text = "".join(one["text"] for one in outputs)
    assert "label: 100%" in text
    assert "Warning" not in text
