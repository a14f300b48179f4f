"""Resource limits of a student's process, set before any line of the submission runs."""

import contextlib
import ctypes
import json
import os
import signal
import sys


def apply(text: str) -> None:
    """Set the limits in the JSON object `text`: resource.RLIMIT_* -> value, soft and hard."""
    with contextlib.suppress(ImportError):
        import resource

        for name, value in json.loads(text).items():
            # A system that knows no such limit, or has a lower one, goes without.
            with contextlib.suppress(AttributeError, ValueError, OSError):
                resource.setrlimit(getattr(resource, name), (value, value))
    _die_with_parent()


def _die_with_parent() -> None:
    """Ask Linux to kill this process when the one that started it dies (prctl, option 1)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def search_here() -> None:
    """Import the submission from the working directory, and nothing from this folder."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [os.getcwd(), *(p for p in sys.path if p and os.path.abspath(p) != here)]
    # The submission may have a module of this one's name.
    sys.modules.pop(__name__, None)
