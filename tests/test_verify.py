"""What `lab verify --sample` leaves out, and what it never does."""

import random

import pytest

from grader.exercise import find, folders
from grader.verify import SAMPLE, WRONG, cases, read_case, sampled, tasks_of

IDS = [folder.name for folder in folders()]


def fails(paths, exercise):
    return {id for path in paths for id in read_case(path, exercise)["fails"]}


@pytest.mark.parametrize("id", IDS)
def test_each_criterion_has_a_wrong_answer(id):
    """A check that no wrong answer fails proves nothing."""
    exercise = find(id)

    proven = fails(cases(WRONG / id), exercise)

    assert {row.id for row in exercise.criteria} == proven


@pytest.mark.parametrize("id", IDS)
def test_a_sample_proves_many_criteria(id):
    """Whatever the seed, a sample is full or proves all; each of its answers proves a new one."""
    exercise = find(id)
    wrong = cases(WRONG / id)

    for seed in range(20):
        sample = sampled(wrong, exercise, random.Random(seed))
        proven = fails(sample, exercise)
        assert len(sample) == SAMPLE or proven == fails(wrong, exercise)
        assert len(proven) >= len(sample) == len(set(sample))


def test_a_seed_repeats_its_sample_and_others_draw_others():
    """The seed that CI prints repeats the run; over the runs every wrong answer has its turn."""
    exercise = find("1_2")
    wrong = cases(WRONG / "1_2")

    drawn = [sampled(wrong, exercise, random.Random(seed)) for seed in range(99)]

    assert drawn[0] == sampled(wrong, exercise, random.Random(0))
    assert {path for sample in drawn for path in sample} == set(wrong)
    assert max(len(sample) for sample in drawn) < len(wrong)


def test_a_sample_has_the_starter_and_one_right_answer(tmp_path):
    """Beside wrong answers: the starter and one right answer; solutions are graded elsewhere."""
    exercise = find("1_2")

    tasks = {
        task.name: task
        for task in tasks_of(exercise, ("redis",), False, tmp_path, random.Random(1))
    }

    assert "solutions/1_2" not in tasks
    assert sum(name.startswith("right/") for name in tasks) == 1
    assert "exercises/1_2" in tasks
