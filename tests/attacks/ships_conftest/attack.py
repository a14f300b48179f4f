"""Files that a test runner would load by itself."""

from attack_kit import ran

ran()
