//! Damaged bytes are refused, whole ones come back, and those of version 1 stay readable.
#![expect(clippy::unwrap_used, reason = "tests")]

use topk_ortho_core::{Error, Pair, PairHistory};

const VERSION_1: &[u8] = include_bytes!("data/history-v1.tkoh");

/// Evictions, empty selections, gaps between steps and several anchors, in a few hundred bytes.
fn small() -> PairHistory {
    let mut history = PairHistory::new(3, 0.75).unwrap();
    for step in 0..11_u32 {
        let pairs: Vec<_> = (0..step % 4)
            .map(|n| Pair::try_new(n, 10 + step * n % 5).unwrap())
            .collect();
        history.observe(u64::from(step) * 10, &pairs).unwrap();
    }
    history
}

fn sealed(mut body: Vec<u8>) -> Vec<u8> {
    body.extend(crc32fast::hash(&body).to_le_bytes());
    body
}

fn body() -> Vec<u8> {
    let bytes = small().to_bytes().expect("memory");
    bytes[..bytes.len() - 4].to_vec()
}

#[test]
fn every_truncation_is_refused_with_or_without_a_right_checksum() {
    let bytes = small().to_bytes().expect("memory");
    for end in 0..bytes.len() {
        assert!(
            PairHistory::from_bytes(&bytes[..end]).is_err(),
            "{end} bytes"
        );
    }
    let body = body();
    for end in 0..body.len() {
        assert!(
            PairHistory::from_bytes(&sealed(body[..end].to_vec())).is_err(),
            "{end} bytes, sealed"
        );
    }
}

#[test]
fn every_change_of_a_single_byte_is_refused() {
    let mut bytes = small().to_bytes().expect("memory");
    for at in 0..bytes.len() {
        for flip in 1..=255 {
            bytes[at] ^= flip;
            assert!(
                PairHistory::from_bytes(&bytes).is_err(),
                "byte {at} ^ {flip}"
            );
            bytes[at] ^= flip;
        }
    }
}

/// With the checksum made right again a change may be a valid history; then it must still be usable.
#[test]
fn no_forged_byte_makes_a_panic() {
    let body = body();
    for at in 8..body.len() {
        for forged in [0, 1, 0x7f, 0x80, 0xff] {
            let mut body = body.clone();
            body[at] = forged;
            let bytes = sealed(body);
            if let Ok(mut history) = PairHistory::from_bytes(&bytes) {
                assert_eq!(
                    history.to_bytes().expect("memory"),
                    bytes,
                    "byte {at} = {forged}"
                );
                let step = history.last_step().map_or(0, |step| step + 1);
                let _ = history.observe(step, &[Pair::try_new(0, 1).unwrap()]);
                assert!(
                    history
                        .top(9)
                        .expect("memory")
                        .ema_high
                        .iter()
                        .all(|high| high.is_finite())
                );
            }
        }
    }
}

#[test]
fn forged_lengths_allocate_nothing() {
    let empty = PairHistory::new(3, 0.5)
        .unwrap()
        .to_bytes()
        .expect("memory");
    let records_at = empty.len() - 4 - 8;
    for count in [1, u64::from(u32::MAX), u64::MAX / 64 + 2, u64::MAX] {
        let mut body = empty[..empty.len() - 4].to_vec();
        body[records_at..].copy_from_slice(&count.to_le_bytes());
        let refused = PairHistory::from_bytes(&sealed(body)).err();
        assert_eq!(
            refused,
            Some(Error::Truncated {
                needed: count.saturating_mul(64),
                left: 0
            })
        );
    }
}

