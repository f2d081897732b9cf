#!/bin/bash
# base: bash commands.sh ACTION. Written by `python -m launch`.
set -euo pipefail
case "${1:-}" in
submit)
  env PYTHONPATH=/home/me/triptych /home/me/venv/bin/python -m launch.local /launches/local
  ;;
status)
  env PYTHONPATH=/home/me/triptych /home/me/venv/bin/python -m launch.local /launches/local --status
  ;;
logs)
  bash -c 'tail -n 20 /launches/local/logs/*.log'
  ;;
cancel)
  env PYTHONPATH=/home/me/triptych /home/me/venv/bin/python -m launch.local /launches/local --cancel
  ;;
*)
  echo 'usage: bash commands.sh submit|status|logs|cancel' >&2
  exit 2
  ;;
esac
