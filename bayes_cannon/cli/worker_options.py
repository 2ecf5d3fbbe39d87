"""Options of commands whose work on a store may be done by other processes."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from bayes_cannon.execution import DaskExecutor


def worker_options(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options --workers and --scheduler, of processes that do this."""

    def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
        scheduler = click.option("--scheduler", metavar="ADDRESS", help=f"Dask scheduler whose workers {what}.")
        workers = click.option("--workers", type=click.IntRange(1), help=f"Processes of this computer that {what}.")
        return workers(scheduler(function))

    return decorated


def check_workers(workers: int | None, scheduler: str | None) -> bool:
    """Whether other processes are to work; an error where both say which."""
    if workers is not None and scheduler is not None:
        raise click.UsageError("--workers makes processes here, and --scheduler has its own: give one of them")
    return workers is not None or scheduler is not None


def executor_of(workers: int | None, scheduler: str | None) -> "AbstractContextManager[DaskExecutor | None]":
    """The processes, or None for this one."""
    from bayes_cannon.execution import DaskExecutor  # With it comes JAX.

    return DaskExecutor(workers=workers, address=scheduler) if check_workers(workers, scheduler) else nullcontext()
