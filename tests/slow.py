"""Parameters of tests that `make test` leaves out."""

import pytest


def slow(*parameters):
    return pytest.param(*parameters, marks=pytest.mark.slow)
