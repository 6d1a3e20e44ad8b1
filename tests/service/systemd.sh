#!/usr/bin/env bash
# The service unit under a real systemd: boots a Debian in a container without a network, installs program, unit and user,
# and looks at what the unit does: start, status, downloads under its sandbox, who may read what, reload, restart by the
# watchdog, drain, credential, a configuration that is wrong.
#
# Usage, as root: tests/service/systemd.sh [SUITE]
#   SUITE                  trixie (systemd 257, the default) or bookworm (systemd 252)
#   SERVICE_TEST_CACHE     where the Debian roots are kept, made once by debootstrap; $TMPDIR/batch-export-watcher-service
#   SERVICE_TEST_MIRROR    the Debian mirror they are made from
#   SERVICE_TEST_BINARIES  a folder with batch-export-watcher and examples/simulator, built in debug; without it they are built
# Ends with 0 when all is well, 1 when a check has failed, and 77 with a sentence when it cannot run here.
set -euo pipefail
# shellcheck source=tests/service/lib.sh
. "$(dirname "$0")/lib.sh"

suite=${1:-trixie}
program=/usr/bin/batch-export-watcher
config=/etc/batch-export-watcher/config.toml
key_file=/etc/batch-export-watcher/batch-rest-key
drop_in=/etc/systemd/system/$unit.d/test.conf
# Where consumers of this group find the exports.
exports=/srv/batch-exports
consumers=consumers

build() {
    if [ -n "${SERVICE_TEST_BINARIES:-}" ]; then
        binaries=$SERVICE_TEST_BINARIES
    else
        need cargo
        (cd "$repo" && cargo build --locked --bin batch-export-watcher --example simulator)
        binaries=${CARGO_TARGET_DIR:-$repo/target}/debug
    fi
}

# As an administrator would do it by hand.
install_service() {
    install -m 0755 "$binaries/batch-export-watcher" "$root/usr/bin/batch-export-watcher"
    install -m 0755 "$binaries/examples/simulator" "$root/usr/local/bin/simulator"
    install -D -m 0644 "$repo/systemd/batch-export-watcher.service" "$root/usr/lib/systemd/system/$unit"
    install -D -m 0644 "$repo/systemd/batch-export-watcher.sysusers" "$root/usr/lib/sysusers.d/batch-export-watcher.conf"
    inside systemd-sysusers batch-export-watcher.conf
    inside systemctl daemon-reload
    inside install -d -o root -g batch-export-watcher -m 0750 /etc/batch-export-watcher
    inside groupadd "$consumers"
    inside useradd --no-create-home --groups "$consumers" consumer
    inside useradd --no-create-home stranger
    inside install -d -o batch-export-watcher -g "$consumers" -m 2750 "$exports"
    write_key simulated-rest-api-key
}

write_key() { inside sh -c "umask 077; printf '%s\n' '$1' > $key_file"; }

# The simulated API, as a service of its own; it answers names, too.
start_simulator() {
    inside systemd-run -q --unit=simulator -p StandardOutput=file:/run/simulator.url /usr/local/bin/simulator 127.0.0.1:53
    within 60 inside grep -q http /run/simulator.url
    base_url=$(inside cat /run/simulator.url)
}

# write_config EXPORT…: watched from now on, into the directory of the consumers.
write_config() {
    local quoted
    quoted=$(printf '"%s", ' "$@")
    inside install -o root -g batch-export-watcher -m 0640 /dev/stdin "$config" <<CONFIG
[api]
base_url = "$base_url"
[poll]
min_interval = "100ms"
max_interval = "500ms"
[download]
directory = "$exports"
max_parts = 64
reserve = "16MiB"
allowed_hosts = ["store.test"]
file_mode = "0640"
dir_mode = "0750"
[[project]]
name = "shop"
project_key = "project_simulated"
rest_api_key_credential = "batch-rest-key"
exports = [$quoted]
CONFIG
}

# write_drop_in LINE…: settings of the service beside those of the unit.
write_drop_in() {
    inside install -D -m 0644 /dev/stdin "$drop_in" < <(printf '[Service]\nReadWritePaths=%s\n' "$exports"; printf '%s\n' "$@")
    inside systemctl daemon-reload
}

