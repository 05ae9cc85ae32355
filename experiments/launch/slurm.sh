#!/bin/bash
# A training on several nodes under Slurm, which goes on by itself when its time is over.
#
#   sbatch experiments/launch/slurm.sh
#
# Change what is marked with "<-". The run's folder must be on a file system that all nodes share.
#
#SBATCH --job-name=cnn_jax
#SBATCH --nodes=2                # <- machines
#SBATCH --ntasks-per-node=1      # One process uses all GPUs of its node; the number of GPUs works too.
#SBATCH --gpus-per-node=8        # <-
#SBATCH --cpus-per-task=64       # <- the cores of a node, over --ntasks-per-node
#SBATCH --time=04:00:00          # <- the limit of the partition
#SBATCH --signal=USR1@180        # Seconds before the limit: a step, a checkpoint, and up to 60 more.
#SBATCH --requeue
#SBATCH --open-mode=append       # One log for all parts of the run.
#SBATCH --output=%x-%j.log

# Without "B:", Slurm sends SIGUSR1 to the processes of the step and not to this script. Each process
# of the run hears it, and they save at the same step. So nothing is trapped or forwarded here.
# (With --signal=B:USR1@180 this script alone would get it. It would then have to start srun with "&",
# pass the signal on with scancel --signal=USR1 "$SLURM_JOB_ID.0", and wait twice.)

set -u

out=runs/imagenet                # <- the run's folder, the same for every part

# srun does not take it from sbatch.
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

resume=()
if [ -e "$out/config.json" ]; then resume=(--resume); fi

# A process that ends last may end with another status than 75 if srun kills it, hence =0.
# <- the training; --batch-size counts the examples of a step on all GPUs together
srun --kill-on-bad-exit=0 \
  python -m experiments.classify --distributed --out "$out" "${resume[@]}" \
  --data folder:/data/imagenet --model resnet50 --dtype bfloat16 --batch-size 4096 \
  --epochs 90 --learning-rate 1.6 --warmup-epochs 5 --crop resized --flip
status=$?

# 75: saved before the limit. All other failures are for you to look at; a process that died has the
# last line of the log, and the same sbatch command goes on from the last checkpoint.
if [ "$status" -eq 75 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$status"
