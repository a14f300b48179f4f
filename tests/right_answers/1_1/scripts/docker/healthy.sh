#!/bin/sh
# Asks this container's worker, and no other, over the broker.
exec celery -A app inspect ping --timeout 5 -d "greeter@$(hostname)"
