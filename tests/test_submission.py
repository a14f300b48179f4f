"""grader/submission.py: what is copied of a student's work, and everything that can be wrong."""

from __future__ import annotations

import errno
import io
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from grader import submission
from grader.errors import BadSubmission, LabFault, NoSpace
from grader.submission import Submission

NOBODY = 65534


@pytest.fixture
def exercise(tmp_path):
    """What a copy has to know of the exercise."""
    return SimpleNamespace(folder=tmp_path / "exercise", module="tiny", files=("tiny.py",))


@pytest.fixture
def work(tmp_path):
    """A folder with the work of a student."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "tiny.py").write_text("app = 1\n")
    return folder


@pytest.fixture
def copy(tmp_path, exercise):
    """Copy a submission and return the names of the files that have arrived."""

    def copying(path, to="copy"):
        root = Submission.at(path).copy(tmp_path / to, exercise)
        return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())

    return copying


def refused(path, exercise, tmp_path, match):
    """Assert that the submission is refused by a sentence that names it; return the words."""
    with pytest.raises(BadSubmission, match=match) as caught:
        Submission.at(path).copy(tmp_path / "copy", exercise)
    words = str(caught.value)
    assert str(path) in words and "Traceback" not in words and "\n" not in words
    assert caught.value.exit_status == 2
    return words


# What is given


def test_a_missing_path_is_said(tmp_path):
    """Nothing at the path: a folder, an archive, a name that no file can have."""
    for name in ("nowhere", "nowhere.zip", "x" * 5000, "no\0where", "tiny.py/inside"):
        with pytest.raises(BadSubmission, match="There is nothing at"):
            Submission.at(tmp_path / name)


def test_a_dangling_link_is_missing(tmp_path):
    """A link to nothing is nothing."""
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.zip").symlink_to(tmp_path / "loop.zip")

    for name in ("link", "loop.zip"):
        with pytest.raises(BadSubmission, match="There is nothing at"):
            Submission.at(tmp_path / name)


def test_a_plain_file_is_said(work):
    """A file that is no archive by its name is answered with what would do."""
    with pytest.raises(BadSubmission, match=r"is a file\. Give a folder, or a \.zip"):
        Submission.at(work / "tiny.py")


def test_a_fifo_called_zip_does_not_block(tmp_path):
    """A special file with an archive's name is refused, not opened."""
    os.mkfifo(tmp_path / "work.zip")

    with pytest.raises(BadSubmission, match="is a file"):
        Submission.at(tmp_path / "work.zip")


def test_an_empty_folder_is_said(work, exercise, tmp_path):
    """Nothing that could be graded: no file, or only what tools have left."""
    (work / "tiny.py").unlink()
    (work / "__pycache__").mkdir()
    (work / "__pycache__" / "tiny.pyc").touch()
    (work / ".venv").mkdir()

    assert "tiny.py" in refused(work, exercise, tmp_path, "holds no file to grade")


@pytest.mark.parametrize(
    "closed", ["work", "work/tiny.py", "work/sub", "work.zip"], ids=lambda name: name
)
def test_what_cannot_be_read_is_said(work, tmp_path, closed):
    """A folder, file, subfolder or archive that an ordinary user may not read is named."""
    (work / "sub").mkdir()
    (work / "sub" / "file").touch()
    with zipfile.ZipFile(tmp_path / "work.zip", "w") as archive:
        archive.write(work / "tiny.py", "tiny.py")
    (tmp_path / closed).chmod(0)
    given = "work.zip" if closed == "work.zip" else "work"
    program = f"""
import os, pathlib, types
from grader.errors import BadSubmission
from grader.submission import Submission
if os.getuid() == 0:
    try:
        os.setgid({NOBODY})
        os.setuid({NOBODY})
    except PermissionError:
        print("still root")
        raise SystemExit
exercise = types.SimpleNamespace(folder=pathlib.Path("/x"), module="tiny", files=("tiny.py",))
here = pathlib.Path({str(tmp_path)!r})
try:
    Submission.at(here / {given!r}).copy(here / "copies" / "one", exercise)
except BadSubmission as error:
    print(error)
"""
    (tmp_path / "copies").mkdir()
    (tmp_path / "copies").chmod(0o777)
    with passable(tmp_path):
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    (tmp_path / closed).chmod(0o700)
    if run.stdout.strip() == "still root":
        pytest.skip("root reads everything, and this root can't become somebody else")

    assert run.stdout.startswith(f"{tmp_path / closed} can't be read by this user"), run.stderr


