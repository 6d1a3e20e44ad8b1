#!/usr/bin/env bash
# Builds the image and runs it as its documentation says (non-root, read-only, no capabilities, limits, no network but
# loopback) against a simulated API, with podman or docker.
#
# usage: tests/service/container.sh        (as root; ends with 0, with 1 at the first thing that is not so, 77 skipped)
#
#   ENGINE        podman or docker; without it the first of them that answers
#   ENGINE_FLAGS  words before the engine's command, such as: --runtime runc --cgroup-manager cgroupfs
#   BASE_BUILD    the image to build in, instead of the Dockerfile's
#   BUILD_FLAGS   words for the build command, such as: --pull=never --build-arg CARGO_NET_OFFLINE=true
#   IMAGE         an image that is there already: nothing is built
#   SIMULATOR     examples/simulator, built for this machine; without it cargo builds it
#
# The image that was built stays, as localhost/batch-export-watcher-test: the next run builds on its layers.
set -euo pipefail
cd "$(dirname "$0")/../.."

UID_IN_IMAGE=65532
PROGRAM=/usr/bin/batch-export-watcher
DATA=/var/lib/batch-export-watcher
# The engine kills what has not ended after this; the program promises ten seconds.
GRACE_SECONDS=12
# So much for whatever takes no time on a machine that is not busy.
PATIENCE_SECONDS=60
# All parts together, so that 80 MB take twenty seconds.
BYTES_PER_SECOND=4MB/s

skip() { printf 'skipped: %s\n' "$*" >&2; exit 77; }
fail() { last_words >&2; printf '\nFAILED: %s\n' "$*" >&2; exit 1; }
step() { printf '\n== %s\n' "$*"; }
seen() { printf '   %s\n' "$*"; }

# same WHAT WANTED FOUND
same() {
    [ "$2" = "$3" ] || fail "$1: wanted '$2', found '$3'"
    seen "$1: $3"
}

# ends_with CODE COMMAND…: the command ends with this code; what it said is in $words.
ends_with() {
    local wanted=$1 code=0
    shift
    words=$("$@" 2>&1) || code=$?
    [ "$code" = "$wanted" ] || fail "'${*: -3}' ended with $code, not $wanted: $words"
}

# within SECONDS WHAT COMMAND…: the command succeeds before the time is over.
within() {
    local until=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$until" ] || fail "not seen in time: $what"
        sleep 0.2
    done
    seen "$what"
}

# ---- what is needed

read -ra engine_flags <<<"${ENGINE_FLAGS:-}"
read -ra build_flags <<<"${BUILD_FLAGS:-}"
[ "$(id -u)" = 0 ] || skip "the volumes of a container can only be looked into by root"
if [ -z "${ENGINE:-}" ]; then
    for candidate in podman docker; do
        if command -v "$candidate" >/dev/null && "$candidate" "${engine_flags[@]}" info >/dev/null 2>&1; then
            ENGINE=$candidate
            break
        fi
    done
fi
[ -n "${ENGINE:-}" ] || skip "neither podman nor docker answers here"
for tool in "$ENGINE" ldd sha256sum stat tar; do
    command -v "$tool" >/dev/null || skip "$tool is not installed"
done
podman=
case $(basename "$ENGINE") in podman*) podman=1 ;; esac
engine() { "$ENGINE" "${engine_flags[@]}" "$@"; }
# For commands whose words nobody waits for: podman has some where no systemd runs its health checks.
quietly() { engine "$@" >>"$work/engine.log" 2>&1 || fail "'$*' was refused: $(tail -n 3 "$work/engine.log")"; }
field() { engine inspect --format "$2" "$1"; }

# fitting LETTER WANTED: the limit that ulimit calls by this letter, or the highest that this machine lets a process have.
fitting() {
    local hard
    hard=$(ulimit "-H$1")
    if [ "$hard" = unlimited ] || [ "$hard" -ge "$2" ]; then printf '%s' "$2"; else printf '%s' "$hard"; fi
}
# Limits of their own: an engine's defaults may be beyond what it can set here.
limits=(--ulimit "nofile=$(fitting n 8192)" --ulimit "nproc=$(fitting u 4096)")

