#!/usr/bin/env bash
# The name that the published command lines use.
exec "$(dirname "${BASH_SOURCE[0]}")/prepare-iwslt14.sh" "$@"