class passable:
    """Lets every user pass through a folder and its parents while the block runs."""

    def __init__(self, folder: Path) -> None:
        paths = [p for p in (folder, *folder.parents) if p.stat().st_uid == os.getuid()]
        self.modes = {p: p.stat().st_mode for p in paths}

    def __enter__(self) -> None:
        for path, mode in self.modes.items():
            path.chmod(mode | 0o111)

    def __exit__(self, *_: object) -> None:
        for path, mode in self.modes.items():
            path.chmod(mode)


# What of a folder is copied


def test_a_folder_is_copied_with_its_subfolders(work, copy):
    """Packages, data and names with blanks, non-ASCII letters or odd bytes arrive as they are."""
    odd = os.fsdecode(b"bytes \xff\xfe.txt")
    for name in ("my work.txt", "练习/数据.json", "sub/deep/x.py", "-rf", odd):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(name, errors="surrogateescape")

    wanted = ["-rf", odd, "my work.txt", "sub/deep/x.py", "tiny.py", "练习/数据.json"]
    assert copy(work) == sorted(wanted)
    assert sorted(p.name for p in work.iterdir()) == sorted(
        ["-rf", odd, "my work.txt", "sub", "tiny.py", "练习"]
    )


def test_what_tools_leave_is_left_out(work, copy):
    """Caches, environments and version control stay behind, at any depth."""
    for name in submission.LEFT_OUT:
        (work / "sub" / name).mkdir(parents=True)
        (work / "sub" / name / "file.py").touch()

    assert copy(work) == ["tiny.py"]


def test_links_and_special_files_are_not_followed(work, copy, tmp_path):
    """Links out of the tree, FIFOs and sockets are left out, and nothing waits for them."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key.pem").write_text("secret")
    (work / "out").symlink_to(tmp_path / "secret")
    (work / "key").symlink_to(tmp_path / "secret" / "key.pem")
    (work / "self").symlink_to(work)
    (work / "passwd").symlink_to("/etc/passwd")
    os.mkfifo(work / "pipe")
    with socket.socket(socket.AF_UNIX) as line:
        line.bind(str(work / "socket"))

        assert copy(work) == ["tiny.py"]


def test_a_linked_submission_is_its_target(work, copy, tmp_path):
    """The path that is given may itself be a link."""
    (tmp_path / "link").symlink_to(work)

    assert copy(tmp_path / "link") == ["tiny.py"]


def test_work_in_place_leaves_the_labs_files_out(exercise, copy, tmp_path):
    """In exercises/<id> itself handouts, rubric and checks are not copied; elsewhere they are."""
    exercise.folder.mkdir()
    names = ["README.md", "README.zh-CN.md", "exercise.toml", "test_tiny.py", "tiny.py", "notes.md"]
    for name in names:
        (exercise.folder / name).touch()
    (tmp_path / "link").symlink_to(exercise.folder)

    assert copy(exercise.folder, "one") == ["notes.md", "tiny.py"]
    assert copy(tmp_path / "link", "two") == ["notes.md", "tiny.py"]
    exercise.folder = tmp_path / "link"
    assert copy(tmp_path / "exercise", "three") == ["notes.md", "tiny.py"]
    exercise.folder = tmp_path / "other"
    assert copy(tmp_path / "exercise", "four") == sorted(names)


def test_a_copy_is_the_students_to_write(work, copy, tmp_path):
    """A read-only original gives a copy that the submission may change, and the original stays."""
    (work / "tiny.py").chmod(0o400)
    copy(work)

    assert os.stat(tmp_path / "copy" / "tiny.py").st_mode & 0o600 == 0o600


def test_too_many_files_are_refused(work, exercise, tmp_path, monkeypatch):
    """One file above the limit is too much; exactly the limit is not."""
    monkeypatch.setattr(submission, "MAX_FILES", 5)
    for n in range(4):
        (work / f"{n}.py").touch()
    Submission.at(work).copy(tmp_path / "fits", exercise)

    (work / "4.py").touch()
    refused(work, exercise, tmp_path, "is too big: at most 5 files")


def test_too_many_folders_are_refused(work, exercise, tmp_path, monkeypatch):
    """Folders and links without number are no way to keep the grader busy."""
    monkeypatch.setattr(submission, "MAX_ENTRIES", 20)
    for n in range(20):
        (work / str(n)).mkdir()

    refused(work, exercise, tmp_path, "is too big")


def test_too_many_bytes_are_refused(work, exercise, tmp_path):
    """A file that claims a terabyte is refused before any of it is read."""
    with (work / "data.bin").open("wb") as file:
        file.truncate(2**40)

    refused(work, exercise, tmp_path, "is too big: .* 50 MiB")
    assert not list((tmp_path / "copy").glob("data.bin"))


@pytest.mark.parametrize(("levels", "name"), [(60, "d"), (20, "n" * 250)], ids=["deep", "long"])
def test_very_deep_trees_are_refused(work, exercise, tmp_path, levels, name):
    """A tree deeper than anybody works in is said to be one, also where paths get too long."""
    here = os.open(work, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("tiny.py", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)

    refused(work, exercise, tmp_path, "too deep")
    subprocess.run(["rm", "-rf", str(work / name)], check=True)


def test_a_full_disk_is_the_labs_fault(work, exercise, tmp_path, monkeypatch):
    """No space for the copy is no mistake of the student's, for folders and for archives."""

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with zipfile.ZipFile(tmp_path / "work.zip", "w") as archive:
        archive.writestr("tiny.py", "x")
    monkeypatch.setattr(shutil, "copyfile", full)
    monkeypatch.setattr(submission, "_write", full)
    for n, path in enumerate((work, tmp_path / "work.zip")):
        with pytest.raises(NoSpace):
            Submission.at(path).copy(tmp_path / str(n), exercise)


