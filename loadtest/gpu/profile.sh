#!/usr/bin/env bash
# On the GPU machine, after unpack.sh: time of every kernel of a saturated run, by ncu. usage: profile.sh OUT [score|translate|span] [SKIP] [COUNT]
set -uo pipefail
cd "$(dirname "$0")/../../.gpu/run"
out=$1 what=${2:-score}
case $what in
  score) run=(measure.js ../inputs/windows.json) ;;
  translate) run=(measure-translation.js ../inputs/sources.json) ;;
  span) run=(measure-span.js ../inputs/wikipedia.txt) ;;
  *) echo "profile.sh: $what is none of score, translate and span" >&2 && exit 2 ;;
esac
options=()
[ "$what" = span ] && options=(-- --queue-lanes-max 100000 --precision float32)
export LD_LIBRARY_PATH=/usr/local/cuda/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
timeout 200 ncu --graph-profiling node --cache-control none --clock-control none --target-processes all \
  --metrics gpu__time_duration.sum --csv --launch-skip "${3:-12000}" --launch-count "${4:-600}" \
  ./node "dist/loadtest/gpu/${run[0]}" "${run[1]}" /tmp/profiled "${options[@]}" --models models --device cuda:0 --device-cohorts 1 > "$out/profile-$what.csv" 2> "$out/profile-$what.err"
tail -3 "$out/profile-$what.err"
python3 - "$out/profile-$what.csv" <<'PY'
import csv, re, sys
lines = [l for l in open(sys.argv[1]) if l.startswith('"')]
rows = list(csv.DictReader(lines))
total = {}
for r in rows:
    name = re.sub(r'<.*', '', r['Kernel Name'])[:70]
    us = float(r['Metric Value'].replace(',', '')) / (1000 if r['Metric Unit'] in ('ns', 'nsecond') else 1)
    n, t = total.get(name, (0, 0))
    total[name] = (n + 1, t + us)
for name, (n, t) in sorted(total.items(), key=lambda x: -x[1][1]):
    print(f'{t:9.1f} us in {n:4d}, {t / n:7.2f} each  {name}')
PY
