#!/bin/bash
# base: bash commands.sh ACTION. Written by `python -m launch`.
set -euo pipefail
case "${1:-}" in
submit)
  kubectl apply --filename=/launches/gke/jobset.yaml
  ;;
status)
  kubectl get jobset base --namespace=default
  kubectl get pods --selector=jobset.sigs.k8s.io/jobset-name=base --namespace=default --output=wide
  ;;
logs)
  kubectl logs --selector=jobset.sigs.k8s.io/jobset-name=base --namespace=default --prefix --tail=20 --max-log-requests=256
  ;;
cancel)
  kubectl delete jobset base --namespace=default
  ;;
*)
  echo 'usage: bash commands.sh submit|status|logs|cancel' >&2
  exit 2
  ;;
esac
