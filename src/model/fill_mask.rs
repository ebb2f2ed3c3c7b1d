//! Fills `[MASK]` in a text with the encoder's most probable tokens.

use anyhow::{Result, anyhow, ensure};
use serde::Serialize;
use tch::{Kind, Tensor};
use tokenizers::Tokenizer;

use crate::model::encoder::{Model, Precision};
use crate::model::input::PackedInput;

const MASK: &str = "[MASK]";

/// The candidates for one `[MASK]`, the most probable first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FilledMask {
    /// The mask's place among the text's tokens, `[CLS]` being 0.
    pub position: usize,
    pub candidates: Vec<Candidate>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Candidate {
    pub id: u32,
    /// The token as text, with its leading space if it has one.
    pub token: String,
    pub probability: f64,
}

/// The `count` most probable tokens for every `[MASK]` in `text`, in the order of the text.
///
/// # Errors
/// A tokenizer without `[MASK]`, a text without one or longer than the model's positions. No error
/// quotes the text.
pub fn fill_mask(
    model: &Model,
    tokenizer: &Tokenizer,
    text: &str,
    count: usize,
) -> Result<Vec<FilledMask>> {
    let mask = tokenizer.token_to_id(MASK).ok_or_else(|| {
        anyhow!(
            "the tokenizer has no {MASK} token\n  hint: use the tokenizer.json of the checkpoint"
        )
    })?;
    let encoding = tokenizer
        .encode(text, true)
        .map_err(|_| anyhow!("the tokenizer refuses the text\n  hint: is it valid UTF-8 text?"))?;
    let ids = encoding.get_ids();
    let places: Vec<i64> = ids
        .iter()
        .enumerate()
        .filter(|(_, id)| **id == mask)
        .map(|(at, _)| at as i64)
        .collect();
    ensure!(
        !places.is_empty(),
        "the text has no {MASK}\n  hint: write {MASK} where a word is to be filled in"
    );
    let device = model.parameters.device();
    let input = PackedInput::new(&model.config, ids, &[0, ids.len() as u32], device)?;
    let count = (count as i64).clamp(1, model.config.vocab_size);
    let (probabilities, candidates) = tch::no_grad(|| {
        let encoder = model.encoder(Precision::Fp32);
        let hidden = encoder.encode(&input, None);
        let masked = hidden.index_select(0, &Tensor::from_slice(&places).to_device(device));
        encoder
            .logits(&masked)
            .softmax(-1, Kind::Double)
            .topk(count, -1, true, true)
    });
    (0..places.len() as i64)
        .map(|row| {
            let candidates = (0..count)
                .map(|column| {
                    let id = candidates.int64_value(&[row, column]) as u32;
                    let token = tokenizer
                        .decode(&[id], false)
                        .map_err(|_| anyhow!("the tokenizer cannot decode token {id}"))?;
                    Ok(Candidate {
                        id,
                        token,
                        probability: probabilities.double_value(&[row, column]),
                    })
                })
                .collect::<Result<_>>()?;
            Ok(FilledMask {
                position: places[row as usize] as usize,
                candidates,
            })
        })
        .collect()
}
