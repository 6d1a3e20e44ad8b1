# shellcheck shell=sh
systemd-sysusers batch-export-watcher.conf
# Whoever has changed owner or mode since is left alone: only the first installation sets them.
if [ "$1" = 1 ]; then
    chgrp batch-export-watcher /etc/batch-export-watcher /etc/batch-export-watcher/config.toml
    chmod 0750 /etc/batch-export-watcher
    chmod 0640 /etc/batch-export-watcher/config.toml
fi
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || true
    # An upgrade goes on with the new program, where the service runs.
    systemctl try-restart batch-export-watcher.service || true
fi
