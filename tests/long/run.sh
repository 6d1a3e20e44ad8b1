#!/usr/bin/env bash
# Runs what takes too long for every run, one after the other, and writes docs/reliability.md: cases, faults survived, numbers.
#
# usage: tests/long/run.sh [SEED]        (ends with 0, or with 1 when a case failed; as root nothing is skipped)
#
#   SOAK_SECONDS   length of the soak, 3600
#   CRASHES        crashes of the crash loop, 500
#   FUZZ_SECONDS   for each target that is fuzzed, 600
#   REPORT         another file for the report
# shellcheck disable=SC2016 # the backquotes are those of the report
set -euo pipefail
cd "$(dirname "$0")/../.."

seed=${1:-$(date +%s)}
report=${REPORT:-docs/reliability.md}
soak=${SOAK_SECONDS:-3600}
export SOAK_SECONDS=$soak BATCH_EXPORT_WATCHER_TEST_SEED=$seed
[ -z "${CRASHES:-}" ] || export BATCH_EXPORT_WATCHER_TEST_CRASHES=$CRASHES
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
rows=$work/rows
: >"$rows"

# row NAME RESULT SECONDS
row() { printf '| %s | %s | %s |\n' "$1" "$2" "$3" >>"$rows"; }

# run NAME LIMIT_SECONDS COMMAND…: bounded; its lines of JSON are kept for the report.
run() {
    local name=$1 limit=$2 began=$SECONDS result=passed code=0
    shift 2
    printf '\n== %s\n' "$name"
    timeout --kill-after=30 "$limit" "$@" >"$work/log" 2>&1 || code=$?
    if [ "$code" = 77 ]; then
        result=skipped
    elif [ "$code" != 0 ]; then
        result="FAILED ($code)"
        failed=1
        tail -n 60 "$work/log" >&2
    elif grep -q 'running 0 tests' "$work/log" && ! grep -Eq 'running [1-9][0-9]* test' "$work/log"; then
        result="not there"
    elif grep -q '^SKIPPED' "$work/log"; then
        result="skipped in part"
    fi
    # The harness may have written the test's name before it.
    grep -v '^{"timestamp"' "$work/log" | grep -Eo '\{"[a-z_]+".*\}$' >>"$work/json" || true
    row "$name" "$result" "$((SECONDS - began))"
    printf '   %s\n' "$result"
}

: >"$work/json"
cargo test --locked --no-run --lib --test it
long() { run "$1" "$2" cargo test --locked "${@:4}" -- --ignored --nocapture --test-threads 1 "$3"; }
long "soak" $((soak + 900)) long::soak --test it
long "load" 1500 long::load --test it
long "crash loop" 3600 crash_loop --test it
long "power cuts" 3600 power_cut --lib
if cargo fuzz --version >/dev/null 2>&1; then
    fuzz=${FUZZ_SECONDS:-600}
    run "fuzzing" $((fuzz * 10 + 1800)) tests/long/fuzz.sh "$fuzz"
    # Its table: from the line with the names of the columns on.
    sed -n '/^target .*findings$/,$p' "$work/log" >"$work/fuzzing"
else
    row "fuzzing" "skipped: cargo-fuzz is not installed" 0
fi

{
    printf '# Reliability\n\nThe last run of `tests/long/run.sh`, which writes this file.\n\n'
    printf -- '- date: %s\n- commit: %s\n' "$(date -u +%FT%TZ)" "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
    printf -- '- machine: %s, %s cores, %s\n' "$(uname -sr)" "$(nproc)" "$(awk '/MemTotal/ {printf "%d MiB of memory", $2 / 1024}' /proc/meminfo)"
    printf -- '- seed: %s\n- program: debug build, the one that the tests start\n\n' "$seed"
    printf '| case | result | seconds |\n| --- | --- | --- |\n'
    cat "$rows"
    printf '\nWhat each case counted:\n\n```json\n'
    cat "$work/json"
    printf '```\n\n'
    [ ! -s "$work/fuzzing" ] || printf 'What was fuzzed:\n\n```text\n%s\n```\n\n' "$(cat "$work/fuzzing")"
    printf 'The same again, in so much time:\n\n```sh\nSOAK_SECONDS=%s tests/long/run.sh %s\n```\n' "$soak" "$seed"
} >"$report"
printf '\nthe report is in %s\n' "$report"
exit "$failed"
