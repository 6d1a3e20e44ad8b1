#!/usr/bin/env bash
# Takes the picture of the status page that README.md shows: the real daemon, the simulated API, and
# a headless Chromium.
#
# usage: tests/page/screenshot.sh [FILE]        (needs chromium, chromedriver, curl and jq)
set -euo pipefail
cd "$(dirname "$0")/../.."

picture=$(realpath "${1:-docs/images/status-page.png}")
page=127.0.0.1:9899
driver=127.0.0.1:9898
cargo build --locked --bins --examples
binaries=$(realpath "${CARGO_TARGET_DIR:-target}/debug")
# Its path is in the picture.
work=${TMPDIR:-/tmp}/watcher
mkdir "$work"
children=()
# Only what was started here.
trap 'kill "${children[@]}" 2>/dev/null || true; wait || true; rm -rf "$work"' EXIT
cd "$work"

# within SECONDS COMMAND…: until the command succeeds.
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || { echo "not in time: $*" >&2; exit 1; }
        sleep 0.2
    done
}

# ask PATH JSON: one command of WebDriver.
ask() { curl -fsS -H 'Content-Type: application/json' -d "$2" "http://$driver/$1"; }

"$binaries/examples/simulator" >address & children+=($!)
within 30 test -s address
printf 'simulated-rest-api-key\n' >key
chmod 0600 key
cat >config.toml <<END
[api]
base_url = "$(cat address)"
[download]
directory = "exports"
bandwidth = "2MB/s"
reserve = "64MiB"
[state]
directory = "state"
[server]
listen = "$page"
[[project]]
name = "shop"
project_key = "project_simulated"
rest_api_key_file = "key"
exports = ["export_large", "export_slow", "export_small", "export_pending", "export_broken"]
END
"$binaries/batch-export-watcher" run -c config.toml 2>log & children+=($!)
chromedriver --port="${driver##*:}" >driver.log & children+=($!)
within 30 curl -fsS "http://$page/readyz"
within 30 curl -fsS "http://$driver/status"

options='["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1100,1120"]'
session=$(ask session "{\"capabilities\": {\"alwaysMatch\": {\"goog:chromeOptions\": {\"args\": $options}}}}" |
    jq -r .value.sessionId)
ask "session/$session/url" "{\"url\": \"http://$page/\"}" >/dev/null
# Two exports are whole, one downloads, one waits and one has failed.
whole() { [ "$(curl -fsS "http://$page/api/v1/status" | jq '[.projects[].exports[] | select(.state == "whole")] | length')" = 2 ]; }
within 90 whole
sleep 5
curl -fsS "http://$driver/session/$session/screenshot" | jq -r .value | base64 --decode >"$picture"
curl -fsS -X DELETE "http://$driver/session/$session" >/dev/null
