"""What the suite promises of itself."""

import pytest


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [("no data here", "failed"), ("no papers' weights at ../shared/papers", "skipped")],
)
def test_a_clone_skips_nothing_else(pytester, request, reason, outcome):
    """Whether one test asks for it or a module."""
    pytester.makeconftest((request.config.rootpath / "conftest.py").read_text())
    pytester.makepyfile(
        test_one=f'import pytest\ndef test_it():\n    pytest.skip("{reason}")',
        test_module=f'import pytest\npytest.skip("{reason}", allow_module_level=True)',
    )
    module_outcome = outcome.replace("failed", "errors")
    for module, kind in (("test_one", outcome), ("test_module", module_outcome)):
        result = pytester.runpytest_inprocess("-p", "no:cacheprovider", f"{module}.py")
        result.assert_outcomes(**{kind: 1})