folder() { echo "$exports/shop/$1"; }
is_whole() { inside test -e "$(folder "$1")/manifest.json"; }
main_pid() { show MainPID; }
in_proc() { inside cat "/proc/$(main_pid)/$1"; }

# check_sums USER EXPORT PARTS: as many checksums are in the manifest, and the files that the user reads have them.
check_sums() {
    # shellcheck disable=SC2016  # the inner shell fills that in
    inside runuser -u "$1" -- sh -c 'cd "$1" && sums=$(mktemp) && { tr -d " \n" <manifest.json; echo; } |
        sed "s/\"path\":/\n&/g" | sed -n "s/^\"path\":\"\([^\"]*\)\".*\"sha256\":\"\([0-9a-f]*\)\".*/\2  \1/p" >"$sums" &&
        wc -l <"$sums" && [ "$(wc -l <"$sums")" = "$2" ] && sha256sum --quiet --strict -c "$sums"' sh "$(folder "$2")" "$3"
}

test_unit_file() {
    section "unit file"
    check "systemd-analyze verify says nothing" inside sh -c "! systemd-analyze verify --man=no $unit 2>&1 | grep ."
    check "exposure is 1.2 at most" inside systemd-analyze security --no-pager --offline=true --threshold=12 \
        "/usr/lib/systemd/system/$unit"
    inside systemd-analyze security --no-pager --offline=true "/usr/lib/systemd/system/$unit" | tail -1
}

test_start() {
    section "start"
    write_config export_pending
    check "it starts and says that it is ready" inside systemctl start "$unit"
    check_is "active state" active "$(show ActiveState)"
    check_is "the watchdog waits" 30s "$(show WatchdogUSec)"
    check_is "user" batch-export-watcher "$(inside stat -c %U "/proc/$(main_pid)")"
    check_is "capabilities" 0000000000000000 "$(in_proc status | awk '$1 == "CapBnd:" { print $2 }')"
    check_is "no new privileges" 1 "$(in_proc status | awk '$1 == "NoNewPrivs:" { print $2 }')"
    check_is "system calls are filtered" 2 "$(in_proc status | awk '$1 == "Seccomp:" { print $2 }')"
    check_is "core dumps, soft and hard" "0 0" "$(in_proc limits | awk '/^Max core/ { print $5, $6 }')"
    check_is "open files, soft and hard" "8192 8192" "$(in_proc limits | awk '/^Max open files/ { print $4, $5 }')"
    check_is "mode of the state directory" "750 batch-export-watcher" "$(inside stat -c '%a %G' /var/lib/batch-export-watcher)"
    check "SQLite writes ahead" inside test -e /var/lib/batch-export-watcher/state/state.db-wal
}

test_status() {
    section "status"
    check "the service manager has a sentence" within 20 status_text
    printf '    %s\n' "$(show StatusText)"
    check "status --check is well" inside "$program" status --check
    check "status says more" inside sh -c "$program status | grep ."
    check_is "mode of the control socket" "600 batch-export-watcher" \
        "$(inside stat -c '%a %U' /var/lib/batch-export-watcher/state/control.sock)"
    check "a stranger cannot ask" refuses inside runuser -u stranger -- "$program" status --check
}

status_text() { [ -n "$(show StatusText)" ]; }

test_credential() {
    section "credential"
    local copy=/run/credentials/$unit/batch-rest-key
    check "the service has a copy of its own" inside runuser -u batch-export-watcher -- test -r "$copy"
    check "the file itself is root's alone" refuses inside runuser -u batch-export-watcher -- test -r "$key_file"
    check "nobody else reads the copy" refuses inside runuser -u consumer -- test -r "$copy"
    # A key that the API does not know: what the service says tells which one it has.
    write_key another-key
    inside systemctl try-restart "$unit"
    check "a changed key counts after a restart" within 30 journal_has refuses
    write_key simulated-rest-api-key
    check "a reload with a changed key succeeds" inside systemctl reload "$unit"
    # Not a check: this is the manager's affair, and newer ones may do otherwise.
    printf '    after a reload the service has the %s key\n' \
        "$(inside cmp -s "$copy" "$key_file" && echo changed || echo old)"
    inside systemctl restart "$unit"
    check "after a restart it has the changed one" inside cmp "$copy" "$key_file"
}

# Not through a pipe: one that is closed early would count as a failure.
journal_has() { grep -q -- "$1" <<<"$(journal)"; }

