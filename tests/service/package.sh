#!/usr/bin/env bash
# The packages: builds the Debian one, has lintian look at it, installs, upgrades, removes and purges it under a real systemd
# in a container without a network, and looks at what it did. Builds the RPM one, too, and lists it.
#
# Usage, as root: tests/service/package.sh [SUITE]
#   SUITE                trixie (the default) or bookworm
#   SERVICE_TEST_CACHE   where the Debian roots are kept, made once by debootstrap; $TMPDIR/batch-export-watcher-service
#   SERVICE_TEST_MIRROR  the Debian mirror they are made from
# Ends with 0 when all is well, 1 when a check has failed, and 77 with a sentence when it cannot run here.
set -euo pipefail
# shellcheck source=tests/service/lib.sh
. "$(dirname "$0")/lib.sh"

suite=${1:-trixie}
program=/usr/bin/batch-export-watcher
config=/etc/batch-export-watcher/config.toml
target=${CARGO_TARGET_DIR:-$repo/target}

build_packages() {
    section "build"
    (
        cd "$repo"
        cargo xtask assets
        cargo deb --locked --output "$root/root/first.deb"
        # The same once more, as a newer version.
        cargo deb --locked --no-build --deb-version 99.0-1 --output "$root/root/second.deb"
    )
}

test_lintian() {
    section "lintian"
    if ! command -v lintian >/dev/null; then
        skip "lintian is not installed"
        return
    fi
    check "lintian finds no error" lintian --allow-root --fail-on error --show-overrides "$root/root/first.deb"
    sed 's/^/    /' "$work/output"
}

test_rpm() {
    section "rpm"
    if ! cargo generate-rpm --version >/dev/null 2>&1 || ! command -v rpm >/dev/null; then
        skip "cargo-generate-rpm or rpm is not installed"
        return
    fi
    check "the package can be built" make_rpm
    rpm -qlp "$work/package.rpm" >"$work/files"
    for file in $program $config /usr/lib/systemd/system/$unit /usr/lib/sysusers.d/batch-export-watcher.conf \
        /usr/share/man/man1/batch-export-watcher.1 /usr/share/bash-completion/completions/batch-export-watcher; do
        check "it holds $file" grep -qx "$file" "$work/files"
    done
    check_is "its configuration" "$config" "$(rpm -qp --configfiles "$work/package.rpm")"
}

make_rpm() { (cd "$repo" && cargo generate-rpm --target-dir "$target" --output "$work/package.rpm"); }

test_installation() {
    section "installation"
    # What it depends on is in the root.
    check "dpkg installs it" inside dpkg -i /root/first.deb
    check "the user is there" inside id batch-export-watcher
    check_is "the user's shell" /usr/sbin/nologin "$(inside getent passwd batch-export-watcher | cut -d: -f7)"
    check_is "the service is" disabled "$(inside systemctl is-enabled "$unit" || true)"
    check_is "the service is" inactive "$(inside systemctl is-active "$unit" || true)"
    check_is "owner and mode of the configuration" "root:batch-export-watcher 640" "$(inside stat -c '%U:%G %a' $config)"
    check_is "owner and mode of its folder" "root:batch-export-watcher 750" \
        "$(inside stat -c '%U:%G %a' /etc/batch-export-watcher)"
    check "the configuration is a conffile" inside sh -c "dpkg-query -W -f '\${Conffiles}' batch-export-watcher | grep -q $config"
    check "dpkg finds every file as it was packed" refuses inside sh -c "dpkg --verify batch-export-watcher | grep ."
    check "the program runs" inside "$program" --version
    check "systemd-analyze verify says nothing" inside sh -c "! systemd-analyze verify --man=no $unit 2>&1 | grep ."
    check "without a key the service does not start" refuses inside systemctl start "$unit"
    inside systemctl stop "$unit"
    # Where it is not forgotten yet.
    inside systemctl reset-failed "$unit" 2>/dev/null || true
}

