#!/usr/bin/env bash
# One Ray cluster for one job:   sbatch --nodes=4 cluster/slurm/symmetric.sh jobs/rescore.py --study /shared/study.yaml
# Run from the checkout, whose environment .venv all nodes see. Submit it again to go on where it was.
#SBATCH --job-name=spineage
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
set -euo pipefail
python="$PWD/.venv/bin"
head="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
port=$((6379 + SLURM_JOB_ID % 1000)) # two jobs may share a node
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
umask 077
RAY_AUTH_TOKEN="$("$python/python" -c 'import secrets; print(secrets.token_hex(32))')"
export RAY_AUTH_TOKEN # of this job alone: srun hands it on, and nobody else has it
# The other nodes notice a minute after the head that it is gone, with a log of alarm: srun ends them, and calls
# that a failure, so the exit code is taken from the job itself. A time limit (SIGTERM) is told to the job alone, which
# lets go of what it holds: srun would kill it.
note="$(mktemp)" # on the head, where this runs too: its process while it runs, then `ended CODE`
srun --kill-on-bad-exit=1 --wait=5 "$python/ray" symmetric-run \
  --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus "${SLURM_CPUS_PER_TASK:-1}" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" \
  -- bash -c '"$@" & echo "$!" >"$0"; wait "$!"; code=$?; echo "ended $code" >"$0"; exit "$code"' \
  "$note" "$python/python" "$@" --ray "$head:$port" &
run=$!
trap 'kill -TERM "$(cat "$note")" 2>/dev/null || kill -TERM "$run"' TERM
ended=1
while kill -0 "$run" 2>/dev/null; do wait "$run" && ended=0 || ended=$?; done
if grep -q '^ended' "$note"; then ended="$(cut -d ' ' -f 2 "$note")"; fi
rm -f "$note"
exit "$ended"
