"""How a command reports errors and warnings: one line each on standard error, a traceback only on request."""

import functools
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

_log = logging.getLogger(__name__)
_LIBRARY_WORDS = {
    "pass overwrite=True": "pass --overwrite",
    "by write(..., include_training_set_spectra=True)": "by write(..., include_training_set_spectra=True) and by "
    "bayes-cannon train --with-spectra",
    "sample with keep_draws=True": "sample with --keep-draws",
    "call calibrate() again": "run bayes-cannon calibrate with a model that sample --write-model wrote",
}
"""Remedies as the library words them, and the same on the command line."""


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Add ``--debug`` and ``--log`` to a command, and make its errors and warnings messages of one line."""

    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @click.option(
        "--log", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
        help="File to which messages are added: what is done, how long it takes, warnings and errors.",
    )  # fmt: skip
    @functools.wraps(function)
    def reported(*args: Any, debug: bool, log: Path | None, **kwargs: Any) -> None:
        with _one_line_warnings():
            try:
                with _logged(log, kwargs):
                    function(*args, **kwargs)
            except click.ClickException:
                raise
            except Exception as error:
                if debug:
                    raise
                raise click.ClickException(_one_line(error)) from error

    return reported


def path_argument(name: str, **options: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Argument that is a path; whoever reads it reports that it does not exist."""
    return click.argument(name, type=click.Path(path_type=Path), **options)


overwrite_option = click.option("--overwrite", is_flag=True, help="Replace files that exist.")
quiet_option = click.option("--quiet", "-q", is_flag=True, help="No progress bars, no tables.")


@contextmanager
def _logged(path: Path | None, options: dict[str, Any]) -> Iterator[None]:
    """Messages of the package, and how the command began and ended, at the end of a file."""
    if path is None:
        yield
        return
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    package = logging.getLogger("bayes_cannon")
    level = package.level
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    name, start = click.get_current_context().info_name, time.monotonic()
    given = ", ".join(f"{name}={value}" for name, value in options.items() if value not in (None, (), False))
    try:
        _log.info("bayes-cannon %s %s: %s", version("bayes-cannon"), name, given)
        yield
        _log.info("%s ended after %.1f s", name, time.monotonic() - start)
    except Exception as error:
        _log.error("%s failed after %.1f s: %s", name, time.monotonic() - start, error, exc_info=True)
        raise
    finally:
        package.removeHandler(handler)
        package.setLevel(level)
        handler.close()


@contextmanager
def _one_line_warnings() -> Any:
    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        click.echo(f"Warning: {_plain(str(message))}", err=True)
        _log.warning("%s", _plain(str(message)))

    # Which warnings are shown stays as it is; only how they look is changed.
    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{os.fspath(error.filename)}: {error.strerror}"
    else:
        text = _plain(str(error))
    if isinstance(error, ValueError | TypeError | OSError | ImportError) and text:
        return text
    return f"{type(error).__name__}: {text or 'no message'} (unexpected; run again with --debug for the traceback)"


def _plain(text: str) -> str:
    for library, command_line in _LIBRARY_WORDS.items():
        text = text.replace(library, command_line)
    return " ".join(text.split())
