"""The examples in the docstrings are true."""

import doctest
import importlib
import pkgutil

import pytest

import validation

MODULES = [f"validation.{module.name}" for module in pkgutil.iter_modules(validation.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_every_example_in_a_docstring_gives_what_it_says(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_every_public_statistic_has_an_example() -> None:
    statistics = importlib.import_module("validation.statistics")
    functions = [
        value
        for name, value in vars(statistics).items()
        if getattr(value, "__module__", "") == statistics.__name__ and not name.startswith("_")
    ]
    assert len(functions) == 8
    assert all(">>>" in function.__doc__ for function in functions)
