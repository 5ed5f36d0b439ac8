#!/bin/bash
# All jobs, each waiting for the one before to end well: jobs/chain.sh SITE_FILE [sbatch options for all of them]
#
# A study that preprocessing had to leave out (CACHE/quarantine.jsonl) is not "well": the chain stops there and waits for
# your judgement. To go on without these studies, submit the other jobs by hand.
set -euo pipefail
source "${1:?expected a site file, a filled-in copy of jobs/site.env}"
jobs=$(dirname "$0")
for file in "$MANIFEST" "$CONFIG" "$PROMPTS"; do  # to miss one now, not after days of training
  [ -r "$file" ] || { echo "expected the file $file that $1 names, found none" >&2; exit 1; }
done
submit=(sbatch --parsable --kill-on-invalid-dep=yes "${@:2}")

preprocess=$("${submit[@]}" --array="1-$SHARDS" "$jobs/preprocess.slurm")
train=$("${submit[@]}" --dependency="afterok:$preprocess" "$jobs/train.slurm")
infer=$("${submit[@]}" --dependency="afterok:$train" --array="1-$SHARDS" "$jobs/infer.slurm")
evaluate=$("${submit[@]}" --dependency="afterok:$train" "$jobs/evaluate.slurm")
echo "preprocess $preprocess, train $train, infer $infer, evaluate $evaluate"
