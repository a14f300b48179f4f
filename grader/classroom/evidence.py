"""Everything that is known of one attempt, compressed, and read only when it is asked for."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grader.report.document import document
from grader.verdict import Result
from grader.words import LANGUAGES

LARGEST = 200_000  # bytes of one run's history


def pack(result: Result, histories: Path) -> bytes:
    """Return the result's documents in every language and the histories of its runs.

    Args:
        histories: the folder in which the runs saved what they saw, a JSON file each.
    """
    evidence = {
        "documents": {lang: document(result, lang) for lang in LANGUAGES},
        "histories": dict(_histories(histories)),
    }
    return zlib.compress(json.dumps(evidence).encode("ascii"), 6)


def unpack(blob: bytes) -> Mapping[str, Any]:
    """Return what `pack` was given: "documents" by language, "histories" by run."""
    found: Mapping[str, Any] = json.loads(zlib.decompress(blob))
    return found


def _histories(folder: Path) -> Any:
    for file in sorted(folder.glob("*.json")):
        # What a submission floods the lab with would fill the book too.
        if file.stat().st_size <= LARGEST:
            yield file.stem, json.loads(file.read_text(encoding="utf-8"))
