"""A compose file with what it includes and extends, as Compose itself would put it together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grader.containers import schema
from grader.containers.complaint import Broken
from grader.containers.dockerfile import Dockerfile
from grader.containers.document import Document, read, read_text
from grader.containers.variables import UNKNOWN, expand
from grader.words import Text

FILE = "docker-compose.yml"
MOST_FILES = 20
# Keys whose value may be written as a list or as a mapping.
PAIRS = ("environment", "labels", "args")


@dataclass
class Project:
    """`services` by name, each with what it extends; `documents` are all files that were read."""

    root: Path
    services: dict[str, dict[str, Any]] = field(default_factory=dict)
    documents: list[Document] = field(default_factory=list)

    def environment(self, name: str) -> dict[str, str]:
        """Return a service's variables; the value of one that comes from outside is UNKNOWN."""
        body = self.services.get(name, {})
        found: dict[str, str] = {}
        for path in body.get("env_file") or []:
            if Path(path).resolve().is_relative_to(self.root.resolve()):
                found |= _env_file(Path(path))
        given = body.get("environment") or {}
        return found | {key: text_of(value, UNKNOWN) for key, value in given.items()}

    def instruction(self, name: str, instruction: str) -> str | None:
        """Return the Dockerfile's instruction that counts for a service's image, None without one.

        Raises:
            Broken: the service is built from a Dockerfile that is not there.
        """
        file, build = self.dockerfile(name), self.build(name) or {}
        return file.last(instruction, expand(str(build.get("target") or ""))) if file else None

    def build(self, name: str) -> dict[str, Any] | None:
        """Return the `build` that a service's image comes from: its own, or another service's.

        One service may build an image and name it, and the others use it by that name.
        """
        body = self.services.get(name, {})
        image = _image(body)
        others = [one for one in self.services.values() if one.get("build")]
        same = (one["build"] for one in others if image and _image(one) == image)
        return body.get("build") or next(same, None)

    def unbuildable(self, name: str) -> bool:
        """Whether a service is built from a Dockerfile that is not there."""
        try:
            self.dockerfile(name)
        except Broken:
            return True
        return False

    def dockerfile(self, name: str) -> Dockerfile | None:
        """Return the Dockerfile that a service is built from, None if it is not built here.

        Raises:
            Broken: the service is built from a Dockerfile that is not there.
        """
        build = self.build(name)
        if not build:
            return None
        if inline := build.get("dockerfile_inline"):
            return Dockerfile.parse(str(inline))
        path = Path(build["context"]) / expand(str(build.get("dockerfile") or "Dockerfile"))
        if not path.resolve().is_relative_to(self.root.resolve()):
            return None
        return Dockerfile.parse(read_text(path, path.resolve().relative_to(self.root).as_posix()))

    def built(self) -> Iterator[tuple[str, Dockerfile]]:
        """Yield each service that is built itself, with its Dockerfile."""
        for name, body in self.services.items():
            if body.get("build") and (file := self.dockerfile(name)) is not None:
                yield name, file


def _image(body: Mapping[str, Any]) -> str:
    """Return the name of a service's image with its tag, "" without one."""
    name = str(body.get("image") or "")
    known = expand(name)
    # What only the environment knows is the same where the same is written.
    name = name if UNKNOWN in known else known
    return name if not name or ":" in name.rpartition("/")[2] else f"{name}:latest"


def text_of(value: Any, empty: str = "") -> str:
    """Return a scalar as Compose passes it on, its variables replaced by their defaults."""
    if value is None:
        return empty
    if isinstance(value, bool):
        return "true" if value else "false"
    return expand(str(value))


def load(root: Path, name: str = FILE) -> Project:
    """Read the compose file in `root` and everything that it includes and extends.

    Raises:
        Broken: a file is missing, no YAML, against the schema, or refers to what is not there.
    """
    root = root.resolve()
    return _Loader(Project(root)).load(root / name)


