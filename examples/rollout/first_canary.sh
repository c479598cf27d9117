#!/bin/sh
# The tutorial "Your first canary" of docs/rollouts.md, all of it: a good canary, and then a bad one.
#   sh examples/rollout/first_canary.sh     from the top of the checkout; 10 minutes, most of which converts
set -eu
say() { printf '\n$ %s\n' "enginegate $*"; .venv/bin/enginegate "$@" || echo "(exit code $?)"; }
on="essay-scorer --target cpu"
serve() { .venv/bin/python examples/rollout/host.py $on --data examples/essay_scorer/validation "$@" & }

say convert examples/essay_scorer --target cpu
version=$(.venv/bin/enginegate engines --json 2>/dev/null | sed -n 's/.*"essay-scorer-cpu-fp16@\([0-9a-f]*\)".*/\1/p' | head -1)
for channel in staging canary production; do
    say promote $on --to $channel --engine "essay-scorer-cpu-fp16@$version" --yes
done
for channel in staging canary; do
    say promote $on --to $channel --engine "essay-scorer-cpu-int8@$version" --yes
done

say rollout start $on --plan examples/rollout/rollout.yaml --reason "INT8, half the size"
serve
sleep 10
say rollout status $on
say rollout run $on --every 5
wait
say history $on --channel production
say rollout verify $on

# A bad one: FP16 again, whose answers are 0.1 too high.
for channel in staging canary; do
    say promote $on --to $channel --engine "essay-scorer-cpu-fp16@$version" --yes
done
say rollout start $on --plan examples/rollout/rollout.yaml --reason "back to FP16"
serve --damage 0.1 --keep
say rollout run $on --every 5
wait
say history $on --channel canary
say rollout history $on
