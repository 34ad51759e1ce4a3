#!/usr/bin/env bash
# An array of jobs without Ray: each task scores its share of the scans, alone.
#   sbatch --array=1-16 cluster/slurm/array.sh /shared/study.yaml 16
# A task that was killed is submitted again (--array=3,7, and still 16 shares). At the end one run of all
# merges what they wrote: spineage score --study /shared/study.yaml
#SBATCH --job-name=spineage
#SBATCH --cpus-per-task=1
#SBATCH --mem=6G
#SBATCH --signal=B:TERM@60
set -euo pipefail
study=${1:?the study file, on a disk that all nodes see}
shares=${2:?how many shares there are: the same number in each submission}
exec spineage score --study "$study" --no-ray --shard "$SLURM_ARRAY_TASK_ID/$shares"
