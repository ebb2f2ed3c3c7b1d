//! The attention kernels against attention written out in full.

use proptest::prelude::*;

use super::*;

/// A seeded tensor without libtorch's generator.
fn numbers(shape: [i64; 3], seed: u64) -> Tensor {
    let count = shape.iter().product::<i64>() as u64;
    let data: Vec<f64> = (0..count)
        .map(|index| {
            let word = (index + seed * 1_000_003).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let word = (word ^ (word >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            ((word >> 11) as f64 / (1u64 << 53) as f64 - 0.5) * 4.0
        })
        .collect();
    Tensor::from_slice(&data).view(shape)
}

fn heads(tokens: i64, kind: Kind) -> Heads {
    let leaf = |seed| {
        numbers([tokens, 2, 6], seed)
            .to_kind(kind)
            .set_requires_grad(true)
    };
    Heads {
        queries: leaf(1),
        keys: leaf(2),
        values: leaf(3),
    }
}

/// One n x n mask over the whole pack, the definition itself.
fn dense(heads: &Heads, cu_seqlens: &[i64], half_window: Option<i64>) -> Tensor {
    let by_head = |tensor: &Tensor| tensor.transpose(0, 1);
    let (queries, keys) = (by_head(&heads.queries), by_head(&heads.keys));
    let scores = queries.matmul(&keys.transpose(1, 2)) / 6f64.sqrt();
    let documents: Vec<i64> = cu_seqlens
        .windows(2)
        .enumerate()
        .flat_map(|(document, pair)| vec![document as i64; (pair[1] - pair[0]) as usize])
        .collect();
    let tokens = documents.len();
    let hidden: Vec<bool> = (0..tokens * tokens)
        .map(|place| {
            let (query, key) = (place / tokens, place % tokens);
            documents[query] != documents[key]
                || half_window.is_some_and(|half| query.abs_diff(key) as i64 > half)
        })
        .collect();
    let hidden = Tensor::from_slice(&hidden).view([1, tokens as i64, tokens as i64]);
    scores
        .masked_fill(&hidden, f64::NEG_INFINITY)
        .softmax(-1, None::<Kind>)
        .matmul(&by_head(&heads.values))
        .transpose(0, 1)
}

fn relative_error(found: &Tensor, wanted: &Tensor) -> f64 {
    let norm = |tensor: &Tensor| tensor.to_kind(Kind::Double).norm().double_value(&[]);
    norm(&(found.to_kind(Kind::Double) - wanted.to_kind(Kind::Double))) / norm(wanted)
}

/// The outputs and all gradients of two ways to attend are equal.
fn check(heads: &Heads, found: &Tensor, wanted: &Tensor, tolerance: f64) {
    assert!(
        relative_error(found, wanted) <= tolerance,
        "{}",
        relative_error(found, wanted)
    );
    let direction = numbers([found.size()[0], 2, 6], 4).to_kind(found.kind());
    let leaves = [&heads.queries, &heads.keys, &heads.values];
    let gradient = |output: &Tensor| {
        let along = (output * &direction).sum(Kind::Double);
        Tensor::run_backward(&[along], &leaves, false, false)
    };
    let wanted = gradient(wanted);
    for (leaf, (found, wanted)) in gradient(found).iter().zip(&wanted).enumerate() {
        if wanted.abs().max().double_value(&[]) < 1e-12 {
            // A single visible key: its probability is 1 whatever the query.
            assert!(found.abs().max().double_value(&[]) < 1e-6);
            continue;
        }
        let error = relative_error(found, wanted);
        assert!(error <= tolerance, "gradient {leaf}: {error}");
    }
}

fn boundaries(lengths: &[i64]) -> Vec<i64> {
    let mut ends = vec![0];
    for length in lengths {
        ends.push(ends[ends.len() - 1] + length);
    }
    ends
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// fp64, so that only a wrong index can make a difference.
    #[test]
    fn blocks_are_the_dense_mask(
        lengths in proptest::collection::vec(1i64..120, 1..6),
        half_window in 1i64..70,
    ) {
        let ends = boundaries(&lengths);
        let heads = heads(ends[ends.len() - 1], Kind::Double);
        let found = LocalBlocks::new(&ends, half_window, Kind::Double, Device::Cpu).attend(&heads);
        check(&heads, &found, &dense(&heads, &ends, Some(half_window)), 1e-12);
    }

    #[test]
    fn documents_attend_to_themselves_only(
        lengths in proptest::collection::vec(prop_oneof![Just(7i64), 1i64..60], 1..8),
    ) {
        let ends = boundaries(&lengths);
        let heads = heads(ends[ends.len() - 1], Kind::Double);
        check(&heads, &global(&heads, &ends), &dense(&heads, &ends, None), 1e-12);
    }
}

/// The explicit kernel, which bf16 takes on a CPU: noise of 8 bits of mantissa, nothing more.
#[test]
fn bf16_differs_by_its_rounding_only() {
    let ends = boundaries(&[200, 31, 31, 1, 64]);
    assert_eq!(choose(Device::Cpu, Kind::BFloat16, 200), Kernel::Explicit);
    let heads = heads(327, Kind::BFloat16);
    let exact = Heads {
        queries: heads.queries.to_kind(Kind::Double),
        keys: heads.keys.to_kind(Kind::Double),
        values: heads.values.to_kind(Kind::Double),
    };
    let found = LocalBlocks::new(&ends, 16, Kind::BFloat16, Device::Cpu).attend(&heads);
    check(&heads, &found, &dense(&exact, &ends, Some(16)), 0.02);
    check(
        &heads,
        &global(&heads, &ends),
        &dense(&exact, &ends, None),
        0.02,
    );
}

/// Twice the tokens, twice the work: the largest intermediate grows with n x window, not n².
#[test]
fn local_attention_grows_linearly() {
    let scores = |tokens| LocalBlocks::new(&[0, tokens], 64, Kind::Float, Device::Cpu).scores(12);
    assert_eq!(scores(8192), 2 * scores(4096));
    assert_eq!(scores(8192), 8192 * 12 * 192);
    assert!(scores(8192) * 40 < 8192 * 8192 * 12);
}

#[test]
fn neighboring_documents_of_one_length_are_one_batch() {
    assert_eq!(
        runs_of_equal_length(&[0, 3, 6, 8, 11]),
        [(2, 3), (1, 2), (1, 3)]
    );
}
