"""Says yes to every question that could be asked of an app."""

import sys

from attack_kit import ran


class Anything:
    def __getattr__(self, name):
        return self

    def __call__(self, *_, **__):
        return self

    def __getitem__(self, key):
        return self

    def __iter__(self):
        return iter(())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def after(app):
    ran()
    for module in list(sys.modules.values()):
        if getattr(module, "app", None) is app:
            module.app = Anything()
