#!/bin/sh
# Says who runs, then becomes it.
set -eu
echo "starting as $(id -un): $*"
exec "$@"
