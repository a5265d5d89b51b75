#!/usr/bin/env bash
# All GPUs of several nodes, which share a file system. From the repository's folder, with the options of `theworld train`:
#
#     sbatch configs/slurm/multi_node.sh --config configs/vsr_training.json --output_dir runs/vsr
#
#SBATCH --job-name=theworld
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=08:00:00
#SBATCH --signal=B:USR1@600
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log
source configs/slurm/train_and_requeue.sh
