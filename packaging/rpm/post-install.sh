# shellcheck shell=sh
systemd-sysusers batch-export-watcher.conf
# Only the first installation sets owner and mode, so that later changes by the administrator stay.
if [ "$1" = 1 ]; then
    chgrp batch-export-watcher /etc/batch-export-watcher /etc/batch-export-watcher/config.toml
    chmod 0750 /etc/batch-export-watcher
    chmod 0640 /etc/batch-export-watcher/config.toml
fi
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || true
    # After an upgrade, a running service restarts with the new program.
    systemctl try-restart batch-export-watcher.service || true
fi