def test_a_copy_into_a_folder_that_vanished_is_the_labs_fault(
    work, exercise, tmp_path, monkeypatch
):
    """Where the run's own folder is lost half-way, nobody says that the submission is missing."""
    copyfile = shutil.copyfile

    def late(source, target, **options):
        shutil.rmtree(tmp_path / "copy")
        return copyfile(source, target, **options)

    monkeypatch.setattr(shutil, "copyfile", late)
    with pytest.raises(LabFault):
        Submission.at(work).copy(tmp_path / "copy", exercise)


# Archives


def zipped(path, members, **options):
    """Write a zip archive of (name or ZipInfo, content) pairs."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def tarred(path, *members):
    """Write a tar archive of TarInfo objects or (name, content) pairs."""
    with tarfile.open(path, "w:" + path.suffix[1:].replace("tar", "")) as archive:
        for member in members:
            content = b""
            if isinstance(member, tuple):
                content = member[1].encode()
                member = tarfile.TarInfo(member[0])
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


WORK = [("tiny.py", "app = 1"), ("sub/data.txt", "data")]


@pytest.mark.parametrize(
    "name", ["work.zip", "WORK.ZIP", "w.tar", "w.tar.gz", "w.tar.bz2", "w.tar.xz"]
)
@pytest.mark.parametrize("top", ["", "ana/"], ids=["flat", "nested"])
def test_archives_are_unpacked(tmp_path, copy, name, top):
    """Zip and tar archives serve, packed with or without the folder around the files."""
    members = [(top + member, content) for member, content in WORK]
    path = tmp_path / name
    if name.lower().endswith("zip"):
        zipped(path, [*members, ("__MACOSX/._tiny.py", "x")] if top else members)
    else:
        tarred(path, *members)

    assert copy(path) == ["sub/data.txt", "tiny.py"]


def test_an_archive_of_a_dot_is_unpacked(work, tmp_path, copy):
    """`tar czf work.tar.gz .` names the folder itself as its first member."""
    subprocess.run(["tar", "czf", tmp_path / "work.tar.gz", "."], cwd=work, check=True)

    assert copy(tmp_path / "work.tar.gz") == ["tiny.py"]


def test_what_tools_leave_is_left_out_of_archives(tmp_path, copy):
    """An environment or cache in an archive is not unpacked, as in a folder."""
    extra = [(f"{name}/x.py", "x") for name in sorted(submission.LEFT_OUT)]

    assert copy(zipped(tmp_path / "w.zip", WORK + extra), "zip") == ["sub/data.txt", "tiny.py"]
    assert copy(tarred(tmp_path / "w.tar", *WORK, *extra), "tar") == ["sub/data.txt", "tiny.py"]


OUT = [
    "../evil.py",
    "sub/../../evil.py",
    "/tmp/evil.py",
    "..\\evil.py",
    "\\\\host\\..\\..\\evil.py",
]


@pytest.mark.parametrize("name", OUT)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_lead_out_are_refused(tmp_path, exercise, kind, name):
    """A member that would be written outside is refused, with the whole archive."""
    path = tmp_path / f"work.{kind}"
    members = [*WORK, (name, "evil")]
    zipped(path, members) if kind == "zip" else tarred(path, *members)

    refused(path, exercise, tmp_path, r"can't be unpacked: a member named .* outside")
    assert not list(tmp_path.glob("**/evil.py")) and not Path("/tmp/evil.py").exists()


def linked(name, target, kind=tarfile.SYMTYPE):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def test_links_and_devices_in_archives_are_left_out(tmp_path, copy):
    """No link, device or FIFO of an archive is made, so that nothing can be written through one."""
    odd = [
        linked("link", "/etc"),
        linked("link/evil.py", "x"),
        linked("up", ".."),
        linked("hard.py", "tiny.py", tarfile.LNKTYPE),
        linked("pipe", "", tarfile.FIFOTYPE),
        linked("null", "", tarfile.CHRTYPE),
    ]
    assert copy(tarred(tmp_path / "w.tar", *odd, *WORK, ("up/in.py", "x")), "tar") == [
        "sub/data.txt",
        "tiny.py",
        "up/in.py",
    ]
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    assert copy(zipped(tmp_path / "w.zip", [*WORK, (link, "/etc")]), "zip") == [
        "sub/data.txt",
        "tiny.py",
    ]


def bomb_zip(path):
    zipped(path, [("zeros", b"\0" * (60 * 2**20)), *WORK], compression=zipfile.ZIP_DEFLATED)


def bomb_gz(path):
    member = tarfile.TarInfo("zeros")
    member.size = 60 * 2**20
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(member, io.BytesIO(b"\0" * member.size))


def many_zip(path):
    zipped(path, [(f"{n}.py", "") for n in range(21)])


def many_tar(path):
    tarred(path, *(linked(str(n), "x") for n in range(201)))


@pytest.mark.parametrize(
    ("name", "make"),
    [("w.zip", bomb_zip), ("w.tar.gz", bomb_gz), ("w.zip", many_zip), ("w.tar", many_tar)],
    ids=["zip", "gz", "many files", "many links"],
)
def test_bombs_are_bounded(tmp_path, exercise, name, make, monkeypatch):
    """What unpacks to too much is refused with no more than the limit on the disk."""
    monkeypatch.setattr(submission, "MAX_FILES", 20)
    monkeypatch.setattr(submission, "MAX_ENTRIES", 200)
    make(tmp_path / name)

    refused(tmp_path / name, exercise, tmp_path, "is too big")
    written = sum(p.stat().st_size for p in (tmp_path / "copy").rglob("*") if p.is_file())
    assert written <= submission.MAX_BYTES


def test_a_left_out_bomb_is_bounded(tmp_path, exercise, monkeypatch):
    """What is left out of a compressed tar has to be unpacked all the same, so it counts."""
    monkeypatch.setattr(submission, "MAX_STREAM", 100_000)
    path = tarred(tmp_path / "w.tar.gz", *((f".git/{n}", "x" * 50_000) for n in range(9)), *WORK)

    refused(path, exercise, tmp_path, "is too big")


def test_a_header_does_not_fill_the_memory(tmp_path, exercise):
    """A member's name that claims a gigabyte is refused before it is read."""
    path = tmp_path / "w.tar"
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2**30
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT))
    with path.open("ab") as file:
        file.truncate(2**30 + 4096)

    began = time.monotonic()
    refused(path, exercise, tmp_path, "a header of 1073741824 bytes")
    assert time.monotonic() - began < 5


