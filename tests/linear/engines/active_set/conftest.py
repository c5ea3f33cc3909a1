"""What tests of the active-set engine begin with."""

import pytest

from l1jax.linear.engines.active_set._options import OPTIONS


@pytest.fixture
def no_help(monkeypatch):
    """The active-set engine must do it all."""

    def help(*_, **__):
        raise AssertionError("the active-set engine left something short of the tolerance")

    monkeypatch.setattr("l1jax.linear.engines._gradient_engines.solve_best", help)


@pytest.fixture
def small_working_sets(monkeypatch):
    """Working sets are smaller than the problem, so that columns must be found outside of them."""
    monkeypatch.setattr(OPTIONS, "max_columns", 0)
    monkeypatch.setattr(OPTIONS, "min_candidates", 2)
