"""A farm's store: where machines leave works and results for each other.

It is a folder, or anything else that fsspec opens:

    CALL/open                  as long as the class is not done
    CALL/works/HASH.tar        what a student handed in, as it is graded
    CALL/started/JOB/...       an empty file for each time that a machine began the job
    CALL/results/JOB           what it came to

CALL stands for one grade book, so that two classes never meet in one store.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from grader.classroom.job import Outcome
from grader.classroom.work import Work
from grader.errors import LabFault, UsageError
from grader.submission import ARCHIVES, Submission

NAME = re.compile(r"[0-9a-f]{16,64}(\.[a-z0-9.]+)?")


class Store:
    """An open store. Files appear in it whole or not at all."""

    def __init__(self, url: str) -> None:
        """Open the store at `url`: a folder, s3://BUCKET/FOLDER, or another of fsspec's.

        Raises:
            UsageError: nothing can be kept there.
        """
        self.url = url
        try:
            # Other machines write too: what a listing said a moment ago may be wrong.
            self._files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
            self._root = root.rstrip("/")
            self._make(self._root)
        except ImportError:
            scheme = url.partition("://")[0]
            raise UsageError("store_needs", url=url, extra=scheme) from None
        except Exception as error:
            # Each kind of store has errors of its own.
            raise UsageError("store_unusable", url=url, error=_words(error)) from None

    def probe(self) -> None:
        """Make sure that files can be written, read and removed.

        Raises:
            LabFault: they can't.
        """
        name = f"probe-{uuid.uuid4().hex}"
        self.write(name, b"x")
        self.read(name)
        self.remove(name)

    def call(self, name: str) -> Shelf:
        """Return the shelf of one grade book."""
        if not NAME.fullmatch(name):
            raise LabFault("farm_message", error=repr(name[:80]))
        return Shelf(self, name)

    @contextlib.contextmanager
    def _saying(self, known: type[Exception] = LabFault) -> Iterator[None]:
        """Turn the errors of any kind of store into the lab's, except what the caller knows."""
        try:
            yield
        except known:
            raise
        except Exception as error:
            raise LabFault("store_failed", url=self.url, error=_words(error)) from error

    def write(self, place: str, blob: bytes | Path) -> None:
        """Write a file; whoever reads it meanwhile finds all of it or nothing."""
        with self._saying():
            path = f"{self._root}/{place}"
            self._make(path.rpartition("/")[0])
            with self._files.transaction, self._files.open(path, "wb") as file:
                if isinstance(blob, bytes):
                    file.write(blob)
                else:
                    with blob.open("rb") as source:
                        while chunk := source.read(2**20):
                            file.write(chunk)

    def _make(self, folder: str) -> None:
        """Make a folder where there are any: a bucket has none, and is not made by a slip."""
        if isinstance(self._files, LocalFileSystem):
            self._files.makedirs(folder, exist_ok=True)

    def read(self, place: str) -> bytes:
        """Return a file's bytes; FileNotFoundError if there is none."""
        with self._saying(FileNotFoundError):
            return bytes(self._files.cat_file(f"{self._root}/{place}"))

    def has(self, place: str) -> bool:
        """Whether there is such a file."""
        with self._saying():
            return bool(self._files.exists(f"{self._root}/{place}"))

    def names(self, folder: str) -> list[str]:
        """Return the names of the files in a folder; of one that is not there, none."""
        with contextlib.suppress(FileNotFoundError), self._saying(FileNotFoundError):
            found = self._files.ls(f"{self._root}/{folder}", detail=False)
            return [str(path).rstrip("/").rpartition("/")[2] for path in found]
        return []

    def remove(self, place: str) -> None:
        """Remove a file, or a folder with all in it, if it is there."""
        with contextlib.suppress(FileNotFoundError), self._saying(FileNotFoundError):
            self._files.rm(f"{self._root}/{place}", recursive=True)


class Shelf:
    """What one grade book keeps in a store."""

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name

    def open(self) -> None:
        """Say that the class is waiting for results."""
        self.store.write(f"{self.name}/open", b"")

    def is_open(self) -> bool:
        """Whether anybody is waiting for results: after a class its messages mean nothing."""
        return self.store.has(f"{self.name}/open")

    def put(self, work: Work, folder: Path) -> str:
        """Lay a work on the shelf and return its name there: the hash of what it holds.

        Args:
            folder: an empty folder for the time being.

        Raises:
            BadSubmission: there is nothing that could be graded.
        """
        parcel, ending = _parcel(work.lay(folder / "work"), folder)
        with parcel.open("rb") as file:
            name = hashlib.file_digest(file, "sha256").hexdigest() + ending
        if not self.store.has(f"{self.name}/works/{name}"):
            self.store.write(f"{self.name}/works/{name}", parcel)
        return name

    def fetch(self, name: str, to: Path) -> Submission:
        """Put the work of that name into the new folder `to`; it is what it was when it was put.

        Raises:
            LabFault: it is not there, or not what was put there.
        """
        try:
            blob = self.store.read(f"{self.name}/works/{name}")
        except FileNotFoundError:
            raise LabFault("store_lacks", url=self.store.url, name=name) from None
        if hashlib.sha256(blob).hexdigest() != name.partition(".")[0]:
            raise LabFault("store_lacks", url=self.store.url, name=name)
        to.mkdir(parents=True)
        (to / f"work{name[64:]}").write_bytes(blob)
        return Submission.at(to / f"work{name[64:]}")

    def begin(self, job: str) -> int:
        """Note that a machine begins a job, and return how often that has happened."""
        self.store.write(f"{self.name}/started/{job}/{uuid.uuid4().hex}", b"")
        return len(self.store.names(f"{self.name}/started/{job}"))

    def finish(self, job: str, outcome: Outcome) -> None:
        """Leave what a job came to."""
        self.store.write(f"{self.name}/results/{job}", outcome.packed())

    def finished(self, job: str) -> bool:
        """Whether the job's result is there."""
        return self.store.has(f"{self.name}/results/{job}")

    def results(self) -> list[str]:
        """Return the jobs whose results are there."""
        return self.store.names(f"{self.name}/results")

    def take(self, job: str) -> Outcome:
        """Return what a job came to.

        Raises:
            LabFault: what lies there is no result.
        """
        try:
            return Outcome.unpacked(self.store.read(f"{self.name}/results/{job}"))
        except LabFault:
            raise
        except Exception as error:
            raise LabFault("store_failed", url=self.store.url, error=_words(error)) from error

    def forget(self, job: str) -> None:
        """Remove a job's result: it is in the grade book."""
        self.store.remove(f"{self.name}/results/{job}")
        self.store.remove(f"{self.name}/started/{job}")

    def clear(self) -> None:
        """Remove everything of this grade book."""
        self.store.remove(self.name)


def _parcel(submission: Submission, folder: Path) -> tuple[Path, str]:
    """Return one file that holds a submission, and how its name ends."""
    if submission.path.is_file():
        name = submission.path.name.lower()
        return submission.path, next(end for end in ARCHIVES if name.endswith(end))
    folder.mkdir(parents=True, exist_ok=True)
    parcel = folder / "parcel.tar"
    with tarfile.open(parcel, "w") as archive:
        for file in submission.files():
            # Only names and contents are graded: the same work has the same hash on any day.
            plain = tarfile.TarInfo(str(file.relative_to(submission.path)))
            plain.size = file.stat().st_size
            with file.open("rb") as content:
                archive.addfile(plain, content)
    return parcel, ".tar"


def _words(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
