#!/usr/bin/env bash
# Fuzzes every target for SECONDS_PER_TARGET (600 unless told), two at a time at most, and prints a table of what came of it.
#
#   tests/long/fuzz.sh [SECONDS_PER_TARGET [TARGET…]]
#
# The seed is fixed (FUZZ_SEED for another one), so that a run can be repeated as far as the machine allows. What is new goes
# into fuzz/target/corpus; the committed inputs stay as they are. The exit code is 1 where something was found: the input
# then lies in fuzz/artifacts/TARGET. Minimise it with `cargo fuzz tmin --sanitizer none TARGET INPUT`, put it into
# fuzz/regressions/TARGET, and the ordinary tests fail until it is mended.
#
# Without a sanitizer of memory: no line of ours is unsafe, and so it runs on the stable toolchain at full speed.
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=${1:-600}
shift || true
seed=${FUZZ_SEED:-20240228}
jobs=${FUZZ_JOBS:-2}

if ! cargo fuzz --version >/dev/null 2>&1; then
    echo "cargo-fuzz is not installed: run \`cargo install cargo-fuzz --locked\`" >&2
    exit 2
fi

if [ $# -gt 0 ]; then
    targets=("$@")
else
    mapfile -t targets < <(cd fuzz/fuzz_targets && printf '%s\n' *.rs | sed 's/\.rs$//')
fi

# All at once, so that the dependencies are built once.
nice -n 10 cargo fuzz build --sanitizer none
host=$(rustc -vV | sed -n 's/^host: //p')
logs=fuzz/target/logs
mkdir -p "$logs"

run() {
    local target=$1 new=fuzz/target/corpus/$1 status=0
    mkdir -p "$new" "fuzz/artifacts/$target"
    local inputs=("$new")
    local kind
    for kind in corpus seeds regressions; do
        if [ -d "fuzz/$kind/$target" ]; then inputs+=("fuzz/$kind/$target"); fi
    done
    nice -n 10 "fuzz/target/$host/release/$target" \
        -seed="$seed" -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 -max_len=8192 -print_final_stats=1 \
        -dict="fuzz/dicts/$target.dict" -artifact_prefix="fuzz/artifacts/$target/" "${inputs[@]}" \
        >"$logs/$target" 2>&1 || status=$?
    echo "$status" >"$logs/$target.status"
}

for target in "${targets[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
    run "$target" &
done
wait

found=0
printf '%-16s %12s %8s %10s %10s  %s\n' target executions per-second coverage features findings
for target in "${targets[@]}"; do
    log=$logs/$target
    stat() { sed -n "s/^stat::$1: *//p" "$log" | tail -n 1; }
    # The last line of progress: "#N DONE cov: N ft: N corp: …".
    progress=$(grep -a '^#[0-9].* cov: ' "$log" | tail -n 1 || true)
    count() { sed -n "s/.* $1: \([0-9]*\) .*/\1/p" <<<"$progress"; }
    findings=none
    if [ "$(cat "$log.status")" != 0 ]; then
        findings="FOUND, see $log"
        found=1
    fi
    printf '%-16s %12s %8s %10s %10s  %s\n' "$target" "$(stat number_of_executed_units)" "$(stat average_exec_per_sec)" \
        "$(count cov)" "$(count ft)" "$findings"
done
exit "$found"
