#!/usr/bin/env bash
# Run a sweep on a Ray cluster from a machine outside it. The driver runs on the head; this script only shows its output,
# and you may close it.
#
#   cluster/submit.sh search_spaces/tofu.yaml --results s3://YOUR-BUCKET/sweeps
#
# RAY_API_SERVER_ADDRESS: the cluster's dashboard, by default a tunnel to it on this machine (`ray dashboard
# cluster.yaml`, or `kubectl port-forward service/rayul-head-svc 8265:8265`).
# ~/.ray/auth_token, or RAY_AUTH_TOKEN_PATH, or RAY_AUTH_TOKEN: the cluster's token. RAY_AUTH_MODE=disabled for a cluster
# that has none.
set -euo pipefail

if [ "$#" -lt 1 ]; then
    echo "usage: $0 SPEC [--results URL-OR-SHARED-FOLDER] [flags of rayul sweep]" >&2
    exit 2
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}
token=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
if [ "$RAY_AUTH_MODE" = token ] && [ -z "${RAY_AUTH_TOKEN:-}" ]; then
    if [ ! -s "$token" ]; then
        echo "no token in $token: on the cluster's head run 'ray get-auth-token', and keep it there with mode 0600" >&2
        exit 2
    fi
    if [ -O "$token" ]; then chmod 600 "$token"; fi
fi

address=${RAY_API_SERVER_ADDRESS:-http://127.0.0.1:8265}
# Quoted once more: the cluster's shell reads the command again.
printf -v command '%q ' rayul sweep "$@" --resume-if-any
exec ray job submit --address "$address" --runtime-env "${RAYUL_RUNTIME_ENV:-cluster/runtime_env.yaml}" \
    -- bash -c "$command"
