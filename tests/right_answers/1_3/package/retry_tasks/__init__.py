from retry_tasks.application import app

__all__ = ["app"]
