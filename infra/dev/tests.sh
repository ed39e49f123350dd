#!/usr/bin/env bash
# Every test, in two streams side by side: tests.sh [PYTEST_FLAG…]
#
# Grading programs in warm processes (tests/challenges) needs nothing but processors; the rest waits a
# good deal for containers, servers and a browser. Together they take little longer than the longer one.
# The first stream yields to the second, some of whose tests look at the clock. For a choice of tests
# call pytest itself.
set -euo pipefail
# shellcheck source=infra/dev/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

pytest=$root/.venv/bin/pytest
log=$build/tests-challenges.log
graded=0 rest=0
: >"$log"
cd "$root"

nice -n 5 "$pytest" tests/challenges -o "cache_dir=$build/pytest-challenges" "$@" >"$log" 2>&1 </dev/null &
grading=$!
# Bash shields background commands from Ctrl-C, so they have to be ended here.
trap 'kill "$grading" 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM

echo "== Tests of everything but the challenges (those run meanwhile, their output comes after it)"
"$pytest" tests --ignore=tests/challenges "$@" || rest=$?
echo "== Tests of the challenges"
tail --pid="$grading" -n +1 -f "$log"
wait "$grading" || graded=$?
trap - EXIT

[ "$rest" -eq 0 ] && [ "$graded" -eq 0 ] && exit 0
say "the tests failed (pytest ended with $rest, for the challenges with $graded)" >&2
exit 1
