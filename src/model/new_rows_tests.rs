//! New rows against sums written out by hand, and the loss that they leave.

use tch::{Device, Tensor};

use crate::model::config::{Preset, SpecialTokens};
use crate::model::encoder::{Model, Precision};
use crate::model::init;
use crate::model::input::PackedInput;

use super::*;

const OLD_ROWS: i64 = 12;

fn shape(vocab_size: i64) -> ModelConfig {
    ModelConfig {
        vocab_size,
        hidden_size: 8,
        intermediate_size: 6,
        layers: 2,
        attention_heads: 2,
        local_window: 8,
        special_tokens: SpecialTokens {
            pad: 0,
            cls: 1,
            sep: 2,
        },
        ..Preset::Base.config()
    }
}

/// A model with a bias for each token, as one that was trained has.
fn trained() -> Parameters {
    let parameters = init::initialize(&shape(OLD_ROWS), 5, Device::Cpu);
    let bias = Tensor::from_slice(&[0.5_f32, -1.0, 2.0, 0.25]).repeat([3]);
    let mut own = parameters.tensor("decoder.bias").detach();
    own.copy_(&bias);
    parameters
}

/// Of the old ids 10 and 11 were unused; 12 is made of a token that is new itself, 13 of nothing.
fn pieces() -> BTreeMap<u32, Vec<u32>> {
    BTreeMap::from([(10, vec![3, 4, 4]), (12, vec![10, 5]), (13, vec![])])
}

fn rows(tensor: &Tensor) -> Vec<Vec<f64>> {
    let width = tensor.size().get(1).copied().unwrap_or(1);
    let flat = Vec::<f32>::try_from(&tensor.detach().reshape([-1])).expect("it has fp32 numbers");
    let rows = flat.chunks_exact(width as usize);
    rows.map(|row| row.iter().copied().map(f64::from).collect())
        .collect()
}

#[test]
fn new_rows_are_the_means_of_their_pieces() {
    let old = trained();
    let new = NewRows::new(pieces(), OLD_ROWS, 14).expect("every row is known");
    let grown = new.fill(&old, &shape(14));
    for name in BY_TOKEN {
        let (before, after) = (rows(old.tensor(name)), rows(grown.tensor(name)));
        assert_eq!(after.len(), 14);
        for id in (0..10).chain([11]) {
            assert_eq!(before[id], after[id], "{name} {id}");
        }
        for column in 0..before[0].len() {
            let of = |id: usize| before[id][column];
            let tenth = (of(3) + of(4) + of(4)) / 3.0;
            let all = (0..12).map(of).sum::<f64>() / 12.0;
            for (id, wanted) in [(10, tenth), (12, f64::midpoint(tenth, of(5))), (13, all)] {
                assert!((after[id][column] - wanted).abs() < 1e-7, "{name} {id}");
            }
        }
    }
    for (before, after) in old.iter().zip(grown.iter()) {
        assert_eq!(before.name, after.name);
        assert!(after.tensor.requires_grad() && after.tensor.is_leaf());
        if !BY_TOKEN.contains(&after.name.as_str()) {
            assert!(before.tensor.equal(&after.tensor), "{}", after.name);
        }
    }
}

/// Texts without a new token: the hidden states keep their bits, a new token's logit is the mean of
/// its pieces', and the loss changes by the logarithm of what that does to the softmax's sum.
#[test]
fn other_texts_keep_their_loss_but_for_the_softmax() {
    let old = trained();
    let new = NewRows::new(pieces(), OLD_ROWS, 14).expect("every row is known");
    let grown = new.fill(&old, &shape(14));
    let logits = |parameters: Parameters| {
        let config = shape(parameters.tensor("decoder.bias").size()[0]);
        let model = Model { config, parameters };
        let ids = [1, 5, 7, 3, 4, 9, 2, 1, 6, 8, 2];
        let input = PackedInput::new(&model.config, &ids, &[0, 7, 11], Device::Cpu);
        let encoder = model.encoder(Precision::Fp32);
        rows(&encoder.logits(&encoder.encode(&input.expect("it is one"), None)))
    };
    let (before, after) = (logits(old), logits(grown));
    for (before, after) in before.iter().zip(&after) {
        let mut expected = before.clone();
        expected[10] = (before[3] + 2.0 * before[4]) / 3.0;
        expected.push(f64::midpoint(expected[10], before[5]));
        expected.push(before.iter().sum::<f64>() / 12.0);
        for (after, expected) in after.iter().zip(&expected) {
            assert!((after - expected).abs() < 1e-5, "{after} is not {expected}");
        }
        let sum = |logits: &[f64]| logits.iter().map(|logit| logit.exp()).sum::<f64>();
        let growth = (sum(after) / sum(before)).ln();
        // The bound: the geometric mean of probabilities is at most their mean.
        let probability = |id: usize| before[id].exp() / sum(before);
        let tenth = (probability(3) + 2.0 * probability(4)) / 3.0;
        let bound = tenth + f64::midpoint(tenth, probability(5)) + 1.0 / 12.0;
        assert!(growth < bound.ln_1p(), "{growth} over {}", bound.ln_1p());
        assert!(growth > -probability(10) / (1.0 - probability(10)));
    }
}

#[test]
fn moments_of_new_rows_are_zero_and_others_stay() {
    let new = NewRows::new(pieces(), OLD_ROWS, 14).expect("every row is known");
    let named =
        |name: &str, size: &[i64]| (name.to_owned(), Tensor::zeros(size, tch::kind::FLOAT_CPU));
    let moments = vec![
        named("model.embeddings.tok_embeddings.weight.exp_avg", &[14, 8]),
        named("decoder.bias.exp_avg_sq", &[14]),
        named("head.norm.weight.exp_avg", &[8]),
    ];
    let old = new.old_part(&moments);
    assert_eq!(
        old.iter()
            .map(|(_, tensor)| tensor.size())
            .collect::<Vec<_>>(),
        [vec![12, 8], vec![12], vec![8]]
    );
    for (_, tensor) in &old {
        let _ = tensor.shallow_clone().fill_(1.0);
    }
    new.clear_moments(&moments);
    for (name, tensor) in &moments[..2] {
        for (id, row) in rows(tensor).iter().enumerate() {
            let wanted = if [10, 12, 13].contains(&id) { 0.0 } else { 1.0 };
            assert!(
                row.iter().all(|number| (number - wanted).abs() < 1e-9),
                "{name} {id}"
            );
        }
    }
    assert!(
        rows(&moments[2].1)
            .iter()
            .flatten()
            .all(|number| *number > 0.5)
    );
}

#[test]
fn what_has_no_origin_is_refused() {
    let error = |pieces: &[(u32, &[u32])], old_rows| {
        let pieces = pieces.iter().map(|(id, own)| (*id, own.to_vec())).collect();
        NewRows::new(pieces, old_rows, 14)
            .expect_err("it is refused")
            .to_string()
    };
    for (pieces, old_rows, wanted) in [
        (&[][..], 15, "set `vocab_size: 15` under `model`"),
        (
            &[(13, &[3, 4][..])],
            12,
            "nothing says what token 12 of the corpus's tokenizer was made of",
        ),
        (
            &[(12, &[3]), (13, &[3, 99])],
            12,
            "token 13 was made of tokens that the model",
        ),
        (
            &[(14, &[3])],
            14,
            "the record of new tokens has token 14, the tokenizer has only 14",
        ),
    ] {
        let error = error(pieces, old_rows);
        assert!(error.contains(wanted), "{error}");
    }
}
