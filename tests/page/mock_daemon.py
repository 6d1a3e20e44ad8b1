#!/usr/bin/env python3
"""Serves the status page with a made-up daemon behind it, to look at while changing it. Nothing to install:

    python3 tests/page/mock_daemon.py [--port 8099] [--scene busy|many|calm|empty|bare]

busy: a bit of everything, with trouble; many: 1,000 exports; calm: nothing wrong; empty: a project without exports;
bare: no project. The page is read from src/web/assets at each request, and comes with the policy of the real server,
so what that forbids shows here. GET /mock/restart makes the next snapshots those of a daemon that started again;
GET /mock/drop breaks all streams and refuses new ones for ten seconds.
"""

import argparse
import datetime
import http.server
import json
import pathlib
import random
import time

ASSETS = pathlib.Path(__file__).resolve().parents[2] / "src/web/assets"
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'"
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    **{f"/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8") for name in ("app", "attention", "kit")},
}
MB = 1_000_000


def stamp(seconds):
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class World:
    """A daemon as a function of the time: each export's state follows from its number and the seconds gone by."""

    def __init__(self, scene):
        self.scene = scene
        self.epoch = self.started = time.time() - 7_900
        self.dropped_until = 0

    def snapshot(self):
        now = time.time()
        projects = self.projects(now)
        exports = [export for project in projects for export in project["exports"]]
        downloading = sum(export["state"] in ("fetching", "sealing") for export in exports)
        watched = sum(export["state"] not in ("whole", "failed") for export in exports)
        polls = [export["next_poll_at"] for export in exports if export["next_poll_at"]]
        wait = f", next poll in {seconds_until(min(polls), now)} s" if polls else ""
        return {
            "version": "0.1.0", "started_at": stamp(self.started), "now": stamp(now), "draining": False,
            "sentence": f"watching {watched} exports, {downloading} downloading{wait}",
            "summary": f"watching {watched} exports, {downloading} downloading",
            "polls": {"under_way": False, "next_at": min(polls) if polls else None},
            "commands": {verb: f"batch-export-watcher {verb} -c /srv/watcher/config.toml" for verb in ("retry", "check")},
            "slots": {"in_use": sum(len(export["active_parts"]) for export in exports), "max": 8},
            "bytes_per_second": sum(export["bytes_per_second"] for export in exports),
            "disk": {"ill": False}, "origin": None, "waits": [STATE_FAILS] if self.scene == "busy" else [],
            "reloads": {"accepted": 1, "refused": 0, "last_refusal": None},
            "projects": projects,
        }

    def projects(self, now):
        if self.scene == "bare":
            return []
        if self.scene == "empty":
            return [project("shop", [])]
        if self.scene == "many":
            states = ["whole"] * 6 + ["polling"] * 3
            exports = [self.export(i, "fetching" if i < 4 else "failed" if i % 90 == 8 else states[i % 9], now) for i in range(1_000)]
            return [project("shop", exports[:700]), project("newsletter", exports[700:])]
        calm = ["fetching", "polling", "fetching", "sealing", "whole", "polling", "whole", "polling"]
        first = project("shop", [self.export(i, state, now) for i, state in enumerate(calm)])
        second = project("newsletter", [self.export(i + 20, state, now) for i, state in enumerate(["whole", "polling", "whole"])])
        if self.scene == "busy":
            first["exports"] += [self.export(30, "failed", now), self.export(31, "failed", now)]
            second["pauses"] = [{
                "reason": "throttled", "words": "the API asks for fewer requests",
                "advice": "nothing to do, it continues by itself; if it happens often, lower requests_per_second in [api]",
                "until": stamp(self.epoch + 8_110), "asking": False,
            }]
            third = project("loyalty", [self.export(i + 40, "polling", now) | {"next_poll_at": None} for i in range(2)])
            third["pauses"] = [{
                "reason": "unauthorized", "words": "the API refuses the REST API key",
                "advice": "put a valid REST API key into file /srv/watcher/loyalty.key; it is read again by itself",
                "until": None, "asking": True,
            }]
            return [first, second, third]
        return [first, second]

    def export(self, number, state, now):
        dice = random.Random(number)
        total = dice.randrange(40, 900) * MB
        parts = dice.randrange(2, 6)
        age = dice.choice([12, 95, 700, 5_000, 7_800])
        export = {
            "id": f"export_{dice.randbytes(6).hex()}", "state": state, "remote_status": "SUCCESS",
            "since": stamp(self.epoch + 7_900 - age), "next_poll_at": None,
            "parts": {"done": parts, "total": parts}, "bytes": {"done": total, "total": total},
            "bytes_per_second": 0, "active_parts": [], "failure": None,
        }
        if state == "polling":
            every = dice.choice([10, 22, 51, 300])
            export |= {
                "remote_status": dice.choice(["CREATED", "PENDING", "RUNNING"]), "next_poll_at": stamp(now + every - (now + number) % every),
                "parts": {"done": 0, "total": 0}, "bytes": {"done": 0, "total": 0},
            }
        elif state == "fetching":
            rate = (4 + dice.random() * 9 + random.random() * 2) * MB
            done = int((now * 6 * MB + number * 70 * MB) % total)
            size = total // parts
            at = min(done // size, parts - 1)
            export |= {
                "parts": {"done": at, "total": parts}, "bytes": {"done": done, "total": total}, "bytes_per_second": int(rate),
                "active_parts": [
                    {"part": at + 1, "file": f"file_{dice.randbytes(4).hex()}", "bytes": done % size, "total": size},
                    {"part": at + 2, "file": f"file_{dice.randbytes(4).hex()}", "bytes": done % size // 3, "total": None if number else size},
                ][:parts - at],
            }
        elif state == "failed":
            export |= {"parts": {"done": 0, "total": 0}, "bytes": {"done": 0, "total": 0}} | dice.choice(FAILURES)
            export["failure"] = export["failure"] | {"at": export["since"]}
        return export


STATE_FAILS = {
    "reason": "state", "words": "downloads wait because the state cannot be written",
    "advice": "check the mount, the permissions and the free space of the state directory; downloads continue by themselves",
    "until": None, "asking": False,
}
FAILURES = [
    {"remote_status": "ERROR", "failure": {
        "kind": "remote_error", "cause": "the API reports that the export ended with an error", "code": None,
        "advice": "start the export again in Batch, and replace its ID in the configuration"}},
    {"remote_status": None, "failure": {
        "kind": "not_found", "cause": "the API has not known this export for 10 minutes", "code": "EXPORT_NOT_FOUND",
        "advice": "check the ID and the project_key of its project, then retry the export"}},
]


def project(name, exports):
    return {"name": name, "pauses": [], "exports": exports}


def seconds_until(text, now):
    return max(0, round(datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() - now))


class Handler(http.server.BaseHTTPRequestHandler):
    world: World

    def do_GET(self):
        try:
            self.respond()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def respond(self):
        if self.path == "/mock/restart":
            self.world.started = time.time()
            return self.answer(b"restarted\n", "text/plain")
        if self.path == "/mock/drop":
            self.world.dropped_until = time.time() + 10
            return self.answer(b"dropped\n", "text/plain")
        if time.time() < self.world.dropped_until:
            self.close_connection = True
            return None
        if self.path in FILES:
            name, kind = FILES[self.path]
            return self.answer((ASSETS / name).read_bytes(), kind)
        if self.path == "/api/v1/status":
            return self.answer(json.dumps(self.world.snapshot()).encode(), "application/json")
        if self.path == "/api/v1/events":
            return self.stream()
        return self.send_error(404)

    def stream(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        while time.time() >= self.world.dropped_until:
            self.wfile.write(f"event: snapshot\ndata: {json.dumps(self.world.snapshot())}\n\n".encode())
            self.wfile.flush()
            time.sleep(1)

    def answer(self, body, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--port", type=int, default=8099)
    arguments.add_argument("--scene", choices=["busy", "many", "calm", "empty", "bare"], default="busy")
    given = arguments.parse_args()
    Handler.world = World(given.scene)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", given.port), Handler)
    server.daemon_threads = True
    print(f"http://127.0.0.1:{given.port}/ ({given.scene})", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
