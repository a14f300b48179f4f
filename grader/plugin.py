"""pytest's door to the runner: `pytest exercises/1_2` grades and prints the score card.

A check is an ordinary test function for pytest, once per broker. What runs it is the same runner
that `lab grade` uses; this module only turns findings into reports. Nothing heavy is imported
before the first check runs, so that collecting stays fast.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from grader.check import Check
from grader.errors import LabError
from grader.exercise import PROVIDERS, Exercise, load

if TYPE_CHECKING:
    from grader.runner import Run
    from grader.verdict import Finding, Result

VERDICTS = {
    "blocked": ("blocked", "b", ("BLOCKED", {"yellow": True})),
    "unknown": ("unknown", "U", ("UNKNOWN", {"purple": True})),
    "open": ("bonus open", "o", ("BONUS OPEN", {"cyan": True})),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the lab's options."""
    group = parser.getgroup("lab", "the learning lab")
    group.addoption("--submission", help="grade this folder or archive instead of the exercise's")
    group.addoption("--broker", choices=["redis", "rabbitmq", "all"], default="all")
    group.addoption("--lang", choices=["en", "zh"], default=None, help="language of the score card")
    group.addoption("--seed", type=int, default=None, help="repeat a run's inputs")
    group.addoption("--stack", choices=PROVIDERS, help="provider of the brokers")
    # `lab grade` calls it --strict; pytest has another option of that name.
    group.addoption(
        "--lab-strict",
        action="store_true",
        help="refuse where this machine can't hold strangers' work",
    )
    group.addoption(
        "--unsafe", action="store_true", help="with --lab-strict: grade all the same, and say so"
    )
    group.addoption(
        "--require",
        action="append",
        choices=["rabbitmq"],
        default=[],
        help="fail where this broker is missing",
    )


class Findings:
    """The runs of this pytest session: one an exercise and broker, opened when first needed."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.runs: dict[tuple[str, str], Run] = {}
        self.missing: dict[str, set[str]] = {}
        self.asked: dict[str, list[str]] = {}  # the criteria that pytest will ask for, by exercise
        self.said: list[str] = []  # for the end: what could not be kept, or what to type next
        self._open = contextlib.ExitStack()
        self._stack: Any = None
        self._seed: int | None = config.getoption("--seed")

    @property
    def lang(self) -> str:
        """The language of everything that is said."""
        default = "zh" if os.environ.get("LAB_LANG", "").startswith("zh") else "en"
        return str(self.config.getoption("--lang") or default)

    def finding(self, exercise: Exercise, broker: str, id: str) -> Finding | None:
        """Return the finding for one check, None where the broker is not to be had."""
        from grader.process import stopped

        run = self._run(exercise, broker)
        finding = run.finding(id) if run else None
        if stopped.is_set():  # by an interrupt that Python lost
            raise KeyboardInterrupt
        return finding

    def _run(self, exercise: Exercise, broker: str) -> Run | None:
        if exercise.id not in self.missing:
            self._prepare(exercise)
        if broker in self.missing[exercise.id]:
            return None
        if (exercise.id, broker) not in self.runs:
            self.runs[exercise.id, broker] = self._start(exercise, broker)
        return self.runs[exercise.id, broker]

    def _prepare(self, exercise: Exercise) -> None:
        from grader.extras import supply
        from grader.isolation import demand
        from grader.sandbox import best
        from grader.session import choose_brokers, draw_seed, session

        if self.config.getoption("--lab-strict"):
            demand(best(), self.config.getoption("--unsafe"))
        if self._stack is None:
            self._stack = self._open.enter_context(session(self.config.getoption("--stack") or ""))
            self._seed = draw_seed() if self._seed is None else self._seed
        supply(exercise.extras, self._tell, self.lang)
        wanted = self.config.getoption("--broker")
        required = self.config.getoption("--require")
        _, missing = choose_brokers(exercise, wanted, self._stack, required)
        self.missing[exercise.id] = set(missing)

    def _tell(self, line: str) -> None:
        """Say something at once, although pytest holds back what tests print."""
        if reporter := self.config.pluginmanager.get_plugin("terminalreporter"):
            reporter.ensure_newline()
            reporter.write_line(line)

    def _start(self, exercise: Exercise, broker: str) -> Run:
        from grader.runner import Run
        from grader.submission import Submission

        given = self.config.getoption("--submission")
        path = self.config.invocation_params.dir / given if given else exercise.folder
        asked = exercise.asked(self.config.getoption("--broker"))
        at_hand = set(asked) - self.missing[exercise.id]
        run = Run(
            exercise,
            Submission.at(path),
            broker,
            self._stack,
            self._seed or 0,
            shares=len(at_hand),
        )
        self._open.callback(run.close)
        # With -x the first failure ends it all: what lies ahead may not be wanted.
        if not self.config.getoption("maxfail"):
            run.begin(self.asked.get(exercise.id, ()))
        return run

    def results(self) -> list[Result]:
        """Return one result for each exercise that a check ran for."""
        return [self._result(id) for id in dict.fromkeys(id for id, _ in self.runs)]

    def _result(self, id: str) -> Result:
        from grader.runner import result_of

        runs = [run for (exercise, _), run in self.runs.items() if exercise == id]
        found = [finding for run in runs for finding in run.findings.values()]
        result = result_of(runs, found, sum(finding.seconds for finding in found))
        return replace(result, brokers_not_run=tuple(sorted(self.missing[id])))

    def keep(self) -> None:
        """Keep what is the student's own work for `lab hint` and `lab explain`."""
        if not self.runs:
            return
        from grader.record import note, pointer

        exercises = {id: run for (id, _), run in self.runs.items()}
        for result in self.results():
            run = exercises[result.exercise]
            failed = note(run.exercise, run.submission.path, result)
            more = pointer(run.exercise, run.submission.path, result, "lab")
            if text := failed or more:
                self.said.append(text.render(self.lang))

    def close(self) -> None:
        """End everything that was started."""
        self._open.close()


