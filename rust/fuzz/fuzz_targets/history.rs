#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| topk_ortho_fuzz::history::run(data));
