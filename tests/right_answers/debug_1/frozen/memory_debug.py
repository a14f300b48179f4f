"""The face of the service: what others import. The work is done in the package beside it."""

from lab_service.factory import create_app

app = create_app()

from lab_service.campaign import lasting_results, start_campaign  # noqa: E402
from lab_service.watch import debug_memory_leak  # noqa: E402

__all__ = ["app", "debug_memory_leak", "lasting_results", "start_campaign"]

if __name__ == "__main__":
    from lab_service.freeze import command

    command()
