#!/usr/bin/env bash
# All tests, of what `npm run build` compiled: first, two files at a time, those that only compute; then, one after the other, those that watch the clock,
# drive a browser or load the machine.
set -uo pipefail
cd "$(dirname "$0")/.."
files=$(find dist/test -name '*.test.js' | sort)
compute='^dist/test/(contract|engine|families|metrics|models|scheduler|sim)/'
status=0
# shellcheck disable=SC2046  # a list of files without spaces
node --test --test-reporter=spec --test-concurrency=2 $(grep -E "$compute" <<< "$files") || status=1
# shellcheck disable=SC2046
node --test --test-reporter=spec $(grep -vE "$compute" <<< "$files") || status=1
exit "$status"
