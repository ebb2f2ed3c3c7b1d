//! Rows for tokens that a model has not seen: each new token's row of the embeddings, and its
//! number of the decoder's bias, is the mean of those of the pieces that stood for its text before.
//!
//! The decoder is the embeddings, so a new token's logit is the mean of its pieces' logits: its
//! probability is their geometric mean, which is at most their mean. Where no text has the new
//! tokens, a model's loss at a position can therefore grow by no more than
//! ln(1 + sum over new tokens of the mean of its pieces' probabilities there), and it falls by what
//! the `[unused…]` ids were given that are no more.
//!
//! An id that stands for no text gets the mean of all old rows. Rows of other ids keep their bits.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use tch::{Kind, Tensor, no_grad};

use crate::model::config::ModelConfig;
use crate::model::parameters::Parameters;
use crate::model::weights::EMBEDDINGS;

/// The parameters that have a row, or a number, for each token.
const BY_TOKEN: [&str; 2] = [EMBEDDINGS, "decoder.bias"];

/// Which rows of a model are new, and of which others they are the mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRows {
    /// None for the mean of all.
    pieces: BTreeMap<u32, Vec<u32>>,
    old_rows: i64,
    rows: i64,
}

impl NewRows {
    /// `pieces` as in [`crate::corpus::new_tokens::NewTokens`]; from a model of `old_rows` tokens
    /// to one of `rows`.
    ///
    /// # Errors
    /// A model that has more rows already, a row that neither model nor record has, and a piece
    /// that the model does not have.
    pub fn new(pieces: BTreeMap<u32, Vec<u32>>, old_rows: i64, rows: i64) -> Result<Self> {
        ensure!(
            old_rows <= rows,
            "the model to start from has {old_rows} rows of embeddings, the corpus's tokenizer \
             {rows} tokens\n  hint: start from a model of the tokenizer that was grown, or, where \
             it is, set `vocab_size: {old_rows}` under `model`"
        );
        for id in old_rows..rows {
            ensure!(
                pieces.contains_key(&(id as u32)),
                "the model to start from has {old_rows} tokens, and nothing says what token {id} \
                 of the corpus's tokenizer was made of\n  \
                 hint: start from a model of the tokenizer that was grown"
            );
        }
        for (id, own) in &pieces {
            ensure!(
                i64::from(*id) < rows,
                "the record of new tokens has token {id}, the tokenizer has only {rows}"
            );
            let known = |piece: &u32| i64::from(*piece) < old_rows || pieces.contains_key(piece);
            ensure!(
                own.iter().all(known),
                "token {id} was made of tokens that the model to start from does not have\n  \
                 hint: start from a model of the tokenizer that was grown"
            );
        }
        Ok(Self {
            pieces,
            old_rows,
            rows,
        })
    }

    /// From a model of `old_rows` tokens to one of the shape `config`; without a new token it is
    /// for whoever compares the shapes to find that they differ.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn between(
        pieces: BTreeMap<u32, Vec<u32>>,
        old_rows: i64,
        config: &ModelConfig,
    ) -> Result<Self> {
        let old_rows = if pieces.is_empty() {
            config.vocab_size
        } else {
            old_rows
        };
        Self::new(pieces, old_rows, config.vocab_size)
    }

    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The shape of the older model.
    pub fn before(&self, config: &ModelConfig) -> ModelConfig {
        ModelConfig {
            vocab_size: self.old_rows,
            ..config.clone()
        }
    }

    /// The parameters of a model of the shape `config` from those of the older one.
    pub fn fill(&self, old: &Parameters, config: &ModelConfig) -> Parameters {
        assert_eq!(
            config.vocab_size, self.rows,
            "the rows are those of the shape"
        );
        let built = Parameters::build(config, old.device(), |wanted| {
            let tensor = old.tensor(&wanted.name).detach();
            if BY_TOKEN.contains(&wanted.name.as_str()) {
                Ok(self.fill_one(&tensor))
            } else {
                Ok::<_, std::convert::Infallible>(tensor.copy())
            }
        });
        match built {
            Ok(parameters) => parameters,
            Err(never) => match never {},
        }
    }

    /// The moments of the older model's shape inside of those of the new one's, for what reads
    /// the old ones; names are `<parameter>.<moment>`.
    pub fn old_part(&self, moments: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
        let part = |(name, tensor): &(String, Tensor)| {
            let part = if is_by_token(name) {
                tensor.narrow(0, 0, self.old_rows)
            } else {
                tensor.shallow_clone()
            };
            (name.clone(), part)
        };
        moments.iter().map(part).collect()
    }

    /// Makes the moments of new tokens zero: what an id of the same number gathered before was of
    /// another token.
    pub fn clear_moments(&self, moments: &[(String, Tensor)]) {
        let ids: Vec<i64> = self.pieces.keys().copied().map(i64::from).collect();
        if ids.is_empty() {
            return;
        }
        for (_, tensor) in moments.iter().filter(|(name, _)| is_by_token(name)) {
            let ids = Tensor::from_slice(&ids).to_device(tensor.device());
            let _ = no_grad(|| tensor.shallow_clone().index_fill_(0, &ids, 0.0));
        }
    }

    fn fill_one(&self, old: &Tensor) -> Tensor {
        let mut shape = old.size();
        assert_eq!(shape[0], self.old_rows, "the older model has its shape");
        let all = mean(old);
        shape[0] = self.rows;
        let grown = Tensor::zeros(shape.as_slice(), (Kind::Float, old.device()));
        grown.narrow(0, 0, self.old_rows).copy_(old);
        // In the order of ids: a piece that is new itself has the lower one.
        for (id, pieces) in &self.pieces {
            let row = if pieces.is_empty() {
                all.shallow_clone()
            } else {
                let ids: Vec<i64> = pieces.iter().copied().map(i64::from).collect();
                let ids = Tensor::from_slice(&ids).to_device(old.device());
                mean(&grown.index_select(0, &ids))
            };
            grown.get(i64::from(*id)).copy_(&row);
        }
        grown
    }
}

/// The mean over rows, summed in fp64.
fn mean(rows: &Tensor) -> Tensor {
    let dimensions: &[i64] = &[0];
    rows.to_kind(Kind::Double)
        .mean_dim(dimensions, false, Kind::Double)
        .to_kind(Kind::Float)
}

fn is_by_token(moment: &str) -> bool {
    let parameter = moment
        .rsplit_once('.')
        .map_or(moment, |(parameter, _)| parameter);
    BY_TOKEN.contains(&parameter)
}

#[cfg(test)]
#[path = "new_rows_tests.rs"]
mod tests;
