#!/bin/bash
set -eo pipefail
echo "Starting celery worker; signals arrive at it"
case "$1" in
  worker) exec celery -A app worker -l INFO -E ;;  # becomes it
  *) exec "$@" ;;
esac
