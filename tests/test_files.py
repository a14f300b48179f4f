"""grader/files.py, grader/target.py: what a submission may have put in a file's place."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing

import pytest

from grader import files
from grader.errors import SubmissionFault
from grader.files import bounded, content, opened, writable
from grader.target import Target

VIEW = """
CREATE VIEW loaded_records AS
WITH RECURSIVE count(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM count)
SELECT x AS run_id, x AS source, x AS id, x AS value, x AS cents FROM count WHERE x < 0
"""


def pipe(path):
    os.mkfifo(path)


def link(path):
    path.symlink_to("/etc/hostname")


ODD = pytest.mark.parametrize("put", [pipe, link, os.mkdir], ids=["pipe", "link", "folder"])


@pytest.fixture
def target(tmp_path):
    """A target that is not there yet."""
    return Target(tmp_path / "target.db")


@ODD
def test_what_is_no_plain_file_is_not_opened(tmp_path, put):
    """A pipe, a link or a folder has no content, and nobody waits for one."""
    path = tmp_path / "odd"
    put(path)

    assert content(path) is None
    with opened(path) as file:
        assert file is None
    with pytest.raises(SubmissionFault, match="odd is no plain file"), writable(path):
        pass


@ODD
def test_an_odd_target_has_no_rows(target, put):
    """Whoever replaced the target has loaded nothing, and holds nobody up."""
    put(target.target)

    assert target.rows() == []
    assert not target.lockable
    with pytest.raises(SubmissionFault), target.locked():
        pass
    with pytest.raises(SubmissionFault):
        target.refuse("x")


def test_a_view_without_an_end_is_given_up(target, monkeypatch):
    """A query that never ends is ended, and a table takes the view's place."""
    monkeypatch.setattr(files, "QUERY_SECONDS", 0.1)
    with closing(sqlite3.connect(target.target)) as db:
        db.execute(VIEW)

    assert target.rows() == []
    target.refuse("x")
    with closing(sqlite3.connect(target.target)) as db, pytest.raises(sqlite3.IntegrityError):
        db.execute("INSERT INTO loaded_records (id) VALUES ('x')")


def test_a_query_brings_no_more_than_can_be_kept(monkeypatch):
    """A value too long is an error, and so is more than can be kept of shorter ones."""
    monkeypatch.setattr(files, "MOST_BYTES", 1000)
    with closing(sqlite3.connect(":memory:")) as db:
        assert bounded(db, "VALUES (1), (2), (3), (4)") == [(1,), (2,), (3,), (4,)]
        for query in ("SELECT zeroblob(2000000)", "VALUES (zeroblob(600)), (zeroblob(600))"):
            with pytest.raises(sqlite3.DatabaseError):
                bounded(db, query)


def test_what_was_loaded_is_read(target):
    """An ordinary target has its rows, those of some sources if asked."""
    target.refuse("")
    with closing(sqlite3.connect(target.target)) as db, db:
        db.executemany(
            "INSERT INTO loaded_records VALUES ('r', ?, ?, 1, 100)", [("a", "1"), ("b", "2")]
        )

    assert len(target.rows()) == 2
    assert target.rows({"b"}) == [("r", "b", "2", 1, 100)]
    with target.locked():
        pass
