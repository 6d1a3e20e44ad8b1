# shellcheck shell=sh
# 0: the package is removed; 1: another version replaces it.
if [ "$1" = 0 ] && [ -d /run/systemd/system ]; then
    systemctl disable --now batch-export-watcher.service || true
fi
