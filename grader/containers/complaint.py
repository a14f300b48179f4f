"""What a rule has to say: what was wanted, what was found, and which hint fits."""

from __future__ import annotations

from dataclasses import dataclass

from grader.words import Text


@dataclass(frozen=True)
class Complaint:
    """One thing that is wrong; `hint` names a hint of the criterion in exercise.toml."""

    wanted: Text
    seen: Text
    hint: str = "default"


def said(wanted: str, seen: str, hint: str = "default", /, **fields: object) -> Complaint:
    """Return the complaint made of two sentences of the catalogue with the same fields."""
    return Complaint(Text.of(wanted, **fields), Text.of(seen, **fields), hint)


class Broken(Exception):
    """A file that can't be judged at all; it holds the complaint that says why."""

    def __init__(self, wanted: Text, seen: Text, hint: str = "default") -> None:
        self.complaint = Complaint(wanted, seen, hint)
        super().__init__(seen.render("en"))