work=$(mktemp -d "${TMPDIR:-/var/tmp}/container-test.XXXXXX")
id=bew-test-$$
watcher=$id-watcher simulator=$id-simulator
hung_pid=
last_words() {
    printf '\n-- the last words of the containers\n'
    engine logs --tail 40 "$watcher" 2>&1 || true
    engine logs --tail 10 "$simulator" 2>&1 || true
}
trap 'printf "\nFAILED in line %s\n" "$LINENO" >&2' ERR
finish() {
    local code=$?
    trap - EXIT INT TERM ERR
    [ -z "$hung_pid" ] || kill -CONT "$hung_pid" 2>/dev/null || true
    # One by one: beside a name that is not there, podman leaves the volumes of the others.
    local container
    for container in "$watcher" "$id-other" "$simulator"; do
        engine rm -fv "$container" >/dev/null 2>&1 || true
    done
    engine volume rm -f "$id-exports" "$id-state" >/dev/null 2>&1 || true
    engine rmi -f "localhost/$simulator" >/dev/null 2>&1 || true
    rm -rf --one-file-system "$work"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

# ---- the image

if [ -z "${IMAGE:-}" ]; then
    step "build"
    IMAGE=localhost/batch-export-watcher-test:latest
    # Podman's own format has no place for a health check.
    [ -z "$podman" ] || build_flags+=(--format docker "${limits[@]}")
    [ -z "${BASE_BUILD:-}" ] || build_flags+=(--build-arg "BASE_BUILD=$BASE_BUILD")
    engine build "${build_flags[@]}" -t "$IMAGE" . >"$work/build.log" 2>&1 || { tail -n 40 "$work/build.log" >&2; fail "the image cannot be built"; }
fi

step "what the image says of itself"
same "user" "$UID_IN_IMAGE:$UID_IN_IMAGE" "$(field "$IMAGE" '{{.Config.User}}')"
same "entry point" "[$PROGRAM] [run]" "$(field "$IMAGE" '{{.Config.Entrypoint}} {{.Config.Cmd}}')"
same "volumes" "map[$DATA:{}]" "$(field "$IMAGE" '{{.Config.Volumes}}')"
case $(field "$IMAGE" '{{.Config.StopSignal}}') in
    SIGTERM | 15) ;;
    *) fail "the stop signal is not SIGTERM" ;;
esac
check='{{.Config.Healthcheck.Test}}'
[ -z "$podman" ] || check='{{.HealthCheck.Test}}'
same "health check" "[CMD $PROGRAM status --check]" "$(field "$IMAGE" "$check")"
version=$(sed -n '0,/^version = /s/^version = "\(.*\)"$/\1/p' Cargo.toml)
same "version" "$version" "$(field "$IMAGE" '{{index .Config.Labels "org.opencontainers.image.version"}}')"
seen "size: $(engine images --format '{{.Size}}' "$IMAGE" | head -n 1)"

step "what is in it"
quietly create --name "$id-other" "${limits[@]}" "$IMAGE"
engine export "$id-other" | tar -tv --numeric-owner >"$work/files"
engine export "$id-other" | tar -xO etc/ssl/certs/ca-certificates.crt >"$work/authorities"
quietly rm -fv "$id-other"
for absent in bin/sh bin/bash bin/dash bin/busybox usr/bin/curl usr/bin/apt usr/bin/dpkg; do
    ! grep -q " $absent\( \|$\)" "$work/files" || fail "the image has $absent"
done
seen "no shell, no package manager"
! grep -E '^[^d]..[sS]|^[^d].....[sS]' "$work/files" || fail "the image has files with setuid or setgid"
! grep -E '^[-d].......w' "$work/files" | grep -vE ' (dev|proc|run|sys|tmp|var/tmp)/' || fail "the image has files that anybody may write"
seen "no setuid, nothing that anybody may write, $(grep -c '^-' "$work/files") files"
[ "$(grep -c 'BEGIN CERTIFICATE' "$work/authorities")" -gt 50 ] || fail "the image has no certificate authorities"
ends_with 127 engine run --rm --network none "${limits[@]}" --entrypoint /bin/sh "$IMAGE" -c true
seen "a shell cannot be started"

