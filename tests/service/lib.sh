# What the service tests share: a Debian root, a booted systemd in it, and words for checks. Sourced, never run.
#
# Nothing outlives a test but the roots in the cache: containers, control groups and copies go away in a trap, and only
# processes that the test has started are ended. Every wait has a limit. The container has no network but its own loopback.
# shellcheck shell=bash disable=SC2034  # what is not used here is used by the tests

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache=${SERVICE_TEST_CACHE:-${TMPDIR:-/var/tmp}/batch-export-watcher-service}
mirror=${SERVICE_TEST_MIRROR:-http://deb.debian.org/debian/}
unit=batch-export-watcher.service
# What a root needs beside a minimal Debian.
root_packages=systemd,systemd-sysv,dbus,ca-certificates,man-db,bash-completion

failures=0
skipped=0
finished=
work=
machine=bew-service-$$
nspawn_pid=
leader=

# Ends the test as one that cannot run here; 77 is what automake and meson call a skipped test.
skip_all() {
    printf '!! SKIPPED: %s\n' "$*" >&2
    exit 77
}

# Says that one check cannot be made.
skip() {
    printf '!! skipped: %s\n' "$*"
    skipped=$((skipped + 1))
}

section() { printf '\n== %s\n' "$*"; }
passed() { printf 'ok: %s\n' "$*"; }
failed() {
    printf 'FAILED: %s\n' "$*"
    failures=$((failures + 1))
}

# check WORDS COMMAND…: passes where the command does.
check() {
    local words=$1
    shift
    if "$@" >"$work/output" 2>&1; then passed "$words"; else
        failed "$words: $*"
        sed 's/^/    /' "$work/output" | tail -20
    fi
}

# check_is WORDS EXPECTED ACTUAL
check_is() {
    if [ "$2" = "$3" ]; then passed "$1: $3"; else failed "$1: expected '$2', found '$3'"; fi
}

refuses() { ! "$@"; }

# within SECONDS COMMAND…: tries until the command succeeds.
within() {
    local until=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $until ] || return 1
        sleep 0.1
    done
}

need() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || skip_all "$tool is not installed"
    done
}

# Everything that booting a container takes.
need_machine() {
    [ "$(uname -s)" = Linux ] || skip_all "systemd runs on Linux only"
    [ "$(id -u)" = 0 ] || skip_all "a container with systemd needs root"
    need systemd-nspawn nsenter unshare mount timeout
    unshare --mount true 2>/dev/null || skip_all "mount namespaces are not permitted here"
    grep -qw cgroup2 /proc/filesystems || skip_all "the kernel has no cgroup2"
}

# make_root SUITE: a root in the cache, made once.
make_root() {
    local suite=$1 script=/usr/share/debootstrap/scripts/$1
    [ -d "$cache/$suite" ] && return
    need debootstrap
    # An older debootstrap does not know the suite's name; all of them are made alike.
    [ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid
    printf 'making a root with %s in %s (once)\n' "$suite" "$cache"
    mkdir -p "$cache"
    rm -rf --one-file-system "$cache/$suite.new"
    if ! timeout 900 debootstrap --variant=minbase --include=$root_packages "$suite" "$cache/$suite.new" "$mirror" "$script" \
        >"$cache/$suite.log" 2>&1; then
        skip_all "no root with $suite can be made, see $cache/$suite.log"
    fi
    mv "$cache/$suite.new" "$cache/$suite"
}

# begin SUITE: a working directory with a copy of the suite's root, and the trap that cleans up.
begin() {
    make_root "$1"
    trap cleanup EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    work=$(mktemp -d "$cache/run.XXXXXX")
    cp -a --reflink=auto "$cache/$1" "$work/root"
    root=$work/root
    : >"$root/etc/machine-id"
    # Names are asked for at an address that nobody but the test can serve.
    rm -f "$root/etc/resolv.conf"
    echo "nameserver 127.0.0.1" >"$root/etc/resolv.conf"
}

# Boots the copy. The container gets a namespace of its own for everything, and control groups of version 2 also where the
# host has the older ones.
boot() {
    cat >"$work/boot.sh" <<BOOT
set -e
mount --make-rprivate /
if [ ! -d /run/systemd/system ]; then
    # Nobody manages control groups on this host.
    umount -R -l /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mkdir -p /sys/fs/cgroup/$machine /run/systemd/nspawn
    echo \$\$ >/sys/fs/cgroup/$machine/cgroup.procs
    keep=--keep-unit
fi
export SYSTEMD_NSPAWN_LOCK=0
exec systemd-nspawn -D "$root" -M $machine --boot --register=no \${keep:-} --private-network --resolv-conf=off \\
    --link-journal=no --timezone=off --console=read-only --kill-signal=SIGRTMIN+3
BOOT
    setsid unshare --mount bash "$work/boot.sh" >"$work/console.log" 2>&1 </dev/null &
    nspawn_pid=$!
    if ! within 30 has_leader || ! within 60 is_running; then
        tail -20 "$work/console.log"
        skip_all "a container cannot be booted here"
    fi
    printf 'booted %s\n' "$(inside systemctl --version | head -1)"
}

has_leader() {
    kill -0 "$nspawn_pid" || exit 1
    leader=$(pgrep -P "$nspawn_pid" -f 'systemd|init' | head -1)
    [ -n "$leader" ]
}

is_running() {
    case $(inside systemctl is-system-running) in running | degraded) true ;; *) false ;; esac
}

# Runs a command in the container, as root, for two minutes at most.
inside() {
    timeout 120 nsenter -t "$leader" -m -u -i -n -p -C \
        env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 "$@"
}

# show PROPERTY: of the unit.
show() { inside systemctl show "$unit" -p "$1" --value; }

# The unit's journal, as text.
journal() { inside journalctl -u "$unit" -o cat --no-pager; }

cleanup() {
    local status=$?
    trap - EXIT
    case $finished$status in
        yes* | 77 | 130 | 143) ;;
        *)
            printf 'FAILED: a step between the checks, with status %s\n' "$status"
            status=1
            ;;
    esac
    if [ -n "$leader" ]; then
        # systemctl poweroff, by a signal to its PID 1.
        kill -s RTMIN+4 "$leader" 2>/dev/null || true
        within 15 refuses kill -0 "$nspawn_pid" || kill -KILL "$leader" "$nspawn_pid" 2>/dev/null || true
    elif [ -n "$nspawn_pid" ]; then
        kill -KILL "$nspawn_pid" 2>/dev/null || true
    fi
    [ -z "$nspawn_pid" ] || wait "$nspawn_pid" 2>/dev/null || true
    remove_control_group
    [ -z "$work" ] || rm -rf --one-file-system "$work"
    exit "$status"
}

# The control group that boot made, in whatever place the host shows those of version 2.
remove_control_group() {
    local device mount kind rest
    while read -r device mount kind rest; do
        if [ "$kind" = cgroup2 ] && [ -d "$mount/$machine" ]; then
            find "$mount/$machine" -depth -type d -exec rmdir {} + 2>/dev/null || true
        fi
    done </proc/mounts
}

# The end of a test.
finish() {
    finished=yes
    printf '\n%s failed, %s skipped\n' "$failures" "$skipped"
    [ "$failures" = 0 ]
}
