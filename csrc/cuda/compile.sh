#!/bin/sh
# compile.sh LOG COMMAND...: runs nvcc and keeps what ptxas says of registers and spills; shows it only on failure.
log=$1
shift
"$@" 2>"$log" && exit 0
status=$?
cat "$log" >&2
exit $status
