"""Runs at the interpreter's start if it is found at all."""

import attack_kit

attack_kit.won("the interpreter loaded a hook of the submission")
