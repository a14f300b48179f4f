"""Beat as a service: a real one, beside a real worker, whose entries come and go."""

from __future__ import annotations

import base64
import contextlib
import json
import math
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from grader import beat
from grader.beat import Simulation
from grader.check import check, hint
from grader.exercise import load_checks
from grader.expect import fails_with