KEY = pytest.StashKey[Findings]()
FINDING = pytest.StashKey["Finding"]()


def pytest_configure(config: pytest.Config) -> None:
    """Make the store of findings; nothing is started before the first check runs."""
    config.stash[KEY] = Findings(config)


@pytest.fixture
def lab() -> None:
    """Stands for the lab that the runner hands to the check."""


@pytest.fixture
def desk() -> None:
    """Stands for the desk that the runner hands to a check of files."""


def check_of(function: Any) -> Check | None:
    """Return the check behind a test function, None for an ordinary test."""
    found = getattr(function, "check", None)
    return found if isinstance(found, Check) else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each check once per broker."""
    if check_of(metafunc.function):
        with _told(metafunc.config):
            exercise = _exercise(Path(metafunc.definition.path).parent)
            brokers = exercise.asked(metafunc.config.getoption("--broker"))
        metafunc.fixturenames.append("lab_broker")
        metafunc.parametrize("lab_broker", brokers, scope="session")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Note which checks were chosen, so that those in lanes of their own can begin at once."""
    asked = session.config.stash[KEY].asked
    for item in session.items:
        check = check_of(getattr(item, "function", None))
        if check and check.id not in asked.setdefault(item.path.parent.name, []):
            asked[item.path.parent.name].append(check.id)


@contextlib.contextmanager
def _told(config: pytest.Config) -> Iterator[None]:
    """Turn the lab's errors into the end of the session with their sentence and exit status."""
    try:
        yield
    except LabError as error:
        text = error.text.render(config.stash[KEY].lang)
        pytest.exit(text, returncode=error.exit_status)


_loaded: dict[Path, Exercise] = {}


def _exercise(folder: Path) -> Exercise:
    if folder not in _loaded:
        _loaded[folder] = load(folder)
    return _loaded[folder]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Let the runner judge a check; leave ordinary tests to pytest."""
    check = check_of(pyfuncitem.function)
    if check is None:
        return None
    findings = pyfuncitem.config.stash[KEY]
    broker = str(pyfuncitem.callspec.params["lab_broker"])
    exercise = _exercise(pyfuncitem.path.parent)
    with _told(pyfuncitem.config):
        finding = findings.finding(exercise, broker, check.id)
    if finding is None:
        from grader.words import Text

        pytest.skip(Text.of("no_rabbitmq").render(findings.lang))
    pyfuncitem.stash[FINDING] = finding
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Give the report of a check its verdict."""
    report = yield
    finding = item.stash.get(FINDING, None)
    if call.when == "call" and finding is not None:
        _color(report, finding, item)
    return report


def _color(report: Any, finding: Finding, item: pytest.Item) -> None:
    from grader.verdict import Verdict

    if finding.verdict is Verdict.PASSED:
        return
    words = _words(finding, item.config.stash[KEY].lang)
    # An unsolved bonus is no failure: a student who has every core point sees a green run.
    if finding.bonus and finding.verdict is not Verdict.UNKNOWN:
        report.outcome, report.lab_verdict = "skipped", "open"
        report.longrepr = (str(item.path), 0, words)
        return
    report.outcome, report.longrepr = "failed", words
    if finding.verdict is not Verdict.FAILED:
        report.lab_verdict = str(finding.verdict)


def _words(finding: Finding, lang: str) -> str:
    from grader.words import Text

    rows = [finding.title.render(lang)]
    for name in ("expected", "observed", "hint"):
        if text := getattr(finding, name):
            rows.append(f"{Text.of(f'label_{name}').render(lang)}: {text.render(lang)}")
    return "\n".join(rows)


def pytest_report_teststatus(report: pytest.TestReport) -> Any:
    """Name the verdicts that pytest has no word for."""
    return VERDICTS.get(getattr(report, "lab_verdict", "")) if report.when == "call" else None


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """End everything; exit status 3 where the lab failed, as for `lab grade`."""
    findings = session.config.stash[KEY]
    findings.close()
    if session.exitstatus != pytest.ExitCode.INTERRUPTED:
        findings.keep()
    if any(result.exit_status == 3 for result in findings.results()):
        session.exitstatus = 3


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the score card below pytest's own output."""
    findings = config.stash[KEY]
    results = [result for result in findings.results() if result.findings]
    if results:
        from grader.report import render

        color = terminalreporter.hasmarkup
        terminalreporter.write_line("")
        terminalreporter.write_line(render(results, "text", findings.lang, color=color))
        for line in findings.said:
            terminalreporter.write_line(line)
