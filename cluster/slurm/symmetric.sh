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
exec srun --kill-on-bad-exit=1 "$python/ray" symmetric-run \
  --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus "${SLURM_CPUS_PER_TASK:-1}" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" \
  -- "$python/python" "$@" --ray "$head:$port"
