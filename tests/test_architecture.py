"""The shape of the grader: which layer may import which, what loads late, what is written down."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from grader.exercise import EXERCISES, ROOT

GRADER = ROOT / "grader"
FILES = sorted(GRADER.rglob("*.py"))
TESTS = sorted([*(ROOT / "tests").glob("*.py"), *(ROOT / "tests" / "benchmarks").glob("*.py")])
LAYERS = (
    "errors words",
    "check clock exercise files history expect steps verdict containers timetable sun "
    "ledger invariants schedule slope curve scene hints traffic",
    "process home place worker client publisher events tap faults links sandbox cell "
    "warden relay cgroup isolation submission services stack resources trail blame "
    "extras queues twin beat passage simulation gauge starter order",
    "private crew lab desk target pipeline outcome orders fulfilment job ops growth bench runner "
    "session grading",
    "report rubric documents notebook variant verify doctor attacks progress plan record tutor "
    "story vigil",
    "classroom",
    "cli plugin",
)
LAYER = {name: depth for depth, names in enumerate(LAYERS) for name in names.split()}
LAYER |= {"__init__": 0, "__main__": len(LAYERS) - 1}
HEAVY = {"celery", "kombu", "redis", "requests", "psutil", "rich", "jsonschema", "pydantic"}
LONGEST = 350
# Everything that loads code by a name. A submission's code is loaded in grader/inside only: those
# programs run in the student's processes.
LOADERS = {
    "exercise.py": "checks, which are the lab's own",
    "cli/__init__.py": "the command's own module",
    "cli/maintain.py": "tests/benchmarks",
    "report/__init__.py": "the format's own module",
    "inside/beat.py": "celery and the submission",
    "inside/client.py": "the submission",
    "inside/planted.py": "the submission",
    "inside/program.py": "the submission",
    "inside/stage.py": "celery and psutil, before the submission does",
    "inside/worker.py": "celery",
}
LOADING = {"import_module", "__import__", "exec", "eval", "exec_module", "run_path", "run_module"}


@functools.cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def part(file: Path) -> str:
    """Return the name under which a file's layer is listed."""
    return file.relative_to(GRADER).parts[0].removesuffix(".py")


def running(node: ast.AST) -> Iterator[ast.AST]:
    """Yield every node that can run: what is there for type checkers only is left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield child
        yield from running(child)


def imported(file: Path) -> Iterator[str]:
    """Yield the full names of the modules that a file imports, at any place in it."""
    for node in running(tree(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}:{node.lineno}: a relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(names: Iterator[str]) -> set[str]:
    """Return the parts of the grader among the imported modules."""
    return {name.split(".")[1] for name in names if name.startswith("grader.")} & set(LAYER)


def called(file: Path) -> Iterator[tuple[str, int]]:
    """Yield (name, line) of everything that the file calls."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if ast.unparse(node) != "asyncio.sleep(0)":  # which only lets others have their turn
                yield name, node.lineno


# Layers


def test_every_part_has_a_layer():
    """A new module or package of the grader is given its place in the list above."""
    assert {part(file) for file in FILES} - set(LAYER) == {"inside"}


def test_imports_point_down():
    """No module imports from a layer above its own, not even inside a function."""
    for file in FILES:
        if part(file) != "inside":
            above = {name for name in own(imported(file)) if LAYER[name] > LAYER[part(file)]}
            assert not above, file


def test_what_runs_inside_knows_nothing_of_the_grader():
    """The programs of grader/inside import nothing of the grader: it isn't there for them."""
    for file in (f for f in FILES if part(f) == "inside"):
        assert not [name for name in imported(file) if name.partition(".")[0] == "grader"], file


def test_no_strangers_code_is_imported():
    """The grader imports nothing from exercises, solutions, tests or a submission."""
    names = {path.stem for path in (ROOT / "solutions").glob("*/*.py")}
    names |= {path.stem for path in EXERCISES.glob("*/*.py")} | {"exercises", "solutions", "tests"}

    for file in FILES:
        assert not names & {name.partition(".")[0] for name in imported(file)}, file


def test_code_is_loaded_by_name_in_few_places():
    """Loading code by a name happens only where the table above says what is loaded."""
    found = {f for f in FILES if any(name in LOADING for name, _ in called(f))}

    assert {file.relative_to(GRADER).as_posix() for file in found} == set(LOADERS)


# What is loaded when


