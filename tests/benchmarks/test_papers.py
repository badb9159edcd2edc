"""What the original DeepLIFT package scores in its paper's experiments, from the same weights."""

import pytest

from benchmarks.papers import digit_conversion, genomics
from benchmarks.papers.settings import load
from tests.support.cases import PAPERS

if not PAPERS.exists():
    pytest.skip("no papers' weights at ../shared/papers", allow_module_level=True)
SLOW = {
    *("8->3/ig10", "8->3/ig5", "9->1/ig10", "9->1/ig5", "9->1/revealcancel"),
    *("8->3/simonyan_masked", "8->3/genomics_default", "9->1/genomics_default"),
}


def table():
    """Several passes each over a thousand digits take long."""
    return [
        pytest.param(*row.split("/"), expected, id=row, marks=[pytest.mark.slow] * (row in SLOW))
        for row, expected in load(PAPERS, "mnist_expected.json").items()
    ]


@pytest.fixture(scope="module")
def network():
    return digit_conversion.published(PAPERS)


@pytest.mark.promotes
@pytest.mark.parametrize(("conversion", "method", "expected"), table())
def test_digit_conversion(network, conversion, method, expected):
    """The drop in log-odds when the pixels that speak most for the first digit are erased."""
    digit, other = map(int, conversion.split("->"))
    (cell,) = digit_conversion.convert(method, network, None, {digit: (other,)})
    assert max(digit_conversion.differences([cell | {"expected": expected}])) < 1e-3


@pytest.mark.slow
def test_motifs_overlooked():
    """Strong motif instances of positive sequences that get no positive score: the whole table."""
    cells = genomics.as_published(PAPERS, lambda: None)
    assert len(cells) == len(load(PAPERS, "tal_gata_expected.json"))
    for cell in cells:
        assert [cell["missed"], cell["instances"]] == cell["expected"], cell
