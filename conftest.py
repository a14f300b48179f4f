"""Loads the lab's pytest plugin, so that plain `pytest exercises/1_2` works."""

pytest_plugins = ["grader.plugin"]
