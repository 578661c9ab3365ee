"""What holds for all tests."""

import warnings
from collections.abc import Generator

import pytest

_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """A test that has failed leaves servers open; uvloop's loop must be able to close them.

    A warning that is an error keeps it from that, and it waits for them for ever, in C.
    """
    if _FAILED in item.stash:
        warnings.simplefilter("ignore", ResourceWarning)
    return (yield)
