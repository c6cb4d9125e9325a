use super::*;
use proptest::prelude::*;

fn pair(n: u32) -> Pair {
    Pair::try_new(n / 64, 64 + n % 64).expect("ordered")
}

fn with_heap(k: usize) -> TopK {
    TopK {
        k,
        store: Store::Heap(BinaryHeap::new()),
    }
}

fn with_buffer(k: usize) -> TopK {
    TopK {
        k,
        store: Store::Buffer(Buffer::new(k)),
    }
}

/// The definition: sort everything, best first, ties to the smaller pair.
fn naive(candidates: &[(Pair, f32)], k: usize) -> Selection {
    let mut all: Vec<_> = candidates.iter().copied().filter(|c| c.1 > 0.0).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(k);
    Selection {
        pairs: all.iter().map(|c| c.0).collect(),
        scores: all.iter().map(|c| c.1).collect(),
    }
}

fn score() -> impl Strategy<Value = f32> {
    prop_oneof![
        3 => (0_u8..5).prop_map(f32::from),
        1 => Just(-0.0),
        2 => 0.0_f32..f32::MAX,
        1 => (0_u32..9).prop_map(f32::from_bits),
    ]
}

fn candidates() -> impl Strategy<Value = Vec<(Pair, f32)>> {
    let scores = prop::collection::vec(score(), 0..1_500);
    scores
        .prop_map(|scores| (0..).map(pair).zip(scores).collect::<Vec<_>>())
        .prop_shuffle()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn every_store_and_blocking_equals_sorting(
        all in candidates(), k in 1_usize..400, block in 1_usize..300, ask in any::<bool>(),
    ) {
        let expected = naive(&all, k);
        for mut best in [with_heap(k), with_buffer(k)] {
            for (n, chunk) in all.chunks(block).enumerate() {
                let (pairs, scores): (Vec<_>, Vec<_>) = chunk.iter().copied().unzip();
                best.push(&pairs, &scores).expect("finite");
                if ask {
                    let seen = naive(&all[..(all.len()).min((n + 1) * block)], k);
                    let kth = seen.scores.get(k - 1).copied();
                    prop_assert_eq!(best.threshold(), kth);
                    prop_assert_eq!(best.len(), seen.scores.len());
                }
            }
            prop_assert_eq!(best.finish(), expected.clone());
            prop_assert!(best.is_empty());
        }
    }
}

/// Large blocks whose sample misleads: sorted, constant, periodic with the stride, best ones hidden.
#[test]
fn a_guessed_bar_is_never_trusted() {
    let n = 40_000_u32;
    let shapes: [fn(u32) -> u32; 6] = [
        |n| n,
        |n| 40_000 - n,
        |_| 7,
        |n| 1 + u32::from(n % 9 == 0),
        |n| n % 9 * 100,
        |n| n.wrapping_mul(0x9e37_79b9) >> 20,
    ];
    let pairs: Vec<_> = (0..n)
        .map(|n| Pair::try_new(n / 256, 256 + n % 256).expect("ordered"))
        .collect();
    for shape in shapes {
        let scores: Vec<f32> = (0..n).map(|n| shape(n) as f32).collect();
        let all: Vec<_> = pairs.iter().copied().zip(scores.iter().copied()).collect();
        for k in [1, 300, 4_900] {
            let mut best = with_buffer(k);
            let (first, rest) = (&pairs[..9], &pairs[9..]);
            best.push(first, &scores[..9]).expect("finite");
            best.push(rest, &scores[9..]).expect("finite");
            assert_eq!(best.finish(), naive(&all, k));
        }
    }
}

#[test]
fn a_refused_block_changes_nothing() {
    for mut best in [with_heap(2), with_buffer(2)] {
        best.push_columns(&[0], &[1], &[1.0]).expect("finite");
        let nan = best.push_columns(&[0, 3], &[2, 4], &[9.0, f32::NAN]);
        assert!(matches!(nan, Err(Error::ScoreNotFinite { i: 3, j: 4, .. })));
        let infinite = best.push_columns(&[3], &[4], &[f32::INFINITY]);
        assert!(matches!(infinite, Err(Error::ScoreNotFinite { .. })));
        let negative = best.push_columns(&[3], &[4], &[-1e-40]);
        assert_eq!(
            negative,
            Err(Error::ScoreNegative {
                i: 3,
                j: 4,
                score: -1e-40
            })
        );
        assert!(best.push_columns(&[4], &[4], &[1.0]).is_err());
        assert!(best.push_columns(&[4], &[5], &[]).is_err());
        assert!(best.push(&[pair(0)], &[]).is_err());
        assert_eq!(best.finish().scores, [1.0]);
    }
}

/// Large blocks are checked on the way, small ones ahead; either is taken back as a whole.
#[test]
fn a_refused_block_of_any_size_changes_nothing() {
    for (held, size) in [(0, 5), (0, 9_000), (300, 400), (300, 90_000)] {
        let columns = |n: i64| -> (Vec<i64>, Vec<i64>, Vec<f32>) {
            let scores = (0..n).map(|n| 1.0 + (n % 97) as f32).collect();
            (vec![3; n as usize], (10..10 + n).collect(), scores)
        };
        let mut best = with_buffer(300);
        let (i, j, scores) = columns(held);
        best.push_columns(&i, &j, &scores).expect("pairs");
        let before = best.clone().finish();
        for place in [0, size / 2, size - 1] {
            let (mut i, j, mut scores) = columns(size);
            for wrong in [-1.0, f32::NAN, f32::INFINITY] {
                scores[place as usize] = wrong;
                let error = best.push_columns(&i, &j, &scores).expect_err("refused");
                assert!(error.to_string().contains(&format!("j = {}", 10 + place)));
                assert_eq!(best.clone().finish(), before);
            }
            (scores[place as usize], i[place as usize]) = (1e9, 1 << 40);
            let error = best.push_columns(&i, &j, &scores).expect_err("refused");
            assert!(matches!(error, Error::IndexRange { .. }));
            assert_eq!(best.clone().finish(), before);
            (scores[place as usize], i[place as usize]) = (-0.0, -7);
            let unseen = best.clone().push_columns(&i, &j, &scores);
            assert_eq!(unseen, Ok(()));
        }
    }
}

#[test]
fn an_absurd_k_allocates_nothing_and_zero_is_refused() {
    let mut best = TopK::new(usize::MAX).expect("positive");
    best.push_columns(&[0], &[1], &[1.0]).expect("finite");
    assert_eq!(
        (best.threshold(), best.len(), best.k()),
        (None, 1, usize::MAX)
    );
    assert_eq!(best.finish().scores, [1.0]);
    assert_eq!(TopK::new(0).err(), Some(Error::ZeroK));
}

#[test]
fn repeated_pairs_are_separate_candidates() {
    for mut best in [with_heap(3), with_buffer(3)] {
        best.push(&[pair(1); 9], &[2.0; 9]).expect("finite");
        assert_eq!(best.finish().pairs, [pair(1); 3]);
    }
}
