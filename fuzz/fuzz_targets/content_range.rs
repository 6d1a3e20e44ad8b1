//! See `batch_export_watcher::fuzzing::content_range`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| batch_export_watcher::fuzzing::content_range(data));
