#!/usr/bin/env bash
# A run on Slurm that goes on over as many turns as it needs. The arguments are those of fit.py:
#
#   RUN=/shared/runs/mine sbatch --nodes=8 --ntasks-per-node=8 --gpus-per-node=8 scripts/submit_slurm.sh \
#       --config captions data.path='/shared/shards/*.tar' model.name=openai/clip-vit-base-patch32
#
# Two minutes before the time is up Slurm sends USR1: every rank finishes its batch and writes it, and the last has the
# job started again (scontrol requeue), which goes on where it stopped. A table that is done is not started again.
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
# One task for each device; a rank that dies does not end the others: its pairs are done by the next
# turn, or when this is submitted again.
srun --kill-on-bad-exit=0 "${PYTHON:-python}" fit.py resume=true output_dir="$RUN" "$@"