#[test]
fn errors_say_what_is_wrong() {
    let bytes = small().to_bytes().expect("memory");
    assert_eq!(
        PairHistory::from_bytes(b"PK").err(),
        Some(Error::Magic { given: *b"PK\0\0" })
    );
    let mut newer = bytes.clone();
    newer[4] = 2;
    assert_eq!(
        PairHistory::from_bytes(&newer).err(),
        Some(Error::Version {
            given: 2,
            newest: 1
        })
    );
    let mut damaged = bytes.clone();
    damaged[100] ^= 1;
    assert!(matches!(
        PairHistory::from_bytes(&damaged),
        Err(Error::Checksum { .. })
    ));
    let mut longer = body();
    longer.push(0);
    let refused = PairHistory::from_bytes(&sealed(longer)).err();
    assert_eq!(
        refused,
        Some(Error::Corrupt {
            what: "bytes after the last record"
        })
    );
}

#[test]
fn bytes_come_back_for_every_length_of_run() {
    let mut history = PairHistory::new(5, 0.9).unwrap();
    for step in 0..70 {
        let bytes = history.to_bytes().expect("memory");
        let mut back = PairHistory::from_bytes(&bytes).unwrap();
        assert_eq!(back.to_bytes().expect("memory"), bytes);
        let pairs: Vec<_> = (0..step % 9)
            .map(|n| Pair::try_new(n, 20 + step % 5).unwrap())
            .collect();
        back.observe(u64::from(step), &pairs).unwrap();
        history.observe(u64::from(step), &pairs).unwrap();
        assert_eq!(back.to_bytes(), history.to_bytes());
    }
}

#[test]
fn version_1_stays_readable() {
    let history = PairHistory::from_bytes(VERSION_1).unwrap();
    let top = history.top(9).expect("memory");
    assert!(
        top.ema_high > top.ema_low,
        "the stored history has an error bound"
    );
    assert_eq!(history.to_bytes().expect("memory"), VERSION_1);
    assert_eq!(small().to_bytes().expect("memory"), VERSION_1);
}

/// Each of these numbers goes up by one with an observation, or by the size of one.
#[test]
fn a_count_that_would_overflow_is_refused() {
    let mut history = PairHistory::new(3, 0.5).unwrap();
    history.observe(0, &[]).unwrap();
    let body = history.to_bytes().expect("memory");
    let body = &body[..body.len() - 4];
    let (step, survival) = (40, 40 + 7 * 8);
    let lifetimes = survival + 11 * 16;
    let unknown = lifetimes + 32 * 8;
    for at in [step, survival + 8, lifetimes, unknown] {
        for count in [1 << 63, u64::MAX] {
            let mut body = body.to_vec();
            body[at..at + 8].copy_from_slice(&count.to_le_bytes());
            let refused = PairHistory::from_bytes(&sealed(body)).err();
            let what = "a count beyond 2^63";
            assert_eq!(refused, Some(Error::Corrupt { what }), "at {at}");
        }
    }
}

/// With empty selections a file can claim any number of observations: the anchors that belong to it are easily made.
#[test]
fn observations_beyond_every_count_are_refused() {
    let mut history = PairHistory::new(3, 0.5).unwrap();
    history.observe(0, &[]).unwrap();
    let one = history.to_bytes().expect("memory");
    let anchors_at = 40 + 7 * 8 + 11 * 16 + 33 * 8;
    let claims = |now: u64| {
        let mut body = one[..anchors_at].to_vec();
        body[24..32].copy_from_slice(&now.to_le_bytes());
        let mut anchors: Vec<u64> = (0..11).map(|n| 1 + ((now - 1) >> n << n)).collect();
        anchors.sort_unstable();
        anchors.dedup();
        body.extend((anchors.len() as u64).to_le_bytes());
        body.extend(
            anchors
                .iter()
                .flat_map(|at| [at.to_le_bytes(), [0; 8]].concat()),
        );
        body.extend(0_u64.to_le_bytes());
        PairHistory::from_bytes(&sealed(body))
    };
    assert_eq!(claims(1_000_000).unwrap().observations(), 1_000_000);
    let what = "a count beyond 2^63";
    assert_eq!(claims(u64::MAX).err(), Some(Error::Corrupt { what }));
    let mut most = claims(i64::MAX as u64).unwrap();
    most.observe(1, &[Pair::try_new(0, 1).unwrap()]).unwrap();
    assert_eq!(most.stability().observations, 1 << 63);
}
