#!/usr/bin/env bash
# halves.sh PYTEST...: every second test in one process, the others in a second beside it, as most use one core. The first
# is shown as it goes, the second when both are done.
set -uo pipefail
log=$(mktemp)
"$@" --part 2/2 >"$log" 2>&1 &
second=$!
trap 'kill $second 2>/dev/null; rm -f "$log"' EXIT
status=0
"$@" --part 1/2 || status=$?
wait $second || status=$?
cat "$log"
exit $status
