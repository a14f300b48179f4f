"""A good answer whose own modules happen to have the grader's names."""

from attack_kit import ran

ran()
