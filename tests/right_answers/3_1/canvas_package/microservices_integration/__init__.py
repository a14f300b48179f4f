"""A package: class-based tasks on a canvas of chords; an errback is the net below."""

from .base import app
from .data import OrderData, ServiceResponse
from .services import ServiceCommunicator
from .workflow import process_order

__all__ = ["OrderData", "ServiceCommunicator", "ServiceResponse", "app", "process_order"]
