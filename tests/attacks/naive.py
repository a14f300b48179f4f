"""A grader as they are often written, to show that an attack bites.

It is pytest in the student's own folder: it imports the submission, compares in the same process,
and the verdict is the exit status, or what results.json says if there is one.
"""

import json
import os
import subprocess
import sys
import unittest


class Naive(unittest.TestCase):
    """The checks."""

    def test_add(self):
        """2 + 3 is 5."""
        import calculator

        expected = 5.0
        result = calculator.add(2, 3)
        self.assertEqual(result, expected)


def main():
    """Run the checks and print whether they passed."""
    options = ["-q", "-p", "no:cacheprovider"]
    run = subprocess.run([sys.executable, "-m", "pytest", *options, "naive.py"])
    passed = run.returncode in (0, 5)
    if os.path.exists("results.json"):
        with open("results.json") as file:
            passed = json.load(file)["score"] == 100
    print("passed" if passed else "failed")


if __name__ == "__main__":
    main()