def loaded(program: str) -> set[str]:
    """Run a program in a fresh interpreter and return which heavy packages it loaded."""
    report = f"\nimport sys; print('loaded:', *sorted(set(sys.modules) & {HEAVY!r}))"
    run = subprocess.run(
        [sys.executable, "-c", program + report],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "loaded:" in run.stdout, run.stdout + run.stderr
    return set(run.stdout.rpartition("loaded:")[2].split())


def test_help_loads_nothing_heavy():
    """`lab --help` answers without loading what only grading needs."""
    program = """
import contextlib, sys
from grader.cli import main
sys.argv = ["lab", "--help"]
with contextlib.suppress(SystemExit):
    main()
"""
    assert loaded(program) == set()


def test_collecting_loads_nothing_heavy(tmp_path):
    """pytest collects an exercise's checks without loading what only running them needs."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "exercise.toml").write_text(
        'stars = 1\nminutes = 1\nmodule = "tiny"\nbrokers = ["redis"]\nfiles = ["tiny.py"]\n'
        'title = { en = "x", zh = "x" }\n[criteria.one]\npoints = 100\nzh = "x"\n'
        'hints.default = { en = "x", zh = "x" }\n'
    )
    (folder / "test_tiny.py").write_text(
        "from grader.check import check, hint\nfrom grader.expect import returns\n\n\n"
        '@check\ndef test_one(lab):\n    """It is one."""\n'
    )
    program = f"""
import pytest
arguments = ["--disable-plugin-autoload", "--collect-only", "-q", "-p", "grader.plugin"]
arguments += ["--rootdir", {str(tmp_path)!r}, "-c", "/dev/null", {str(folder)!r}]
assert pytest.main(arguments) == 0
"""
    assert loaded(program) == set()


def test_check_files_load_nothing_heavy():
    """No check file of an exercise loads a heavy package when it is imported."""
    files = [str(path) for path in sorted(EXERCISES.glob("*/test_*.py"))]

    assert loaded(f"import runpy\nfor file in {files!r}:\n    runpy.run_path(file)") == set()


# What is written down


def public(node: ast.AST, inside: str = "") -> Iterator[tuple[str, ast.FunctionDef, ast.AST]]:
    """Yield the public functions and methods with the node that holds them."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from public(child, f"{child.name}.")
        elif isinstance(child, ast.FunctionDef) and not child.name.startswith("_"):
            yield inside + child.name, child, node


def overloaded(function: ast.FunctionDef) -> bool:
    return any(ast.unparse(decorator) == "overload" for decorator in function.decorator_list)


def inherits(holder: ast.AST) -> bool:
    """Whether this is a class with a base, whose methods may be described there."""
    return isinstance(holder, ast.ClassDef) and bool(holder.bases)


def test_public_functions_say_what_they_do():
    """Every public function has a docstring; one that overrides another may go without."""
    silent = [
        f"{file}:{function.lineno} {name}"
        for file in FILES
        for name, function, holder in public(tree(file))
        if not (ast.get_docstring(function) or overloaded(function) or inherits(holder))
    ]
    assert not silent


def test_public_functions_have_type_hints():
    """Every argument and every return value of a public function has a type hint."""
    for file in FILES:
        for name, function, holder in public(tree(file)):
            bare = [a.arg for a in arguments(function, holder) if a.annotation is None]
            assert not bare and function.returns, f"{file}:{function.lineno} {name}"


def arguments(function: ast.FunctionDef, holder: ast.AST) -> list[ast.arg]:
    """Return a function's arguments without `self` or `cls`."""
    given = function.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return [a for a in every if a][isinstance(holder, ast.ClassDef) :]


def test_modules_and_classes_say_what_they_are():
    """Every module and every public class has a docstring."""
    for file in FILES:
        nodes = [tree(file), *(n for n in tree(file).body if isinstance(n, ast.ClassDef))]
        silent = [n for n in nodes if not ast.get_docstring(n)]
        assert not [n for n in silent if not getattr(n, "name", "x").startswith("_")], file


def test_files_stay_short():
    """No file of the grader is longer than a reader can keep in mind."""
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}

    assert not {file: lines for file, lines in lengths.items() if lines > LONGEST}


def test_nothing_sleeps():
    """Waiting is for a condition with a deadline: nobody calls `sleep` for a time."""
    for file in (*FILES, *TESTS):
        assert not [line for name, line in called(file) if name == "sleep"], file


def test_tests_say_what_they_prove():
    """Every test has a docstring of one sentence."""
    for file in TESTS:
        for name, function, _ in public(tree(file)):
            if name.startswith("test_"):
                text = " ".join((ast.get_docstring(function) or "").split())
                assert re.fullmatch(r"[^.].*[.?!]", text), f"{file}: {name}: {text!r}"
