//! Bytes of a history: refused, or one that continues and comes back the same.
//!
//! The first byte says what the others are: the bytes of a history as they stand, what is between its version and its
//! checksum, which is made right, or observations, and then places in the bytes that are changed under a right checksum.

use super::input::Input;
use topk_ortho_core::{Pair, PairHistory};

const HEADER: &[u8] = b"TKOH\x01\0\0\0";

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    match input.u8() % 3 {
        0 => read(input.rest()),
        1 => read(&sealed([HEADER, input.rest()].concat())),
        _ => observe_and_forge(&mut input),
    }
}

fn sealed(mut body: Vec<u8>) -> Vec<u8> {
    body.extend(crc32fast::hash(&body).to_le_bytes());
    body
}

fn read(bytes: &[u8]) {
    let Ok(mut history) = PairHistory::from_bytes(bytes) else {
        return;
    };
    assert_eq!(history.to_bytes().expect("memory"), bytes);
    for n in 0..3 {
        let step = history.last_step().map_or(0, |step| step.saturating_add(1));
        let pairs: Vec<_> = (0..n).map(|j| pair(0, 1 + j)).collect();
        // Steps end, in a file as anywhere: that the next one is refused is right.
        let _ = history.observe(step, &pairs);
        check(&history);
    }
}

fn check(history: &PairHistory) {
    let top = history.top(usize::MAX).expect("memory");
    assert_eq!(top.i.len(), history.len());
    let numbers = top.ema_low.iter().chain(&top.ema_high);
    assert!(numbers.into_iter().all(|number| number.is_finite()));
    let pairs = Pair::from_columns(&top.i, &top.j).expect("pairs");
    assert_eq!(history.ema(&pairs), top.ema_low);
    assert!(history.hubs(3).0.len() <= 3);
    assert_eq!(history.stability().observations, history.observations());
    let bytes = history.to_bytes().expect("memory");
    let back = PairHistory::from_bytes(&bytes).expect("what was written");
    assert_eq!(back.to_bytes().expect("memory"), bytes);
}

fn pair(i: u32, j: u32) -> Pair {
    Pair::try_new(i.min(j), i.max(j)).expect("distinct")
}

fn observe_and_forge(input: &mut Input<'_>) {
    let decay = [0.5, 0.001, 0.99, 1.0 - f64::EPSILON][input.below(4)];
    let mut history = PairHistory::new(1 + input.below(6), decay).expect("configuration");
    let mut step = 0;
    for _ in 0..input.below(40) {
        step += u64::from(input.u8());
        let mut pairs: Vec<Pair> = (0..input.below(9))
            .map(|_| {
                let (i, gap) = (u32::from(input.u8() % 8), u32::from(input.u8() % 8));
                pair(i, i + 1 + gap)
            })
            .collect();
        let given = pairs.len();
        let observed = history.observe(step, &pairs);
        pairs.sort_unstable();
        pairs.dedup();
        assert!(observed.is_err() || pairs.len() == given);
    }
    check(&history);
    let mut body = history.to_bytes().expect("memory");
    body.truncate(body.len() - 4);
    while !input.is_empty() {
        let at = usize::from(input.u16()) % body.len();
        body[at] = input.u8();
    }
    read(&sealed(body));
}
