"""What a repository can't hold: links, pipes, odd names, thousands of files, crooked archives.

Each builder gets the folder that an attack was laid into and what the attack knows (`ground.py`),
and returns the submission to grade: that folder, or an archive of it. Archives are crooked in ways
that Python's own `extractall` of some years falls for.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import stat
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

Facts = Mapping[str, Any]
MIB = 1024 * 1024
BOMB = 300 * MIB  # unpacked; six times what a submission may hold
CROWD = 25_000


def links(work: Path, facts: Facts) -> Path:
    """Links to the solution, to a neighbour's secret, to the machine's own files, to themselves."""
    targets = {"stolen.py": facts["solution"], "secret.txt": facts["secret"]}
    targets |= {"shadow": "/etc/shadow", "root": "/", "loop": "loop", "up": ".."}
    for name, target in targets.items():
        (work / name).symlink_to(target)
    return work


def module_link(work: Path, facts: Facts) -> Path:
    """The module itself is a link to the reference solution."""
    for source in Path(facts["solution"]).parent.glob("*.py"):
        (work / source.name).unlink(missing_ok=True)
        (work / source.name).symlink_to(source)
    return work


def special_files(work: Path, facts: Facts) -> Path:
    """A pipe that nobody writes to, a socket, and a device where this user can make one."""
    os.mkfifo(work / "pipe.py")
    here = os.getcwd()
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as door, contextlib.suppress(OSError):
        door.bind(os.path.relpath(work / "door.py", here))
    with contextlib.suppress(OSError):
        os.mknod(work / "zero.py", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    return work


def odd_names(work: Path, facts: Facts) -> Path:
    """Names with line feeds, escapes, dashes, half characters, and of the longest sort."""
    names = ["two\nlines.txt", "\x1b]0;mine\x07.txt", "-rf", "$(id)", "a" * 255, "..."]
    for name in names:
        (work / name).write_text("x")
    Path(os.fsdecode(os.fsencode(work) + b"/\xff\xfe.txt")).write_text("x")
    closed = work / "closed"
    closed.mkdir()
    (closed / "inner.txt").write_text("x")
    return work


def crowd(work: Path, facts: Facts) -> Path:
    """Twenty-five thousand files."""
    folder = work / "crowd"
    folder.mkdir()
    subprocess.run(["sh", "-c", f"seq {CROWD} | xargs touch"], cwd=folder, check=True)
    return work


def deep_folders(work: Path, facts: Facts) -> Path:
    """Folders in folders, far deeper than anybody works."""
    folder = work
    for _ in range(200):
        folder = folder / "d"
        folder.mkdir()
    (folder / "x.py").write_text("x = 1")
    return work


def _members(work: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(work.rglob("*")):
        if path.is_file():
            yield path, path.relative_to(work).as_posix()


def _zip(work: Path, *more: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    target = work.parent / "work.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, name in _members(work):
            archive.write(path, name)
        for member, data in more:
            archive.writestr(member, data)
    return target


def _tar(work: Path, members: list[tuple[tarfile.TarInfo, bytes]], kind: str = "") -> Path:
    target = work.parent / f"work.tar{'.' if kind else ''}{kind}"
    with tarfile.open(target, f"w:{kind}") as archive:  # type: ignore[call-overload]
        for path, name in _members(work):
            archive.add(path, name)
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return target


def _outside(facts: Facts) -> str:
    """Return the forbidden place as a path that climbs out of any folder first."""
    return "../" * 30 + str(facts["escape"]).lstrip("/")


def _entry(name: str, kind: bytes = tarfile.REGTYPE, to: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, to, 0o644
    return info


def zip_traversal(work: Path, facts: Facts) -> Path:
    """A member whose name climbs out of the folder."""
    return _zip(work, (_outside(facts), b"escaped"))


def zip_absolute(work: Path, facts: Facts) -> Path:
    """A member with an absolute name."""
    return _zip(work, (zipfile.ZipInfo(str(facts["escape"])), b"escaped"))


def zip_link(work: Path, facts: Facts) -> Path:
    """A member that is a link to where the next one is to be written."""
    link = zipfile.ZipInfo("door")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    target = Path(facts["escape"])
    return _zip(work, (link, os.fsencode(target.parent)), (f"door/{target.name}", b"escaped"))


def zip_bomb(work: Path, facts: Facts) -> Path:
    """A small archive of a huge file."""
    target = _zip(work)
    with (
        zipfile.ZipFile(target, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("bomb.bin", "w", force_zip64=True) as file,
    ):
        for _ in range(BOMB // MIB):
            file.write(bytes(MIB))
    return target


def zip_crowd(work: Path, facts: Facts) -> Path:
    """An archive with thousands of members."""
    return _zip(work, *((f"crowd/{number}", b"") for number in range(5000)))


def tar_traversal(work: Path, facts: Facts) -> Path:
    """A tar member whose name climbs out of the folder."""
    return _tar(work, [(_entry(_outside(facts)), b"escaped")], "gz")


def tar_links(work: Path, facts: Facts) -> Path:
    """Links and hard links to a neighbour's secret, and a door to write through."""
    target, secret = Path(facts["escape"]), str(facts["secret"])
    members = [
        (_entry("stolen.txt", tarfile.SYMTYPE, secret), b""),
        (_entry("hard.txt", tarfile.LNKTYPE, "../" * 30 + secret.lstrip("/")), b""),
        (_entry("door", tarfile.SYMTYPE, str(target.parent)), b""),
        (_entry(f"door/{target.name}"), b"escaped"),
    ]
    return _tar(work, members)


def tar_devices(work: Path, facts: Facts) -> Path:
    """A pipe and two devices."""
    members = [(_entry("pipe.py", tarfile.FIFOTYPE), b"")]
    for name, minor in (("null.py", 3), ("zero.py", 5)):
        info = _entry(name, tarfile.CHRTYPE)
        info.devmajor, info.devminor = 1, minor
        members.append((info, b""))
    return _tar(work, members)


def tar_bomb(work: Path, facts: Facts) -> Path:
    """A compressed tar of a huge file."""
    target = work.parent / "work.tar.gz"
    with tarfile.open(target, "w:gz", compresslevel=1) as archive:
        for path, name in _members(work):
            archive.add(path, name)
        info = _entry("bomb.bin")
        info.size = BOMB
        with open("/dev/zero", "rb") as zeros:
            archive.addfile(info, zeros)
    return target


BUILDERS: dict[str, Callable[[Path, Facts], Path]] = {
    builder.__name__: builder
    for builder in (
        links, module_link, special_files, odd_names, crowd, deep_folders,
        zip_traversal, zip_absolute, zip_link, zip_bomb, zip_crowd,
        tar_traversal, tar_links, tar_devices, tar_bomb,
    )
}  # fmt: skip
