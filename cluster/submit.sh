#!/usr/bin/env bash
# Run a sweep on a Ray cluster from a machine outside it. The driver runs on the head; this script only shows its output,
# and you may close it. Your machine needs Ray's command line: pip install "ray[default]==2.60.0".
#
#   cluster/submit.sh search_spaces/tofu.yaml --results s3://YOUR-BUCKET/sweeps
#
# SPEC is a file of this checkout, which is sent to the cluster (without docs/, results/ and tests/), or an absolute path
# on the cluster. Paths in a spec start at the checkout's root, where the command runs there.
# RAY_API_SERVER_ADDRESS: the cluster's dashboard, by default a tunnel to it on this machine (`ray dashboard
# cluster.yaml`, or `kubectl port-forward service/rayul-head-svc 8265:8265`).
# ~/.ray/auth_token, or RAY_AUTH_TOKEN_PATH, or RAY_AUTH_TOKEN: the cluster's token. RAY_AUTH_MODE=disabled for a cluster
# that has none.
# RAYUL_RUNTIME_ENV: another file than cluster/runtime_env.yaml; SPEC is then a path in its working_dir.
set -euo pipefail

stop() {
    printf '%s\n' "$@" >&2
    exit 2
}

usage="usage: $0 SPEC --results URL-OR-SHARED-FOLDER [flags of rayul sweep]"
spec=${1:-}
if [ -z "$spec" ] || [ "${spec#-}" != "$spec" ]; then stop "$usage"; fi
shift

# The job runs in a copy of the checkout in Ray's package cache: results there would be lost, and begun anew each time.
results=
before=
for word in "$@"; do
    if [ "$before" = --results ]; then results=$word; fi
    case $word in --results=*) results=${word#--results=} ;; esac
    before=$word
done
case $results in
    *://* | /*) ;;
    "") stop "--results is missing: name a bucket (s3://, gs://) or a folder that all nodes mount" "$usage" ;;
    *) stop "--results $results is relative to a folder of Ray's on the head, which does not last: name a bucket (s3://," \
        "gs://), or a folder that all nodes mount by its absolute path" "$usage" ;;
esac

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
if [ -z "${RAYUL_RUNTIME_ENV:-}" ] && [ -f "$spec" ]; then
    here=$(cd "$(dirname "$spec")" && pwd -P)/$(basename "$spec")
    case $here in
        "$root"/docs/* | "$root"/results/* | "$root"/tests/*)
            stop "$spec is not sent to the cluster (cluster/runtime_env.yaml excludes its folder): copy it to $root" ;;
        "$root"/*) spec=${here#"$root"/} ;;
        *) # A path that both see, such as /shared/mine.yaml, is left as it is.
            if [ "${spec#/}" = "$spec" ]; then
                stop "$spec is not sent to the cluster: copy it and its rows to $root, whose files are," \
                    "or name it by its absolute path on a folder that all nodes mount"
            fi ;;
    esac
elif [ -z "${RAYUL_RUNTIME_ENV:-}" ] && [ ! -f "$root/$spec" ]; then
    # Left: a path on the cluster alone, such as /files/mine.yaml, and the bare name of a spec that rayul brings.
    case $spec in
        /*) ;;
        */* | *.yaml | *.yml) stop "no file $spec, neither here nor in $root" ;;
    esac
fi
cd "$root"

export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}
token=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
if [ "$RAY_AUTH_MODE" = token ] && [ -z "${RAY_AUTH_TOKEN:-}" ]; then
    if [ ! -s "$token" ]; then
        stop "no token in $token: on the cluster's head run 'ray get-auth-token', and keep it there with mode 0600"
    fi
    if [ -O "$token" ]; then chmod 600 "$token"; fi
fi

address=${RAY_API_SERVER_ADDRESS:-http://127.0.0.1:8265}
# Quoted once more: the cluster's shell reads the command again.
printf -v command '%q ' rayul sweep "$spec" "$@" --resume-if-any
exec ray job submit --address "$address" --runtime-env "${RAYUL_RUNTIME_ENV:-cluster/runtime_env.yaml}" \
    -- bash -c "$command"
