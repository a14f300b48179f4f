"""`python -m grader` is `lab`."""

from grader.cli import main

main()