# ---- a simulated API, in a container of its own, whose network is nothing but loopback

step "simulated API"
if [ -z "${SIMULATOR:-}" ]; then
    cargo build --quiet --locked --example simulator
    SIMULATOR=${CARGO_TARGET_DIR:-target}/debug/examples/simulator
fi
install -D "$SIMULATOR" "$work/simulator/simulator"
# With its C library, so that it need not be the image's.
ldd "$SIMULATOR" | grep -o '/[^ ]*' | xargs -I{} cp --parents -L {} "$work/simulator"
printf 'FROM scratch\nCOPY . /\n' >"$work/simulator.file"
quietly build -q -t "localhost/$simulator" -f "$work/simulator.file" "$work/simulator"
# It also answers DNS: every name is 127.0.0.1.
quietly run -d --name "$simulator" --network none "${limits[@]}" "localhost/$simulator" /simulator 127.0.0.1:53
base_url() { engine logs "$simulator" 2>/dev/null | grep -m 1 '^http://127\.0\.0\.1:'; }
within "$PATIENCE_SECONDS" "it listens" base_url

# ---- configuration and key, as an orchestrator puts them there

# exports_are ID…: a new version of the folder, put in its place in one stroke as Kubernetes does.
versions=0
exports_are() {
    local folder=$work/etc
    versions=$((versions + 1))
    mkdir -p "$folder/..$versions"
    printf '%s\n' "$@" >"$folder/..$versions/exports.txt"
    cat >"$folder/..$versions/config.toml" <<TOML
[api]
base_url = "$(base_url)"
[poll]
min_interval = "200ms"
max_interval = "1s"
[download]
reserve = "1MiB"
bandwidth = "$BYTES_PER_SECOND"
allowed_hosts = ["store.test"]
[reload]
interval = "1s"
[[project]]
name = "shop"
project_key = "project_simulated"
rest_api_key_file = "/run/secrets/batch-rest-key"
exports = ["export_small"]
exports_file = "exports.txt"
TOML
    ln -sfn "..$versions" "$folder/..data.new"
    mv -T "$folder/..data.new" "$folder/..data"
    ln -sfn ..data/config.toml "$folder/config.toml"
    ln -sfn ..data/exports.txt "$folder/exports.txt"
}
exports_are export_large
printf 'simulated-rest-api-key\n' >"$work/batch-rest-key"
chown "$UID_IN_IMAGE" "$work/batch-rest-key"
chmod 0400 "$work/batch-rest-key"
printf 'nameserver 127.0.0.1\noptions timeout:2\n' >"$work/resolv.conf"
chmod 0755 "$work"

# What any orchestrator can impose.
hardened=(
    "${limits[@]}" --read-only --cap-drop ALL --security-opt no-new-privileges --memory 256m --pids-limit 128
    --volume "$work/etc:/etc/batch-export-watcher:ro"
    --volume "$work/batch-rest-key:/run/secrets/batch-rest-key:ro"
)
if [ -n "$podman" ]; then
    # Podman would lay writable folders over /tmp, /run and others, and keep its logs in a journal that may not be there.
    hardened+=(--read-only-tmpfs=false --log-driver k8s-file)
else
    hardened+=(--health-interval 2s)
fi
alone() { engine run --rm --network none "${hardened[@]}" "$IMAGE" "$@"; }

step "check, in the image"
ends_with 0 alone check
case $words in *'project_key = "proj'*) ;; *) fail "check does not show what is in force: $words" ;; esac
seen "a good configuration: 0"
ends_with 78 alone check -c /etc/os-release
seen "a bad one: 78"
cat >"$work/etc/elsewhere.toml" <<TOML
[[project]]
name = "shop"
project_key = "project_simulated"
rest_api_key_file = "/run/secrets/batch-rest-key"
TOML
# Without a network this ends at the name, after the certificate authorities were found.
ends_with 75 alone check --probe -c /etc/batch-export-watcher/elsewhere.toml
case $words in *certificate*) fail "the certificate authorities are not found: $words" ;; esac
seen "the certificate authorities are found"

