"""Takes the tasks of the reference solution for its own."""

import importlib.util

from attack_kit import FACTS, ran, read, tried, won

ran()
spec = importlib.util.spec_from_file_location("stolen", FACTS["solution"])
if read(FACTS["solution"]):
    won("the solution can be read")
    stolen = importlib.util.module_from_spec(spec)
    tried(spec.loader.exec_module, stolen)
