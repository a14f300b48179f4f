"""The notebooks: what their scripts give, in both languages, and each one run on the live lab."""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

import psutil
import pytest

from grader.errors import LabFault, UsageError
from grader.exercise import ROOT
from grader.notebook import play, script, server
from grader.notebook.spans import spans
from grader.process import lives, wait_until
from grader.stack import live, rabbit_install

PAIRS = [(id, lang) for id in script.ids() for lang in script.PLACES]


# What the files hold


@pytest.mark.parametrize(("id", "lang"), PAIRS)
def test_a_notebook_is_what_its_script_gives(id, lang):
    """Each notebook in the repository is what `lab tables` would write."""
    assert script.place(id, lang).read_text("utf-8") == script.text(id, lang)


@pytest.mark.parametrize(("id", "lang"), PAIRS)
def test_a_notebook_is_sound_and_holds_no_outputs(id, lang):
    """Each notebook is valid, and nothing that a run has left is in it."""
    import nbformat

    notebook = nbformat.read(script.place(id, lang), as_version=4)
    nbformat.validate(notebook)

    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells and not any(cell.outputs or cell.execution_count for cell in cells)


@pytest.mark.parametrize("id", script.ids())
def test_all_prose_is_translated(id):
    """Every prose cell has its translation under its name, with the same headings."""
    assert script.translation_problems(id) == []


@pytest.mark.parametrize("id", script.ids())
def test_both_languages_share_the_code(id):
    """The two notebooks differ in prose only."""
    english, chinese = (script.build(id, lang)["cells"] for lang in ("en", "zh"))

    assert [c for c in english if c["cell_type"] == "code"] == [
        c for c in chinese if c["cell_type"] == "code"
    ]


def test_no_stray_notebook_lies_about():
    """Each notebook file has a script."""
    lying = {path.relative_to(script.FOLDER) for path in script.FOLDER.rglob("*.ipynb")}

    assert lying == {script.place(*pair).relative_to(script.FOLDER) for pair in PAIRS}


# How a script becomes a notebook

