#!/bin/bash
# A training on all hosts of a TPU pod slice. Run it on your own machine, with gcloud set up.
#
#   experiments/launch/tpu_pod.sh
#
# Change what is marked with "<-". JAX finds the other hosts and their chips by itself.

set -eu

name=cnn-jax                     # <- of the TPU
zone=us-central2-b               # <-
type=v4-32                       # <- 4 hosts with 4 chips each
version=tpu-ubuntu2204-base      # <- the software of the hosts
out=gs-mount/runs/imagenet       # <- a folder that all hosts share: a mounted bucket, or Filestore
project=cnn_jax                  # the clone on each host

on_all_hosts() {
  gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"
}

# The first time; a spot TPU may be taken away at any time, after a SIGTERM that saves the run.
if ! gcloud compute tpus tpu-vm describe "$name" --zone="$zone" > /dev/null 2>&1; then
  gcloud compute tpus tpu-vm create "$name" --zone="$zone" --accelerator-type="$type" \
    --version="$version" --spot
  gcloud compute tpus tpu-vm scp --recurse . "$name:$project" --zone="$zone" --worker=all
  on_all_hosts "cd $project && pip install -q '.[tpu]'"
fi

# <- the training; --batch-size counts the examples of a step on all chips together.
# --max-minutes ends it in time, with status 75, where the reservation ends: then start this again.
on_all_hosts "cd $project && \
  if [ -e $out/config.json ]; then resume=--resume; else resume=; fi; \
  python3 -m experiments.classify --distributed --out $out \$resume \
  --data tfds:imagenet2012 --data-dir gs-mount/tensorflow_datasets --model resnet50 \
  --dtype bfloat16 --batch-size 4096 --epochs 90 --learning-rate 1.6 --warmup-epochs 5 \
  --crop resized --flip --max-minutes 1400"
