"""Docstrings: every public name has an example (which pytest's `--doctest-modules` runs)."""

import inspect

import pytest

import jaxplain as jxp

PUBLIC = [
    name
    for name, member in vars(jxp).items()
    if callable(member)
    and not name.startswith("_")
    and not (inspect.isclass(member) and issubclass(member, Exception))
]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example(name):
    assert ">>>" in inspect.getdoc(getattr(jxp, name))
