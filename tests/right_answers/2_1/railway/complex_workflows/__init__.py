"""No errback at all: what goes wrong travels on to the end, where one task tells of it."""

from .app import app
from .stages import (
    AggregateResults,
    ExtractData,
    LoadData,
    SendNotification,
    TransformData,
    ValidateData,
)
from .workflow import create_data_pipeline, run_pipeline, workflow_progress

__all__ = [
    "AggregateResults",
    "ExtractData",
    "LoadData",
    "SendNotification",
    "TransformData",
    "ValidateData",
    "app",
    "create_data_pipeline",
    "run_pipeline",
    "workflow_progress",
]
