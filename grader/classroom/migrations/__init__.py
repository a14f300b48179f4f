"""How a grade book of an older version becomes one of this version."""
