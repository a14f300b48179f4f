"""Stands where another module of this name is expected; it may not come before the limits."""

import resource

import attack_kit

if resource.getrlimit(resource.RLIMIT_CORE)[1]:
    attack_kit.won("code of the submission ran without limits")
