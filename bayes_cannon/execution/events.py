"""What happens while shards are worked on, one record a time; progress bars, logs and summaries are made of these."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class ShardDone:
    """A shard is written.

    Attributes
    ----------
    shard, size
        Its number, and how many stars it has; of a training its block of pixels, and how many they are.
    seconds
        From its reading, or where it was read ahead from when it was waited for, to its writing.
    memory
        Peak memory so far of the process that did it, in bytes; 0 where the system does not tell.
    worker
        That process, as text.

    """

    shard: int
    size: int
    seconds: float
    memory: int
    worker: str


@dataclass(frozen=True)
class ShardFailed:
    """A try of a shard ended with an error.

    Attributes
    ----------
    shard
        Its number.
    error
        The error as text.
    attempt
        Which try it was, from 1 on.
    is_last
        Whether it is not tried again.

    """

    shard: int
    error: str
    attempt: int
    is_last: bool


@dataclass(frozen=True)
class RunFinished:
    """Nothing is left to do, or to be tried.

    Attributes
    ----------
    shards, size
        How many were done by this run, and how many stars, or pixels, they have.
    seconds
        How long it took.
    memory
        Largest peak memory of a process, in bytes.
    failed
        The last error by shard, of those that are not done although they were tried.

    """

    shards: int
    size: int
    seconds: float
    memory: int
    failed: Mapping[int, Exception]


Event = ShardDone | ShardFailed | RunFinished
