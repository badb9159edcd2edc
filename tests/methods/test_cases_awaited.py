"""Every reference number is compared with, or waits for a method that is not written yet."""

import pytest

import jaxplain as jxp
from tests.support.cases import AWAITED, awaits, load_all


@pytest.mark.parametrize("name", sorted({n for names in AWAITED.values() for n in names.values()}))
@pytest.mark.xfail(strict=True, reason="not written yet: its reference numbers wait")
def test_awaited(name):
    """Fails once the method is there: its cases then leave AWAITED and are compared with."""
    assert hasattr(jxp, name)


def test_every_reason_has_cases():
    for file, names in AWAITED.items():
        assert set(names.values()) == {awaits(file, case) for case in load_all(file)} - {None}
