"""The command line ``bayes-cannon``: one file a command, each of which parses, calls and prints."""

from importlib import import_module


def __getattr__(name: str) -> object:
    """``main`` on first use (PEP 562)."""
    if name == "main":
        return import_module("bayes_cannon.cli.group").main
    raise AttributeError(f"module 'bayes_cannon.cli' has no attribute {name!r}")
