"""What holds for all tests."""

import warnings
from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """A test that has failed leaves servers open; uvloop's loop must be able to close them.

    A warning that is an error keeps it from that, and it waits for them for ever, in C.
    """
    if item.session.testsfailed:
        warnings.simplefilter("ignore", ResourceWarning)
    return (yield)
