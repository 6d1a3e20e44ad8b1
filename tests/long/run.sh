#!/usr/bin/env bash
# Runs what takes too long for every run, the fuzzing beside the rest, and writes docs/reliability.md: cases, faults survived, numbers.
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
rows=$work/rows
numbers=$work/numbers
: >"$rows"
: >"$numbers"

# run NAME LIMIT_SECONDS COMMAND…: bounded; its lines of JSON are kept for the report.
run() {
    local name=$1 limit=$2 began=$SECONDS result=passed code=0
    local log=$work/$1.log
    shift 2
    printf '== %s\n' "$name"
    timeout --kill-after=30 "$limit" "$@" >"$log" 2>&1 || code=$?
    if [ "$code" != 0 ]; then
        result="FAILED ($code)"
        : >"$work/failed"
        mkdir -p target/long
        cp "$log" "target/long/$name.log"
        tail -n 60 "$log" >&2
        printf 'the whole log is in target/long/%s.log\n' "$name" >&2
    elif grep -q 'running 0 tests' "$log" && ! grep -Eq 'running [1-9][0-9]* test' "$log"; then
        result="FAILED (not there)"
        : >"$work/failed"
    elif grep -q '^SKIPPED' "$log"; then
        result="skipped in part"
    fi
    # The harness may have written the test's name before it.
    grep -v '^{"timestamp"' "$log" | grep -Eo '\{"[a-z_]+".*\}$' >>"$numbers" || true
    printf '| %s | %s | %s |\n' "$name" "$result" "$((SECONDS - began))" >>"$rows"
    printf '   %s: %s\n' "$name" "$result"
}

# long NAME LIMIT_SECONDS FILTER CARGO_ARGUMENTS…: tests that are too long for every run.
long() { run "$1" "$2" cargo test --locked "${@:4}" -- --ignored --nocapture --test-threads 1 "$3"; }

cargo test --locked --no-run --lib --test it
if cargo fuzz --version >/dev/null 2>&1; then
    seconds=${FUZZ_SECONDS:-600}
    cargo fuzz build --sanitizer none
    # Beside everything else, on what it leaves of the processors.
    FUZZ_JOBS=1 run "fuzzing" $((seconds * 10 + 1800)) nice -n 9 tests/long/fuzz.sh "$seconds" &
else
    printf '| fuzzing | skipped: cargo-fuzz is not installed | 0 |\n' >>"$rows"
fi
long "soak" $((soak + 900)) long::soak --test it
long "load" 1500 long::load --test it
long "crash loop" 3600 crash_loop --test it
long "failing calls on the disk" 3600 disk_faults --test it
long "dripping body" 300 faults::bodies --test it
long "power cuts" 3600 power_cut --lib
wait
# Its table: from the line with the names of the columns on.
[ ! -f "$work/fuzzing.log" ] || sed -n '/^target .*findings$/,$p' "$work/fuzzing.log" >"$work/fuzzing"

# As words: `{"case":"soak","rss_kib":{"max":9}}` becomes `- **soak**: rss kib (max 9)`.
words() {
    sed -E -e 's/^\{(.*)\}$/\1/' -e 's/^(.*)"case":("[^"]*"),?(.*)$/\2\1\3/' -e 's/,$//' \
        -e 's/,"/, "/g' -e 's/^"([^"]*)"/- **\1**: /' -e 's/"([^"]*)":/\1 /g' -e 's/\{/(/g' -e 's/\}/)/g' -e 's/_/ /g' \
        -e 's/([0-9]\.[0-9]{2})[0-9]+/\1/g' -e 's/([0-9])\.0([^0-9]|$)/\1\2/g'
}

{
    printf '# Reliability\n\nThe last run of `tests/long/run.sh`, which writes this file.\n\n'
    printf -- '- date: %s\n- commit: %s\n' "$(date -u +%FT%TZ)" "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
    printf -- '- machine: %s, %s cores, %s\n' "$(uname -sr)" "$(nproc)" "$(awk '/MemTotal/ {printf "%d MiB of memory", $2 / 1024}' /proc/meminfo)"
    printf -- '- seed: %s\n- program: debug build, the one that the tests start\n\n' "$seed"
    printf '| case | result | seconds |\n| --- | --- | --- |\n'
    cat "$rows"
    printf '\nWhat each case counted:\n\n'
    words <"$numbers"
    [ ! -s "$work/fuzzing" ] || printf '\nWhat was fuzzed, %s seconds for each target:\n\n```text\n%s\n```\n' \
        "$seconds" "$(cat "$work/fuzzing")"
    printf '\nThe same again:\n\n```sh\nSOAK_SECONDS=%s tests/long/run.sh %s\n```\n' "$soak" "$seed"
} >"$report"
printf '\nthe report is in %s\n' "$report"
[ ! -e "$work/failed" ]
