"""What it imports, it brings itself."""

from attack_kit import ran

ran()