def cut(path, share=0.6):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def scratched(path):
    """Overwrite everything behind the start; a zip's directory at the end stays."""
    content = path.read_bytes()
    start, end = len(content) // 8, len(content) - 100 * (path.suffix == ".zip")
    path.write_bytes(content[:start] + b"\xff" * (end - start) + content[end:])
    return path


NOISE = [("tiny.py", "".join(chr(33 + n * n % 89) for n in range(20_000)))]


@pytest.mark.parametrize("spoil", [cut, scratched])
@pytest.mark.parametrize("name", ["w.zip", "w.tar.gz", "w.tar.bz2", "w.tar.xz"])
def test_damaged_archives_are_said(tmp_path, exercise, name, spoil):
    """An archive that was cut off or damaged is refused in a sentence, whatever packed it."""
    path = tmp_path / name
    if name == "w.zip":
        zipped(path, NOISE, compression=zipfile.ZIP_DEFLATED)
    else:
        tarred(path, *NOISE)

    refused(spoil(path), exercise, tmp_path, "can't be unpacked")


@pytest.mark.parametrize("content", [b"", b"no archive", b"\0" * 5000, b"PK\x05\x06", b"\x1f\x8b"])
@pytest.mark.parametrize("name", ["w.zip", "w.tar.gz"])
def test_what_is_no_archive_is_said(tmp_path, exercise, name, content):
    """A file that only has an archive's name is refused in a sentence, or is empty."""
    (tmp_path / name).write_bytes(content)

    refused(tmp_path / name, exercise, tmp_path, "can't be unpacked|holds no file")


