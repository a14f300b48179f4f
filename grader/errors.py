"""Every error the grader raises on purpose.

    LabError
    ├── UsageError            the call was wrong                  exit status 2
    │   ├── BadSubmission     nothing there that could be graded
    │   └── BadExercise       an exercise.toml that is broken
    ├── LabFault              the lab's own failure               exit status 3, verdict `unknown`
    │   ├── NoBroker          a broker that was asked for is not to be had
    │   └── NoSpace           the temporary folder is full
    └── SubmissionFault       the student's processes misbehave   verdict `failed`
        ├── WorkerDied        the worker ended before it was told to
        ├── WorkerSilent      the worker runs but never takes a task
        └── ClientFailed      a client process of the submission failed
            └── ClientSilent  it runs, but gives no answer in time

Each one holds a `Text`: what was found, what was wanted, what to type next, in both languages.
"""

from __future__ import annotations

from grader.words import Text


class LabError(Exception):
    """The root of all errors that a user may see.

    Args:
        key: the sentence's key in sentences/*.toml.
        fields: what the sentence's placeholders stand for.
    """

    exit_status = 3

    def __init__(self, key: str, /, **fields: object) -> None:
        self.text = Text.of(key, **fields)
        super().__init__(self.text.render("en"))


class UsageError(LabError):
    """The call was wrong: a path, an option or an exercise that does not exist."""

    exit_status = 2


class BadSubmission(UsageError):
    """A submission that can't be graded at all: missing, empty, a file, unreadable."""


class BadExercise(UsageError):
    """An exercise.toml that is broken; the sentence names the file and the key."""


class LabFault(LabError):
    """The lab failed; a verdict that needed it is `unknown`, never a lost point."""


class NoBroker(LabFault):
    """A broker was asked for and no provider can give one."""


class NoSpace(LabFault):
    """The temporary folder has no room left."""


class SubmissionFault(LabError):
    """The submission's own processes failed; the criterion that met it first is `failed`."""

    exit_status = 1


class WorkerDied(SubmissionFault):
    """The worker process ended before it was told to."""


class WorkerSilent(SubmissionFault):
    """The worker process runs but takes no task."""


class ClientFailed(SubmissionFault):
    """A client process of the submission failed, for example at import."""


class ClientSilent(ClientFailed):
    """A client process of the submission runs, but gives no answer in time."""