step "run"
quietly create --name "$watcher" --network "container:$simulator" "${hardened[@]}" \
    --volume "$work/resolv.conf:/etc/resolv.conf:ro" \
    --volume "$id-exports:$DATA/exports" --volume "$id-state:$DATA/state" "$IMAGE"
quietly start "$watcher"
exports=$(engine volume inspect --format '{{.Mountpoint}}' "$id-exports")
state=$(engine volume inspect --format '{{.Mountpoint}}' "$id-state")
changes=$(engine diff "$watcher" | sort)

pid=$(field "$watcher" '{{.State.Pid}}')
status() { sed -n "s/^$1:[[:space:]]*//p" "/proc/$pid/status" | tr '\t' ' '; }
same "its users" "$UID_IN_IMAGE $UID_IN_IMAGE $UID_IN_IMAGE $UID_IN_IMAGE" "$(status Uid)"
same "its groups" "$UID_IN_IMAGE $UID_IN_IMAGE $UID_IN_IMAGE $UID_IN_IMAGE" "$(status Gid)"
for set in CapInh CapPrm CapEff CapBnd CapAmb; do
    same "$set" 0000000000000000 "$(status $set)"
done
same "no new privileges" 1 "$(status NoNewPrivs)"
same "its process ID inside" 1 "$(status NSpid | awk '{ print $NF }')"
seen "seccomp: $(status Seccomp)"
grep -qE '^[0-9]+ [0-9]+ [0-9:]+ [^ ]+ / ro[, ]' "/proc/$pid/mountinfo" || fail "the root file system can be written"
seen "the root file system is read-only"
same "its network interfaces" lo "$(sed -n 's/^ *\([^:]*\):.*/\1/p' "/proc/$pid/net/dev" | tr '\n' ' ' | sed 's/ $//')"
# limit CONTROLLER FILE FILE: what the control group says, in the layout of version 1 or 2.
limit() {
    local group
    group=$(sed -n "s/^[0-9]*:$1://p" "/proc/$pid/cgroup")
    if [ -n "$group" ]; then
        cat "/sys/fs/cgroup/$1$group/$2"
    else
        cat "/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$pid/cgroup")/$3"
    fi
}
same "bytes of memory at most" 268435456 "$(limit memory memory.limit_in_bytes memory.max)"
same "tasks at most" 128 "$(limit pids pids.max pids.max)"

# Podman looks at the health when it is asked to, where no systemd does it; docker does it by itself.
health_is() {
    [ -z "$podman" ] || engine healthcheck run "$watcher" >/dev/null 2>&1 || true
    [ "$(field "$watcher" '{{.State.Health.Status}}')" = "$1" ]
}
step "health"
within "$PATIENCE_SECONDS" "healthy" health_is healthy
same "the control socket" "600 $UID_IN_IMAGE:$UID_IN_IMAGE socket" "$(stat -c '%a %u:%g %F' "$state/control.sock")"

step "stop in mid download"
large=$exports/shop/export_large
partials() { find "$large" -name '.part-*.partial' -size "+${1:-0}c"; }
some_partials() { [ "$(partials 1000000 | wc -l)" -ge 2 ]; }
within "$PATIENCE_SECONDS" "parts are on their way" some_partials
began=$SECONDS
quietly stop -t "$GRACE_SECONDS" "$watcher"
took=$((SECONDS - began))
same "exit code" 0 "$(field "$watcher" '{{.State.ExitCode}}')"
[ "$took" -lt 10 ] || fail "it took $took s to stop"
seen "it took $took s"
[ ! -e "$large/manifest.json" ] || fail "the export was whole already"
declare -A kept
while read -r path; do
    kept[$path]=$(stat -c '%i %s' "$path")
    seen "kept: $(basename "$path"), $(stat -c %s "$path") bytes"
done < <(partials)
[ "${#kept[@]}" -ge 2 ] || fail "no partial was kept"
ends_with 1 engine run --rm --network none "${hardened[@]}" --volume "$id-state:$DATA/state" "$IMAGE" status --check
seen "the health check of its state: 1"

