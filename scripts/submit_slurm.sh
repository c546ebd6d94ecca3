#!/usr/bin/env bash
# A run on Slurm that is requeued until it is complete. The arguments are those of fit.py:
#
#   RUN=/shared/runs/mine sbatch --nodes=8 --ntasks-per-node=8 --gpus-per-node=8 scripts/submit_slurm.sh \
#       --config captions data.path='/shared/shards/*.tar' model.name=openai/clip-vit-base-patch32
#
# Slurm sends USR1 two minutes before the time limit. Every rank then finishes and writes its batch, and the last rank
# requeues the job (scontrol requeue), which resumes the run. A complete run is not requeued.
#SBATCH --job-name=m2ib
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail
: "${RUN:?set RUN to the run directory, on a file system that all nodes see}"
# One task per device. A rank that dies does not end the others; the next start of the job explains its pairs.
srun --kill-on-bad-exit=0 "${PYTHON:-python}" fit.py resume=true output_dir="$RUN" "$@"
