"""NumPyro is whole whatever was imported before, as ArviZ loads it lazily."""

import subprocess
import sys

import pytest

PROGRAM = """
{first}
import bayes_cannon.programs
import numpyro
assert numpyro.distributions.distribution.Unit and numpyro.infer.util.log_density and numpyro.infer.hmc.NUTS
"""


@pytest.mark.parametrize(
    "first",
    ["import arviz_base, numpyro.distributions", "import arviz_base, numpyro.infer", "import arviz_base"],
    ids=["distributions", "infer", "ArviZ"],
)
def test_its_packages_have_their_modules(first):
    ran = subprocess.run([sys.executable, "-c", PROGRAM.format(first=first)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
