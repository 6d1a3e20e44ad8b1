//! See `batch_export_watcher::fuzzing::configuration`.
#![no_main]

/// The key of the environment that the target must never show.
const REST_KEY: &[u8] = b"r3st-k3y";

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // Whoever writes a key as the name of a project, or as a path, is shown that.
    if !data.windows(REST_KEY.len()).any(|bytes| bytes == REST_KEY) {
        batch_export_watcher::fuzzing::configuration(data);
    }
});
