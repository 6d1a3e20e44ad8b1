# shellcheck shell=sh
# 0: it goes for good; 1: another version takes its place.
if [ "$1" = 0 ] && [ -d /run/systemd/system ]; then
    systemctl disable --now batch-export-watcher.service || true
fi
