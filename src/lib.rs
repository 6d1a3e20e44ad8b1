//! batch-export-watcher: watches export requests of the Batch.com API and downloads the finished
//! files, whole, verified and private, exactly once.
//!
//! This page is the map. A room uses the rooms of lower floors and none of its own floor;
//! `tests/it/tidy.rs` holds the code to that. How the rooms work together, with both state machines
//! drawn, is in `ARCHITECTURE.md`.
//!
//! | floor | room | reason to exist |
//! | --- | --- | --- |
//! | 7 | [`cli`] | the command line, one file a command |
//! | 6 | [`app`] | composition root: a configuration becomes a running program |
//! | 5 | [`web`] | the status server: page, JSON, metrics and probes, read-only |
//! | 4 | [`status`] | the status document: how everything is, as JSON and as a table |
//! | 4 | `fuzzing` | what is fuzzed: bytes in, rules held; in tests and fuzz targets only |
//! | 3 | [`engine`] | the moving parts: one loop, and the owners that it routes between |
//! | 3 | [`simulator`] | a Batch API and an object store on loopback, for `demo`, tests and benches |
//! | 2 | [`api`] | the Batch API and nothing else; the only room with credentials |
//! | 2 | [`fetch`] | the other client: ranged requests on signed links, without credentials |
//! | 2 | [`sinks`] | where bytes go: a local directory, and the suite that every sink has to pass |
//! | 2 | [`ledgers`] | what is known across restarts: SQLite, and the suite that every ledger has to pass |
//! | 2 | [`config`] | TOML in, types out, every fault with file, line and key |
//! | 2 | [`control`] | the control socket: how the command line talks to the running daemon |
//! | 2 | [`process`] | locks, signals, service manager, logs, runtimes, umask, core dumps |
//! | 1 | [`ports`] | what the engine needs of the outside: a sink for bytes, a ledger for facts |
//! | 1 | [`transport`] | what both HTTP clients share; the one place that sends; retry delays |
//! | 1 | [`durable`] | the one place that makes working files, renames and syncs |
//! | 1 | [`exit`] | exit codes |
//! | 1 | [`meters`] | what is counted, for Prometheus |
//! | 0 | `failpoint` | where a debug build can be told to die or to fail, for tests |
//! | 0 | [`domain`] | decisions as total functions: no I/O, no clock, no dice |

mod failpoint;

pub mod domain;

pub mod durable;
pub mod exit;
pub mod meters;
pub mod ports;
pub mod transport;

pub mod api;
pub mod config;
pub mod control;
pub mod fetch;
pub mod ledgers;
pub mod process;
pub mod sinks;

pub mod engine;
pub mod simulator;

pub mod status;

pub mod web;

#[cfg(any(test, fuzzing))]
pub mod fuzzing;

pub mod app;

pub mod cli;
