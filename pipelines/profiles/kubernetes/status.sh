#!/usr/bin/env bash
# Print success, failed or running: how Job $1 of Kubernetes stands.
set -euo pipefail
case $(kubectl get job "$1" -o jsonpath='{.status.succeeded}/{.status.failed}') in
1/*) echo success ;;
/ | */0) echo running ;;
*) echo failed ;;
esac