test_manual_and_completions() {
    section "manual pages and completions"
    local page
    for page in batch-export-watcher batch-export-watcher-run batch-export-watcher-check; do
        check "man $page has no fault" inside sh -c "! man --warnings -l /usr/share/man/man1/$page.1.gz 2>&1 >/dev/null | grep ."
    done
    check "man knows what the program is" inside sh -c "man batch-export-watcher | grep -q 'EXIT STATUS'"
    check "bash completes a command" completes_in_bash
    check "zsh's file is one" grep -qx "#compdef batch-export-watcher" "$root/usr/share/zsh/vendor-completions/_batch-export-watcher"
    check_syntax zsh "$root/usr/share/zsh/vendor-completions/_batch-export-watcher"
    check_syntax fish "$root/usr/share/fish/vendor_completions.d/batch-export-watcher.fish"
}

# check_syntax SHELL FILE
check_syntax() {
    if command -v "$1" >/dev/null; then check "$1 can read its file" "$1" -n "$2"; else skip "$1 is not installed"; fi
}

# As a shell does at the first TAB: bash-completion loads the file by the program's name.
completes_in_bash() {
    # shellcheck disable=SC2016  # the inner shell fills that in
    inside bash -c '. /usr/share/bash-completion/bash_completion
        _comp_load batch-export-watcher 2>/dev/null || __load_completion batch-export-watcher
        function=$(complete -p batch-export-watcher | sed "s/.* -F \([^ ]*\) .*/\1/")
        COMP_WORDS=(batch-export-watcher ch) COMP_CWORD=1
        $function batch-export-watcher ch batch-export-watcher
        echo "${COMPREPLY[*]}"
        [ "${COMPREPLY[*]}" = check ]'
}

test_upgrade() {
    section "upgrade"
    inside sh -c 'umask 077; echo a-key >/etc/batch-export-watcher/batch-rest-key; echo "# changed" >>/etc/batch-export-watcher/config.toml'
    check "with a key it starts as it was installed" inside systemctl enable --now "$unit"
    local pid
    pid=$(show MainPID)
    inside chmod 0440 "$config"
    check "dpkg upgrades it" inside dpkg -i /root/second.deb
    check_is "version" "Version: 99.0-1" "$(inside sh -c 'dpkg -s batch-export-watcher | grep ^Version')"
    check_is "the service is" active "$(inside systemctl is-active "$unit" || true)"
    check "it runs the new program" test "$pid" != "$(show MainPID)"
    check_is "the service is" enabled "$(inside systemctl is-enabled "$unit" || true)"
    check_is "the changed configuration ends with" "# changed" "$(inside tail -1 "$config")"
    check_is "its changed mode" "root:batch-export-watcher 440" "$(inside stat -c '%U:%G %a' $config)"
    inside systemctl stop "$unit"
    check "dpkg installs it once more" inside dpkg -i /root/second.deb
    check_is "a service that was stopped is" inactive "$(inside systemctl is-active "$unit" || true)"
    inside systemctl start "$unit"
}

test_removal() {
    section "removal and purge"
    check "dpkg removes it" inside dpkg -r batch-export-watcher
    check_is "the service is" inactive "$(inside systemctl is-active "$unit" || true)"
    check "the program is gone" refuses inside test -e "$program"
    check "the configuration stays" inside test -e "$config"
    check "dpkg purges it" inside dpkg -P batch-export-watcher
    check "the configuration is gone" refuses inside test -e "$config"
    check "the key, which the package did not bring, stays" inside test -e /etc/batch-export-watcher/batch-rest-key
    check "exports and state stay" inside test -d /var/lib/batch-export-watcher/state
    check_is "left over of the service" "" "$(inside find /etc/systemd /var/lib/systemd/deb-systemd-helper-enabled \
        -name 'batch-export-watcher*')"
}

need_machine
need cargo dpkg-deb
cargo deb --version >/dev/null 2>&1 || skip_all "cargo-deb is not installed: cargo install --locked cargo-deb"
begin "$suite"
build_packages
test_lintian
test_rpm
boot
test_installation
test_manual_and_completions
test_upgrade
test_removal
finish
