"""The project that each test of grader/containers changes in one place."""

from functools import partial

import pytest

from tests.containers.plain import write


@pytest.fixture
def make(tmp_path):
    """Write a project's files into the test's own folder and load it."""
    return partial(write, tmp_path)
