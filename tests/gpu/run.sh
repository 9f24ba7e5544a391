#!/usr/bin/env bash
# Everything of rayul that needs a card, in under nine minutes and without a network:
#
#     bash tests/gpu/run.sh            one NVIDIA GPU
#     bash tests/gpu/run.sh --toy      the same steps at toy size on a CPU
#
# Wheels in .device-wheels/ are installed where Ray is missing; TOFU's files are taken from $TOFU, .device-wheels/tofu or
# ../shared/tofu. What was measured comes into $OUT, or results/gpu/run. results/gpu/README.md says more.
set -euo pipefail
cd "$(dirname "$0")/../.."

began=$(date +%s)
python=${PYTHON:-python3}
if ! "$python" -c "import ray" 2> /dev/null && compgen -G ".device-wheels/*.whl" > /dev/null; then
    # A system's own Python refuses without the variable. What fails without its packages says so in its step.
    PIP_BREAK_SYSTEM_PACKAGES=1 timeout 60 "$python" -m pip install --quiet --no-input --no-index --no-deps \
        --find-links .device-wheels .device-wheels/*.whl || echo "the wheels could not be installed" >&2
fi
for place in "${TOFU:-}" .device-wheels/tofu ../shared/tofu; do
    if [ -f "$place/full.json" ]; then export TOFU=$place; break; fi
done
export HF_HUB_OFFLINE=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "$python" tests/gpu/steps.py --began "$began" --output "${OUT:-results/gpu/run}" "$@"