SCRIPT = '''"""Not in the notebook."""

# %% hello [markdown]
# # Hello
#
# prose

# %% file="tiny.py"
x = 1

# %%
import tiny

# %% shown
tiny.x
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder of scripts with one notebook, `tiny`, not translated yet."""
    monkeypatch.setattr(script, "SCRIPTS", tmp_path)
    (tmp_path / "tiny.py").write_text(SCRIPT)
    return tmp_path


def test_cells_are_read():
    """Prose loses its comment signs, a file cell gets its magic, names are kept."""
    assert [(c.kind, c.name, c.text) for c in script.cells(SCRIPT)] == [
        ("markdown", "hello", "# Hello\n\nprose"),
        ("code", "tiny.py", "%%writefile tiny.py\nx = 1"),
        ("code", "", "import tiny"),
        ("code", "shown", "tiny.x"),
    ]


def test_prose_without_translation_is_found(own):
    """A prose cell without a part in the Chinese file is named, and no notebook is made."""
    (own / "tiny.zh-CN.md").write_text("<!-- other -->\n文字\n")

    assert script.translation_problems("tiny") == [
        "tiny.zh-CN.md: no translation of hello",
        "tiny.zh-CN.md: other translates nothing",
    ]
    with pytest.raises(LabFault, match="no translation of hello"):
        script.text("tiny", "zh")


def test_other_headings_are_found(own):
    """A heading that the translation lacks is found."""
    (own / "tiny.zh-CN.md").write_text("<!-- hello -->\n没有标题\n")

    assert script.translation_problems("tiny") == ["tiny.zh-CN.md: hello has other headings"]


def test_a_wrong_name_is_answered_with_the_nearest(own):
    """An unknown notebook ends in a sentence with the name that was meant."""
    with pytest.raises(UsageError, match="Did you mean tiny"):
        script.script_of("tinny")


def test_an_older_copy_is_kept_beside_the_new(own, tmp_path, monkeypatch):
    """The student's copy stays as it is until the notebook changes; then it is put aside."""
    monkeypatch.setattr(server, "COPIES", tmp_path / "copies")
    copy = server.own_copy("tiny", "en")
    notebook = json.loads(copy.read_text())
    notebook["cells"].append("mine")
    copy.write_text(json.dumps(notebook))

    assert "mine" in server.own_copy("tiny", "en").read_text()
    (own / "tiny.py").write_text(SCRIPT + "\n# %%\n2\n")
    assert "mine" not in server.own_copy("tiny", "en").read_text()
    assert "mine" in copy.with_suffix(".old.ipynb").read_text()


def test_executions_are_read_from_events():
    """A start whose worker says nothing more is lost; the second worker's start has its own end."""

    def event(kind, at, worker, **more):
        return {"type": f"task-{kind}", "uuid": "a", "timestamp": at, "hostname": worker, **more}

    events = [
        event("received", 0, "one", name="app.add"),
        event("started", 1, "one"),
        event("started", 5, "two"),
        event("succeeded", 7, "two"),
    ]
    log = "[x: INFO/ForkPoolWorker-2] Task app.add[a] succeeded in 1s: 3"

    found = spans(events, log)

    assert [(s.short, s.worker, s.start, s.end, s.state, s.slot) for s in found] == [
        ("add", "one", 1, None, "lost", 2),
        ("add", "two", 5, 7, "succeeded", 2),
    ]


def test_modules_of_cells_begin_anew(tmp_path, monkeypatch):
    """When the first cell is run again, a module that a cell wrote is no longer known."""
    from grader.notebook.hands import HandsOn

    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "written_by_a_cell.py").write_text("x = 1\n")
    importlib.import_module("written_by_a_cell")
    bench = HandsOn.__new__(HandsOn)
    bench.folder = tmp_path

    bench._forget()

    assert "written_by_a_cell" not in sys.modules and str(tmp_path) not in sys.path


def test_what_jupyter_brings_along_slows_no_check():
    """The compose file's schema is read without the slow parser that came with Jupyter."""
    program = "from grader.containers.schema import _validator as v; v(); import sys"
    program += "; print({'rfc3987_syntax', 'lark'} & set(sys.modules), 'jsonschema' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)

    assert run.stdout == "set() True\n", run.stderr


# Each one run on the live lab


@pytest.fixture(scope="module")
def temp(tmp_path_factory):
    """A temporary folder of this module's own: a lab that somebody has up is none of ours."""
    # A short path: RabbitMQ and Jupyter make sockets and long names in it.
    with tempfile.TemporaryDirectory(prefix="nb-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", folder)
        patch.setenv("TMPDIR", folder)
        yield folder


@pytest.fixture(scope="module")
def stack(temp):
    """The lab, up for all notebooks."""
    if os.environ.get("LAB_REQUIRE_RABBITMQ"):
        assert rabbit_install.find_installation()
    with server.lab_up() as up:
        yield up


class Played:
    """A notebook after its run."""

    def __init__(self, notebook) -> None:
        self.cells = {cell.id: cell for cell in notebook.cells}
        self.code = [cell for cell in notebook.cells if cell.cell_type == "code"]

    def said(self, name: str) -> str:
        """What the cell of that name has printed."""
        outputs = self.cells[name].outputs
        return "".join(o.text for o in outputs if o.get("name") == "stdout")

    @property
    def pictures(self) -> list[str]:
        """The names of the cells that drew a picture."""
        return [c.id for c in self.code for o in c.outputs if "image/png" in o.get("data", {})]

    @property
    def complaints(self) -> str:
        """What was written to standard error: warnings, mostly."""
        return "".join(o.text for c in self.code for o in c.outputs if o.get("name") == "stderr")


def test_1_2(stack):
    """1_2 shows the message in both brokers, what JSON changes, and where each error appears."""
    played = Played(play.execute("1_2"))

    assert '"task": "kitchen.cook"' in played.said("redis-message")
    if "rabbitmq" in stack.services:
        assert '[["soup"], {"portions": 4}' in played.said("rabbit-message")
    assert played.said("types").count("<- changed") == 2
    assert "one, at the caller:  EncodeError" in played.said("unknown")
    assert "three: the caller waits for ever" in played.said("unknown")
    assert "rebuilt: ValueError(" in played.said("exceptions")
    assert played.pictures == ["picture-stages"] and not played.complaints


def test_1_3(stack):
    """1_3 shows a waiting retry, three ways to wait, the herd, and a retry that is swallowed."""
    played = Played(play.execute("1_3"))

    assert "the same id: True    state: RETRY" in played.said("unacked")
    medians = [
        # Between the start of an attempt and its plan lies a little time.
        [math.floor(float(wait) + 0.1) for wait in line.rpartition(":")[2].split()]
        for line in played.said("plans").splitlines()
    ]
    assert medians[:2] == [[3, 3, 3, 3, 3], [1, 2, 4, 8, 16]]
    assert 3 < medians[2][-1] < 14
    assert "4 starts, 4 times SUCCESS, 0 times RETRY" in played.said("swallowed")
    assert played.pictures == ["picture-waits", "picture-herd"] and not played.complaints


def test_2_1(stack):
    """2_1 shows the plan in the message, the processes at work, a wrong shape and a deadlock."""
    played = Played(play.execute("2_1"))

    assert "messages in the queue: 1" in played.said("embedded")
    assert played.said("gantts").count("4 pages delivered") == 3
    assert "holds 2 results of 3" in played.said("chord-counter")
    assert played.said("wrong-shape").count("FAILURE AttributeError") == 2
    assert "2 tasks wait, 0 of their own tasks have started" in played.said("deadlock")
    assert played.pictures == ["picture-one", "picture-four", "picture-graph"]
    assert not played.complaints


def test_1_1(stack):
    """1_1 loses what a killed worker had acknowledged, and nothing with late acknowledgement."""
    played = Played(play.execute("1_1"))

    assert "the task: SUCCESS - parcel 2 delivered" in played.said("stopped")
    counts = played.said("counts").splitlines()
    assert len(counts) == 2 * sum(name in stack.services for name in ("redis", "rabbitmq"))
    assert all("6 of 6 done" not in line for line in counts[::2])
    assert all("6 of 6 done" in line for line in counts[1::2])
    assert played.pictures == ["picture-deliveries"] and not played.complaints


def test_debug_1(stack):
    """debug_1 measures a slope where the worker leaks and none where it is mended or warm."""
    played = Played(play.execute("debug_1"))

    halves = [float(line.split()[-1]) for line in played.said("slopes").splitlines()]
    leaking, mended, warm = halves
    assert leaking > 4 > max(mended, warm)
    assert "the line: return [bytearray(" in played.said("tracemalloc")
    assert "dict ['under_way']" in played.said("referrers")
    assert played.pictures == ["picture-curves", "picture-hidden"] and not played.complaints


def test_2_2(stack):
    """2_2 shows both nights, messages that pile up and expire, one catch-up, one bad entry."""
    played = Played(play.execute("2_2"))

    assert "crontab 02:30, Berlin    03:30\n" in played.said("simulate")
    run, expired = map(int, re.findall(r"\d+", played.said("expired").splitlines()[-1]))
    assert run >= 4 and expired >= 3
    assert "two seconds away: 1" in played.said("catch-up")
    assert "messages: 0" in played.said("args")
    assert played.pictures == ["picture-spring", "picture-autumn"] and not played.complaints


def test_3_1(stack):
    """3_1 charges twice without a key, once with one, and leaves a customer without goods."""
    played = Played(play.execute("3_1"))

    assert played.said("charged-twice").count("payment: charged") == 2
    assert played.said("charged-once").count("payment: charged") == 1
    assert "what has happened: ['payment: charged']" in played.said("sold-out")
    assert played.pictures == ["good-day", "charged-twice", "charged-once", "sold-out"]
    assert not played.complaints


def test_each_notebook_is_run():
    """Each notebook has a test above."""
    assert {f"test_{id}" for id in script.ids()} <= set(globals())


def test_a_run_leaves_nothing(stack, temp):
    """What a notebook has started and written is gone with its kernel."""
    assert [folder.name for folder in live.base().iterdir() if folder != stack.folder] == []
    assert not [p for p in psutil.process_iter(["cwd"]) if "/notebook-" in (p.info["cwd"] or "")]


def test_a_notebook_needs_the_lab(temp, monkeypatch):
    """Without brokers the first cell says what to type."""
    from grader.notebook.hands import hands_on

    monkeypatch.setattr(live, "current", lambda: None)
    with pytest.raises(UsageError, match="lab up"):
        hands_on("1_2")


def test_a_failing_cell_is_told(own, stack):
    """A cell that fails ends the run with its error."""
    (own / "tiny.py").write_text("# %%\n1 / 0\n")

    with pytest.raises(LabFault, match="ZeroDivisionError"):
        play.execute("tiny")


# The command


def lab(*arguments, **more):
    """Return the call of `lab` as Popen wants it."""
    return {
        "args": [sys.executable, "-m", "grader", *arguments],
        "cwd": ROOT,
        "text": True,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        **more,
    }


def test_they_are_listed(temp):
    """`lab notebook` lists the notebooks in the language asked for."""
    run = subprocess.run(**lab("notebook", "--lang", "zh"), timeout=60)

    assert [line.split()[0] for line in run.stdout.splitlines()] == script.ids()
    assert "路上走的是什么" in run.stdout


def test_a_page_needs_no_network(own, stack, tmp_path):
    """A rendered page holds outputs and asks no other server for anything."""
    (own / "tiny.zh-CN.md").write_text("<!-- hello -->\n# 你好\n")

    play.render("tiny", "zh", tmp_path / "sub" / "page.html")

    html = (tmp_path / "sub" / "page.html").read_text("utf-8")
    assert "你好" in html and "Writing tiny.py" in html
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//[^"' >]+""", html)


def asked(url, path, body=None):
    """Ask the Jupyter server at the address that the command printed."""
    base, _, token = url.partition("/lab/tree/1_2.ipynb?token=")
    headers = {"Authorization": f"token {token}"} if token else {}
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(f"{base}/api/{path}", data=data, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def words(process):
    """Return a process's command line, "" for one that has just ended."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGHUP], ids=["ctrl-c", "closed"])
def test_jupyterlab_opens_it_and_ends_whole(temp, end):
    """`lab notebook` serves a copy on loopback with a token; Ctrl-C ends all that was started."""
    before = live.current()
    with subprocess.Popen(**lab("notebook", "1_2", "--no-browser"), start_new_session=True) as run:
        try:
            url = address(run)
            notebook = asked(url, "contents/1_2.ipynb")["content"]
            kernel = notebook["metadata"]["kernelspec"]["name"]
            assert asked(url, "kernels", {"name": kernel})["id"]
            with pytest.raises(urllib.error.HTTPError, match="403"):
                asked(url.partition("?")[0].replace("/lab/tree/1_2.ipynb", ""), "kernels")
            family = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
            assert any("ipykernel_launcher" in words(process) for process in family)
            places = {ip for process in family for ip in listening(process)}
            assert places and places <= {"127.0.0.1", "::1"}
        finally:
            os.killpg(run.pid, end)
        said = run.stdout.read()
        assert run.wait(30) == 0, said
    assert "nothing is left running" in said
    wait_until(lambda: not any(map(lives, family)), 10, AssertionError)
    assert (live.current() is None) == (before is None)


def listening(process):
    """Return the addresses on which a process listens; none where it has just ended."""
    with contextlib.suppress(psutil.Error):
        return {c.laddr.ip for c in process.net_connections() if c.status == "LISTEN"}
    return set()


def address(run):
    for line in run.stdout:
        if found := re.search(r"http://127\.0\.0\.1:\S+", line):
            return found[0]
    raise AssertionError(run.wait(5))
