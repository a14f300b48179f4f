"""A whole class: what was handed in, the grade book, and who has to be graded again."""