test_downloads() {
    section "downloads under the sandbox"
    write_config export_pending export_small export_large
    inside systemctl restart "$unit"
    check "64 small parts arrive" within 60 is_whole export_small
    check "4 large parts arrive" within 60 is_whole export_large
    check "links lead to a name that only DNS knows" refuses inside grep -q store.test /etc/hosts
    check "every part was held against the store's MD5" inside sh -c \
        "[ \"\$(grep -o md5 $(folder export_small)/manifest.json | wc -l)\" = 64 ]"
    check "what is on disk is what the manifests say (64 small parts)" check_sums batch-export-watcher export_small 64
    check "what is on disk is what the manifests say (4 large parts)" check_sums batch-export-watcher export_large 4
    check "the journal has no warning and no error" refuses journal_complains
    printf '    %s threads, %s MiB at most\n' "$(in_proc status | awk '$1 == "Threads:" { print $2 }')" \
        "$(in_proc status | awk '$1 == "VmHWM:" { print int($2 / 1024) }')"
}

# Warnings and errors since the service was last started.
journal_complains() {
    inside journalctl -o cat --no-pager "_SYSTEMD_INVOCATION_ID=$(show InvocationID)" -p warning | grep . ||
        inside journalctl -o cat --no-pager "_SYSTEMD_INVOCATION_ID=$(show InvocationID)" | grep -E ' (WARN|ERROR) '
}

test_readers() {
    section "who may read the exports"
    check "a stranger may not even list them" refuses inside runuser -u stranger -- ls "$exports"
    check_is "mode and group of a part" "640 $consumers" "$(inside sh -c "stat -c '%a %G' $(folder export_large)/part-00001-*")"
    check_is "mode and group of a manifest" "640 $consumers" "$(inside stat -c '%a %G' "$(folder export_large)/manifest.json")"
    check_is "mode and group of a folder" "2750 $consumers" "$(inside stat -c '%a %G' "$(folder export_large)")"
    check "a consumer of the group reads every part" check_sums consumer export_small 64
    check "a consumer cannot write" refuses inside runuser -u consumer -- touch "$(folder export_small)/mine"
}

