#!/bin/sh
# The whole job on the built-in data, each step as a user would type it; what is done already is not done again.
set -e
begun=$(date +%s)
step() {
    echo
    echo "\$ python $*"
    "$PY" "$@"
}
step select.py output_dir="$RUNS/select"
step train.py -m selector=near,random output_dir="$RUNS/train"
if [ -e "$RUNS/merged/config.json" ]; then
    echo "$RUNS/merged is there already"
else
    step merge.py adapter_name_or_path="$RUNS/train/selector-near/adapter" export_dir="$RUNS/merged" output_dir="$RUNS/merge"
fi
step eval.py output_dir="$RUNS/base"
step report.py runs="$RUNS"
echo "the demo took $(($(date +%s) - begun)) seconds"