step "start again"
quietly start "$watcher"
# What was kept only grows; if the download began again it would shrink first, or get another file.
shrunk=
goes_on() {
    local partial bytes
    for partial in "${!kept[@]}"; do
        bytes=$(stat -c %s "$partial") || continue
        [ "$bytes" -ge "${kept[$partial]#* }" ] || shrunk="$(basename "$partial") has shrunk to $bytes bytes"
        [ "$bytes" = "${kept[$partial]#* }" ] || return 0
    done
    return 1
}
within "$PATIENCE_SECONDS" "the partials grow" goes_on
[ -z "$shrunk" ] || fail "$shrunk"
whole() { [ -e "$exports/shop/$1/manifest.json" ]; }
within "$PATIENCE_SECONDS" "export_small is whole" whole export_small
within "$PATIENCE_SECONDS" "export_large is whole" whole export_large
for partial in "${!kept[@]}"; do
    final=$(basename "$partial" .partial)
    same "the file behind ${final#.}" "${kept[$partial]% *}" "$(stat -c %i "$large/${final#.}")"
done
for export in export_small:64 export_large:4; do
    folder=$exports/shop/${export%:*} parts=0
    for part in "$folder"/part-*.json; do
        sum=$(sha256sum "$part" | cut -d ' ' -f 1)
        grep -q "$sum" "$folder/manifest.json" || fail "$part is not what the manifest says"
        parts=$((parts + 1))
    done
    same "parts of ${export%:*}, as their manifest says" "${export#*:}" "$parts"
done
same "files" "600 $UID_IN_IMAGE:$UID_IN_IMAGE" "$(find "$exports" -type f -printf '%m %U:%G\n' | sort -u)"
same "folders" "700 $UID_IN_IMAGE:$UID_IN_IMAGE" "$(find "$exports" "$state" -type d -printf '%m %U:%G\n' | sort -u)"
same "the state's files" "600 $UID_IN_IMAGE:$UID_IN_IMAGE" "$(find "$state" ! -type d -printf '%m %U:%G\n' | sort -u)"

pid=$(field "$watcher" '{{.State.Pid}}')
seen "memory at most $(status VmHWM), $(status Threads) threads"

step "a new configuration, without a restart"
exports_are export_large export_slow
on_its_way() { [ -d "$exports/shop/export_slow" ]; }
within "$PATIENCE_SECONDS" "an ID that was added is watched" on_its_way
ends_with 0 engine exec "$watcher" "$PROGRAM" reload
ends_with 0 engine exec "$watcher" "$PROGRAM" status
seen "reload and status are answered"
same "process ID" "$pid" "$(field "$watcher" '{{.State.Pid}}')"

step "hung"
hung_pid=$pid
kill -STOP "$pid"
within "$((2 * PATIENCE_SECONDS))" "unhealthy" health_is unhealthy
kill -CONT "$pid"
hung_pid=
within "$PATIENCE_SECONDS" "healthy again" health_is healthy

step "the root file system"
same "what has changed in it since the start" "" "$(comm -13 <(printf '%s\n' "$changes") <(engine diff "$watcher" | sort))"
quietly stop -t "$GRACE_SECONDS" "$watcher"
same "exit code" 0 "$(field "$watcher" '{{.State.ExitCode}}')"

step "a volume as Kubernetes hands it over (fsGroup)"
install -d -o 0 -g "$UID_IN_IMAGE" -m 2775 "$work/volume"
chown 0:"$UID_IN_IMAGE" "$work/batch-rest-key"
chmod 0440 "$work/batch-rest-key"
exports_are "# none"
ends_with 0 timeout "$PATIENCE_SECONDS" "$ENGINE" "${engine_flags[@]}" run --rm --name "$id-other" \
    --network "container:$simulator" "${hardened[@]}" --volume "$work/resolv.conf:/etc/resolv.conf:ro" \
    --volume "$work/volume:$DATA" "$IMAGE" run --exit-when-settled
[ -e "$work/volume/exports/shop/export_small/manifest.json" ] || fail "nothing was fetched"
# The setgid bit comes from the volume's root.
same "folders" "2700 $UID_IN_IMAGE:$UID_IN_IMAGE" \
    "$(find "$work/volume" -mindepth 1 -type d -printf '%m %U:%G\n' | sort -u)"

printf '\nall is as it should be\n'
