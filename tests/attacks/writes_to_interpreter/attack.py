"""What the next submission imports would be its own.

The file is left where it was made: the runner looks whether it came out of the sandbox, because a
folder of the same name inside may be the sandbox's own.
"""

import os
import sys

import celery
from attack_kit import FACTS, ran

ran()
places = [os.path.dirname(celery.__file__), sys.prefix, "/usr/lib", "/usr/local/lib", "/etc", "/"]
for place in [*places, *FACTS["folders"], *map(os.path.dirname, FACTS["checks"])]:
    try:
        os.close(os.open(f"{place}/{FACTS['nonce']}.pth", os.O_CREAT | os.O_WRONLY))
    except OSError:
        pass
