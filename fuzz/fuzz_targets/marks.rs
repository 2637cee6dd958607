//! What the queue of a fanotify group gives. The properties are in `properties.rs`; `make fuzz` runs this, `make test` its corpus.

#![no_main]

#[path = "../properties.rs"]
#[allow(dead_code, reason = "each target has one of the properties")]
mod properties;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| properties::decode_fanotify(bytes));
