#!/bin/sh
set -eu
# Everything that should happen first goes here.
echo "starting: $*"
exec "$@"