test_journal() {
    section "journal"
    check_is "an entry with EVENT=, EXPORT= and PARTS=" export_small:64 "$(inside journalctl -u "$unit" --no-pager -o json \
        EVENT=export_completed PROJECT=shop EXPORT=export_small PARTS=64 | sed -n 's/.*"EXPORT":"\([^"]*\)".*/\1:64/p' | sort -u)"
    check "entries have a priority" inside sh -c \
        "journalctl -u $unit --no-pager -o json EXPORT=export_small | grep -q '\"PRIORITY\":\"6\"'"
}

test_work_in_progress() {
    section "working files"
    write_config export_pending export_slow
    inside systemctl restart "$unit"
    check "a small part has no name yet (O_TMPFILE)" within 30 has_nameless_file
    check "a large part has its room already (fallocate)" within 30 has_reserved_room
}

has_nameless_file() { inside sh -c "ls -l /proc/$(main_pid)/fd | grep -q '/#[0-9]* (deleted)'"; }
has_reserved_room() {
    # Twenty million bytes in blocks of 512, for a file that has received far less.
    [ "$(inside sh -c "stat -c %b $(folder export_slow)/.part-00001-*.partial")" -ge 39062 ]
}

test_drain() {
    section "drain"
    local begun=$SECONDS
    check "it stops while two parts are on their way" inside systemctl stop "$unit"
    check "within the time for that" test $((SECONDS - begun)) -le 15
    check_is "result" success "$(show Result)"
    check_is "exit status" 0 "$(show ExecMainStatus)"
    check "the partial stays" inside sh -c "test -s $(folder export_slow)/.part-00001-*.partial"
    inside systemctl start "$unit"
}

test_reload() {
    section "reload"
    write_config export_pending
    inside systemctl restart "$unit"
    local pid
    pid=$(main_pid)
    check "the new export is not there" refuses is_whole export_new
    write_config export_pending export_small export_broken
    check "systemctl reload succeeds" inside systemctl reload "$unit"
    check "an export of the new configuration is asked for" within 30 inside test -e "$(folder export_broken)/failed.json"
    check_is "state" active "$(show ActiveState)"
    # The faults are on the lines of these two keys.
    inside sed -i 's/^max_parts = .*/max_parts = 0/; s/^min_interval = .*/min_interval = "soon"/' "$config"
    check "systemctl reload fails with a wrong configuration" refuses inside systemctl reload "$unit"
    local line
    line=$(inside grep -n max_parts "$config" | cut -d: -f1)
    check "the journal names file, line and key" within 10 journal_has "$config:$line: download.max_parts"
    line=$(inside grep -n min_interval "$config" | cut -d: -f1)
    check "and those of the second fault" within 10 journal_has "$config:$line: poll.min_interval"
    check_is "the process goes on" "$pid" "$(main_pid)"
    check_is "state" active "$(show ActiveState)"
    check "its status is well" inside "$program" status --check
    write_config export_pending
    check "and a right one is taken again" inside systemctl reload "$unit"
}

test_watchdog() {
    section "watchdog"
    if ! inside "$program" debug-hang --help >/dev/null 2>&1; then
        skip "this program cannot hang on demand: not a debug build"
        return
    fi
    write_drop_in WatchdogSec=3s
    inside systemctl restart "$unit"
    local pid
    pid=$(main_pid)
    inside sleep 7
    check_is "fed for longer than the watchdog waits, the process" "$pid" "$(main_pid)"
    # The loop hangs, so this command may or may not get an answer.
    inside "$program" debug-hang >/dev/null 2>&1 || true
    check "status --check is not well" refuses inside "$program" status --check
    check "it is started again" within 40 has_restarted "$pid"
    check "the journal says why" journal_has "Watchdog timeout"
    check "status --check is well again" within 20 inside "$program" status --check
    write_drop_in
}

has_restarted() { [ "$(main_pid)" != "$1" ] && [ "$(main_pid)" != 0 ] && [ "$(show ActiveState)" = active ]; }

test_wrong_configuration() {
    section "a configuration that is wrong"
    inside systemctl stop "$unit"
    write_config export_pending
    inside sed -i 's/^max_parts = .*/max_parts = 0/' "$config"
    check "it does not start" refuses inside systemctl start "$unit"
    check_is "exit status" 78 "$(show ExecMainStatus)"
    # A unit that is to be started again is in another state: auto-restart.
    check_is "it is not started again" failed "$(show SubState)"
    check "the journal names file and key" within 10 journal_has "$config:[0-9]*: download.max_parts"
}

# The commands for administrators, as docs/deploy-systemd.md has them.
test_check() {
    section "check"
    check "the configuration and the key can be tried beside the service" inside systemd-run --quiet --wait --pipe \
        -p User=batch-export-watcher -p StateDirectory=batch-export-watcher -p "LoadCredential=batch-rest-key:$key_file" \
        "$program" check --probe
    check_is "it says" "# project shop: the API accepts the key" "$(tail -1 "$work/output")"
}

test_retry() {
    section "retry"
    inside systemctl reset-failed "$unit"
    write_config export_pending export_broken
    inside systemctl start "$unit"
    local notice
    notice=$(folder export_broken)/failed.json
    check "an export fails" within 30 inside test -e "$notice"
    check "root sets it to watching again while the service runs" inside "$program" retry export_broken
    check "and it fails once more, as scripted" within 30 retried
}

# It fails again, as scripted.
retried() { [ "$(inside journalctl -u "$unit" -o cat --no-pager EXPORT=export_broken | grep -c failed)" -ge 2 ]; }

# A directory that ProtectHome= hides, under another name.
test_bound_directory() {
    section "a download directory below /home"
    inside install -d -o batch-export-watcher -g "$consumers" -m 2750 /home/exports
    write_drop_in BindPaths=/home/exports:/srv/bound
    inside sed -i 's|^directory = .*|directory = "/srv/bound"|' "$config"
    check "the service starts" inside systemctl restart "$unit"
    check "and has marked it as its own" inside test -e /home/exports/.batch-export-watcher
}

need_machine
build
begin "$suite"
boot
install_service
start_simulator
write_drop_in
test_unit_file
test_start
test_status
test_downloads
test_readers
test_journal
test_credential
test_work_in_progress
test_drain
test_reload
test_watchdog
test_wrong_configuration
test_retry
test_check
test_bound_directory
finish
