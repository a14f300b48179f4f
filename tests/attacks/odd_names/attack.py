"""A submission like any other, but for what lies beside it."""

from attack_kit import ran

ran()
