//! See `batch_export_watcher::fuzzing::configuration`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| batch_export_watcher::fuzzing::configuration(data));
