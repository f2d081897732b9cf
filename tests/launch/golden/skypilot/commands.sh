#!/bin/bash
# base: bash commands.sh ACTION. Written by `python -m launch`.
set -euo pipefail
case "${1:-}" in
submit)
  sky jobs launch --yes --detach-run --name=base /launches/skypilot/skypilot.yaml
  ;;
status)
  sky jobs queue
  ;;
logs)
  sky jobs logs --name=base --no-follow
  ;;
cancel)
  sky jobs cancel --yes --name=base
  ;;
*)
  echo 'usage: bash commands.sh submit|status|logs|cancel' >&2
  exit 2
  ;;
esac
