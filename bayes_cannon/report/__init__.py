"""A page about a model, its validation or labelled stars: one HTML file to send by e-mail, which Jupyter shows too.

``tc.report(model)`` makes it, as does ``bayes-cannon report``. It needs the extra ``bayes-cannon[report]``.
"""

import sys
from types import ModuleType
from typing import Any

from bayes_cannon.report.making import report
from bayes_cannon.report.page import Report
from bayes_cannon.report.sections import SECTIONS
from bayes_cannon.report.subject import Subject

__all__ = ["SECTIONS", "Report", "Subject", "report"]


class _CallableModule(ModuleType):
    """``bayes_cannon.report`` is this folder and, because users call it by that name, the function in it."""

    def __call__(self, *args: Any, **keywords: Any) -> Report:
        """As `report`."""
        return report(*args, **keywords)


sys.modules[__name__].__class__ = _CallableModule
