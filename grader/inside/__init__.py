"""Programs that run inside the student's processes. They never import the grader."""
