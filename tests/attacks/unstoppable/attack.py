"""A process beside the worker starts a child that shares its memory and never gets going."""

import os
import tempfile

from attack_kit import is_worker, ran


def never():
    pipe = os.path.join(tempfile.mkdtemp(), "pipe")
    os.mkfifo(pipe)
    ran("in the kernel")
    # The system opens the pipe in the child, before its program: its parent waits for that.
    opened = (os.POSIX_SPAWN_OPEN, 0, pipe, os.O_RDONLY, 0)
    os.posix_spawn("/bin/true", ["true"], {}, file_actions=[opened])


ran()
if is_worker() and os.fork() == 0:
    never()
