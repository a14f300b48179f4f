"""A submission like any other, but for its page."""

from attack_kit import ran

ran()
