"""A Dockerfile as its stages and instructions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from grader.containers.variables import expand

HEREDOC = re.compile(r"<<-?\s*[\"']?(\w+)[\"']?")
# An ENTRYPOINT forgets the CMD that came with the image it builds on.
CLEARED_BY = {"ENTRYPOINT": "CMD"}


@dataclass
class Stage:
    """What follows one FROM: (instruction in capitals, its text) in the order of the file."""

    image: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Dockerfile:
    """The stages, and the ARGs before the first FROM with their defaults."""

    stages: list[Stage]
    arguments: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> Dockerfile:
        """Read a Dockerfile; what is no instruction is passed over."""
        file = cls([], {})
        for name, rest in instructions(text):
            if name == "FROM":
                words = [word for word in rest.split() if not word.startswith("--")] or [""]
                alias = words[2] if len(words) > 2 and words[1].upper() == "AS" else ""
                file.stages.append(Stage(words[0], alias.lower()))
            elif file.stages:
                file.stages[-1].steps.append((name, rest))
            elif name == "ARG":
                key, _, value = rest.partition("=")
                file.arguments[key.strip()] = value.strip().strip("\"'")
        return file

    def chain(self, target: str = "") -> list[Stage]:
        """Return the stage that is built, after the stages that it comes from."""
        stage = self._stage(target) if target else next(reversed(self.stages), None)
        chain: list[Stage] = []
        while stage is not None and stage not in chain:
            chain.insert(0, stage)
            stage = self._stage(stage.image, before=stage)
        return chain

    def _stage(self, name: str, before: Stage | None = None) -> Stage | None:
        known = self.stages[: self.stages.index(before)] if before else self.stages
        return next((s for s in reversed(known) if s.name and s.name == name.lower()), None)

    def last(self, instruction: str, target: str = "") -> str | None:
        """Return the text of the instruction that counts for the image, None without one."""
        found, holder = None, None
        for stage in self.chain(target):
            for name, rest in stage.steps:
                if name == instruction:
                    found, holder = rest, stage
                elif CLEARED_BY.get(name) == instruction and holder is not stage:
                    found = None
        return found

    def images(self, given: Mapping[str, str]) -> Iterator[str]:
        """Yield every image that comes from outside, in FROM and in `COPY --from`.

        Args:
            given: build arguments, which win over the defaults in the file.
        """
        known = {**self.arguments, **{k: v for k, v in given.items() if k in self.arguments}}
        own: set[str] = {"scratch"}
        for number, stage in enumerate(self.stages):
            image = expand(stage.image, known)
            if image.lower() not in own:
                yield image
            for name, rest in stage.steps:
                source = re.match(r"(?:--\S+\s+)*--from=(\S+)", rest) if name == "COPY" else None
                if source and not source[1].isdigit() and source[1].lower() not in own:
                    yield expand(source[1], known)
            own |= {stage.name, str(number)} - {""}


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Yield each instruction as (name in capitals, the rest in one line)."""
    lines = iter(text.splitlines())
    for line in lines:
        whole = line.strip()
        if not whole or whole.startswith("#"):
            continue
        while whole.endswith("\\"):
            more = next(lines, "").strip()
            # A comment between two halves of an instruction is left out.
            whole = whole if more.startswith("#") else whole[:-1] + " " + more
        name, _, rest = whole.partition(" ")
        if name.upper() in ("RUN", "COPY", "ADD"):
            for end in HEREDOC.findall(rest):
                while next(lines, end).strip() != end:
                    pass
        yield name.upper(), rest.strip()


def words(text: str | None) -> list[str] | None:
    """Return the words of a JSON array (the exec form), None for the shell form."""
    try:
        found = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) and all(isinstance(w, str) for w in found) else None
