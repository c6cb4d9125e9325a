//! The corpus of the fuzz targets in `rust/fuzz/corpus`, replayed: no fuzzer is needed.
#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(unreachable_pub, reason = "the cases are a library elsewhere")]

#[path = "../../fuzz/src/lib.rs"]
mod cases;

use std::path::Path;

/// Runs a case on every file of its corpus, and on all that is left of each when its end is cut off.
fn replay(name: &str, run: impl Fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(name);
    let files: Vec<_> = corpus
        .read_dir()
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    assert!(files.len() >= 10, "{} has few files", corpus.display());
    for file in files {
        let data = std::fs::read(&file).unwrap();
        let shorter = (0..data.len())
            .step_by(1 + data.len() / 4)
            .map(|end| &data[..end]);
        for case in shorter.chain([&data[..]]) {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(case)));
            assert!(
                outcome.is_ok(),
                "{} bytes of {}",
                case.len(),
                file.display()
            );
        }
    }
}

#[test]
fn bytes_of_a_history() {
    replay("history", cases::history::run);
}

#[test]
fn selections() {
    replay("selector", cases::selector::run);
}

#[test]
fn these_tests_check_overflow_and_assertions() {
    let sum = std::panic::catch_unwind(|| std::hint::black_box(u8::MAX) + std::hint::black_box(1));
    assert!(sum.is_err() && cfg!(debug_assertions));
}
