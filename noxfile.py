#!/usr/bin/env -S uv run --script
# /// script
# dependencies = ["nox>=2025.10.14"]
# ///
"""The checks by name, for those who use nox: uvx nox --list. The commands and the environment are those of .ci/run."""

import nox

nox.needs_version = ">=2025.10.14"
nox.options.default_venv_backend = "none"  # `uv run` has the environment


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format and import layers."""
    session.run("uv", "run", "ruff", "check")
    session.run("uv", "run", "ruff", "format", "--check")
    session.run("uv", "run", "lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of the package."""
    session.run("uv", "run", "mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests; what follows -- goes to pytest."""
    session.run("uv", "run", "pytest", *session.posargs)


@nox.session(default=False)
def lowest(session: nox.Session) -> None:
    """Run a selection of the tests with the oldest dependencies that are allowed."""
    session.run("bash", ".ci/lowest", *session.posargs, external=True)


if __name__ == "__main__":
    nox.main()
