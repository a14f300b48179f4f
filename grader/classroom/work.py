"""One piece of work out of a class: whose it is, where its files lie, when it was handed in."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from grader.classroom.repos import export
from grader.errors import BadSubmission
from grader.home import no_space
from grader.submission import Submission, unpack


@dataclass(frozen=True)
class Piece:
    """A file or folder of somebody's work.

    With a `name` it is put under that name beside the others; without one it is the whole work, a
    folder or an archive as it is.
    """

    path: Path
    name: str = ""


@dataclass(frozen=True)
class Work:
    """What one student, or one group, handed in for one exercise.

    Args:
        student: the key under which the grade book knows them.
        pieces: where the files lie; at least one.
        exercise: the exercise's id, "" as long as it is not known.
        also: other names of the same student in this export, for the roster.
        at: when it was handed in, None where nothing says so.
        late: whether it was, None where nothing says so.
        inside: the folder in it that holds the exercise's work, "" for all of it.
        commit: of a git repository, the commit that is graded.
        remark: what an instructor should know of how it was found.
    """

    student: str
    pieces: tuple[Piece, ...]
    exercise: str = ""
    also: tuple[str, ...] = ()
    at: datetime | None = None
    late: bool | None = None
    inside: str = ""
    commit: str = ""
    remark: str = ""

    @property
    def whole(self) -> Path | None:
        """The folder or archive that is the work as it is, None where files are put together."""
        first = self.pieces[0]
        return first.path if len(self.pieces) == 1 and not first.name else None

    @property
    def shown(self) -> str:
        """Where it lies, in a few words."""
        rest = f" +{len(self.pieces) - 1}" if len(self.pieces) > 1 else ""
        return f"{self.pieces[0].path}{rest}"

    def due(self, deadline: datetime | None) -> Work:
        """Return the work, marked late where its time says so."""
        if self.late is None and deadline and self.at:
            return replace(self, late=self.at > deadline)
        return self

    def lay(self, to: Path) -> Submission:
        """Return the work as a submission; what has to be put together is put into the folder `to`.

        Raises:
            BadSubmission: it is gone, or can't be read.
            LabFault: there is no space for it.
        """
        try:
            return Submission.at(self._whole_in(to) / self.inside)
        except FileNotFoundError as error:
            raise BadSubmission("submission_missing", path=error.filename) from None
        except PermissionError as error:
            raise BadSubmission("submission_unreadable", path=error.filename) from None
        except OSError as error:
            raise no_space(error, to) from error

    def _whole_in(self, to: Path) -> Path:
        whole = self.whole
        if self.commit:
            return export(self.pieces[0].path, self.commit, to)
        if whole is None:
            return self._join(to)
        if self.inside and not whole.is_dir():
            unpack(whole, to)
            return to
        return whole

    def _join(self, to: Path) -> Path:
        for piece in self.pieces:
            target = to / piece.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(piece.path, target, follow_symlinks=False)
        return to

    def digest(self) -> str:
        """Return a hash of what will be graded.

        Raises:
            BadSubmission: it is gone, or can't be read.
        """
        if self.commit:
            return f"git:{self.commit}:{self.inside}"
        if self.whole and self.whole.is_dir():
            return Submission.at(self.whole / self.inside).digest()
        found = hashlib.sha256(self.inside.encode())
        for piece in sorted(self.pieces, key=lambda p: p.name):
            with piece.path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            found.update(f"{piece.name}\0{content}\0".encode("utf-8", "surrogateescape"))
        return found.hexdigest()
