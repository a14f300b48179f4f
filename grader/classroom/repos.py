"""Work in a git repository, read without git: a stranger's repository can name commands to run."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from dulwich.objects import Blob, Commit, ObjectID, Tree
from dulwich.refs import Ref
from dulwich.repo import Repo

from grader.errors import BadSubmission
from grader.submission import LEFT_OUT, MAX_BYTES, MAX_DEPTH, MAX_FILES

MAX_COMMITS = 10_000


def is_repository(folder: Path) -> bool:
    """Whether the folder is a clone or bare; a `.git` that is a file or a link is neither."""
    git = folder / ".git"
    if git.is_dir() and not git.is_symlink() and (git / "HEAD").is_file():
        return True
    # "refs" can be empty, and is there all the same.
    return (folder / "HEAD").is_file() and all((folder / n).is_dir() for n in ("objects", "refs"))


def pick(
    folder: Path, ref: str = "", deadline: datetime | None = None
) -> tuple[str, datetime, int]:
    """Return the commit to grade, when it was made, and how many later ones are left out.

    Args:
        ref: a branch, tag or commit; what is checked out, if empty.
        deadline: the newest commit that is not later is taken, all are if None. A commit's time is
            what its author's computer said.

    Raises:
        BadSubmission: no such branch, no commit in time, or a repository that can't be read.
    """
    with _opened(folder) as repository:
        later = 0
        walker = repository.get_walker(include=[_head(repository, ref)], max_entries=MAX_COMMITS)
        for entry in walker:
            made = datetime.fromtimestamp(entry.commit.commit_time, UTC)
            if deadline is None or made <= deadline:
                return entry.commit.id.decode(), made, later
            later += 1
    raise BadSubmission("repository_late", path=folder, later=later)


def listing(folder: Path, commit: str) -> list[str]:
    """Return the names of a commit's files.

    Raises:
        BadSubmission: too many, or a repository that can't be read.
    """
    with _opened(folder) as repository:
        return [str(name) for name, _ in islice(_of(repository, commit), MAX_FILES)]


def export(folder: Path, commit: str, to: Path) -> Path:
    """Write the files of a commit below `to` and return it; links and submodules are left out.

    Raises:
        BadSubmission: too much of it, or a repository that can't be read.
    """
    with _opened(folder) as repository:
        size = 0
        for count, (name, blob) in enumerate(_of(repository, commit), 1):
            size += blob.raw_length()
            if count > MAX_FILES or size > MAX_BYTES:
                limits = {"files": MAX_FILES, "size": MAX_BYTES // 2**20}
                raise BadSubmission("submission_too_big", path=folder, **limits)
            target = to / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(blob.as_raw_string())
    to.mkdir(exist_ok=True)
    return to


@contextmanager
def _opened(folder: Path) -> Iterator[Repo]:
    try:
        with Repo(str(folder)) as repository:
            yield repository
    except BadSubmission:
        raise
    except Exception as error:
        # What is broken in a repository shows in a dozen kinds of error.
        words = str(error).partition("\n")[0] or type(error).__name__
        raise BadSubmission("repository_broken", path=folder, error=words) from None


def _head(repository: Repo, ref: str) -> ObjectID:
    if not ref:
        return repository.head()
    refs, objects = repository.refs.as_dict(), repository.object_store
    for name in (f"refs/heads/{ref}", f"refs/remotes/origin/{ref}", f"refs/tags/{ref}"):
        if found := refs.get(Ref(name.encode())):
            return found
    if len(ref) == 40 and (commit := ObjectID(ref.encode())) in objects:
        return commit
    raise BadSubmission("repository_ref", path=repository.path, ref=ref)


def _of(repository: Repo, commit: str) -> Iterator[tuple[Path, Blob]]:
    found = repository[ObjectID(commit.encode())]
    assert isinstance(found, Commit)
    return _files(repository, found.tree)


def _files(repository: Repo, tree: ObjectID, depth: int = 1) -> Iterator[tuple[Path, Blob]]:
    if depth > MAX_DEPTH:
        raise BadSubmission("submission_too_deep", path=repository.path)
    found = repository[tree]
    assert isinstance(found, Tree)
    for entry in found.iteritems():
        name = entry.path.decode("utf-8", "surrogateescape")
        if name in LEFT_OUT or name in ("", ".", "..") or "/" in name:
            continue
        if stat.S_ISDIR(entry.mode):
            inner = _files(repository, entry.sha, depth + 1)
            yield from ((name / path, blob) for path, blob in inner)
        elif stat.S_ISREG(entry.mode):
            blob = repository[entry.sha]
            assert isinstance(blob, Blob)
            yield Path(name), blob