def test_an_encrypted_zip_is_said(tmp_path, exercise):
    """A password can't be asked for, so the archive is refused and the reason said."""
    path = zipped(tmp_path / "w.zip", WORK)
    content = bytearray(path.read_bytes())
    for sign, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(sign)
        while at >= 0:
            content[at + flags] |= 1
            at = content.find(sign, at + 4)
    path.write_bytes(content)

    refused(path, exercise, tmp_path, r"can't be unpacked: .*encrypted")


def test_a_file_in_a_folders_place_is_said(tmp_path, exercise):
    """Members that contradict each other are the archive's fault, not the lab's."""
    refused(zipped(tmp_path / "w.zip", [("a", "x"), ("a/b", "y")]), exercise, tmp_path, "unpacked")


def test_deep_names_in_archives_are_refused(tmp_path, exercise):
    """A member two thousand folders down is refused before a folder is made."""
    path = zipped(tmp_path / "w.zip", [("d/" * 2000 + "tiny.py", "x")])

    refused(path, exercise, tmp_path, "too deep")
    assert list((tmp_path / "copy").iterdir()) == []


# Where the module is


def test_the_folder_with_the_module_is_found(work, exercise, tmp_path):
    """One subfolder with the module is the root; with two of them nobody guesses."""
    (work / "tiny.py").unlink()
    for name in ("ana", "ben"):
        (work / name / "tiny").mkdir(parents=True)
    (work / "ana" / "tiny" / "__init__.py").touch()
    (work / "ben" / "other.py").touch()

    assert Submission(work).copy(tmp_path / "one", exercise) == tmp_path / "one" / "ana"
    (work / "ben" / "tiny.py").touch()
    assert Submission(work).copy(tmp_path / "two", exercise) == tmp_path / "two"


def test_the_module_itself_may_be_missing(work, exercise, tmp_path):
    """Work without the module is copied: the import's own error says best what is missing."""
    (work / "tiny.py").rename(work / "other.py")

    assert Submission.at(work).copy(tmp_path / "copy", exercise) == tmp_path / "copy"