class _Loader:
    """Reads each file once and resolves `include` and `extends`."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.known: dict[Path, Document] = {}

    def load(self, path: Path) -> Project:
        self._include(path)
        return self.project

    def _include(self, path: Path) -> None:
        if path in self.known:
            return
        document = self._read(path)
        for entry in document.data.get("include") or []:
            paths = entry.get("path") if isinstance(entry, dict) else entry
            for one in [paths] if isinstance(paths, str) else paths or []:
                self._include((path.parent / expand(one)).resolve())
        for name in document.data.get("services") or {}:
            self.project.services[name] = self._service(path, name, ())

    def _read(self, path: Path) -> Document:
        if path not in self.known:
            shown = self._shown(path)
            if len(self.known) >= MOST_FILES:
                wanted = Text.of("containers_yaml_wanted", file=shown)
                raise Broken(wanted, Text.of("containers_huge", file=shown))
            document = read(path, shown)
            if wrong := schema.complaint(document, shown):
                raise Broken(wrong.wanted, wrong.seen, wrong.hint)
            self.known[path] = document
            self.project.documents.append(document)
        return self.known[path]

    def _shown(self, path: Path) -> str:
        if not path.is_relative_to(self.project.root):
            shown = path.name
            wanted = Text.of("containers_file_wanted", file=shown)
            raise Broken(wanted, Text.of("containers_outside", file=shown))
        return path.relative_to(self.project.root).as_posix()

    def _service(
        self, path: Path, name: str, below: tuple[tuple[Path, str], ...]
    ) -> dict[str, Any]:
        """Return a service with all that it extends."""
        document = self._read(path)
        raw = (document.data.get("services") or {}).get(name)
        if not isinstance(raw, dict) or (path, name) in below:
            raise self._no_base(name, below)
        own = _normal(raw, path.parent)
        base = own.pop("extends", None)
        if base is None:
            return own
        base = {"service": base} if isinstance(base, str) else base
        file = base.get("file")
        other = (path.parent / expand(file)).resolve() if file else path
        return merge(self._service(other, base["service"], (*below, (path, name))), own)

    def _no_base(self, name: str, below: tuple[tuple[Path, str], ...]) -> Broken:
        path, user = below[-1] if below else (self.project.root / FILE, name)
        document, shown = self.known[path], self._shown(path)
        place = document.place(["services", user, "extends"])
        seen = Text.of("containers_no_base", file=shown, place=place, service=user, base=name)
        return Broken(Text.of("containers_base_wanted", file=shown), seen)


def _normal(raw: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a service's body with one form for what may be written in several."""
    body = {key: _pairs(value) if key in PAIRS else value for key, value in raw.items()}
    if isinstance(needs := body.get("depends_on"), list):
        body["depends_on"] = {name: {"condition": "service_started"} for name in needs}
    if build := body.get("build"):
        build = {"context": build} if isinstance(build, str) else dict(build)
        build["args"] = _pairs(build.get("args") or {})
        build["context"] = str(folder / expand(str(build.get("context") or ".")))
        body["build"] = build
    if files := body.get("env_file"):
        files = files if isinstance(files, list) else [files]
        paths = [one["path"] if isinstance(one, dict) else one for one in files]
        body["env_file"] = [str(folder / expand(path)) for path in paths]
    return body


def _pairs(value: Any) -> Any:
    if not isinstance(value, list):
        return dict(value or {})
    split = (str(item).partition("=") for item in value)
    return {name: text if equals else None for name, equals, text in split}


def merge(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Return a service that extends `base`: mappings and lists are joined, `own` wins."""
    merged = dict(base)
    for key, value in own.items():
        before = merged.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            merged[key] = merge(before, value)
        elif isinstance(before, list) and isinstance(value, list) and key not in REPLACED:
            merged[key] = [*before, *value]
        else:
            merged[key] = value
    return merged


REPLACED = ("command", "entrypoint", "test")


def _env_file(path: Path) -> dict[str, str]:
    """Return the variables of an env file; of one that is kept away, those that its example names.

    A real `.env` is not handed in; `.env.example` or `NAME.example` stands beside it.
    """
    for one in (path, path.with_name(f"{path.name}.example"), path.with_name(".env.example")):
        if one.is_file():
            text = one.read_text(encoding="utf-8", errors="replace")
            kept = [line.strip().removeprefix("export ") for line in text.splitlines()]
            pairs = [line.partition("=") for line in kept if "=" in line and line[0] != "#"]
            example = one != path
            return {
                k.strip(): UNKNOWN if example and not v else v.strip(" \"'") for k, _, v in pairs
            }
    return {}
