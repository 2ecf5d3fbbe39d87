"""How work is run: threads, BLAS, the programs that JAX compiles, and shards of a store, here or on a cluster."""

from bayes_cannon.execution.dask_executor import DaskExecutor
from bayes_cannon.execution.events import Event, RunFinished, ShardDone, ShardFailed
from bayes_cannon.execution.shards import SerialExecutor

__all__ = ["DaskExecutor", "Event", "RunFinished", "SerialExecutor", "ShardDone", "ShardFailed"]
