//! The masked-language-model head and its loss.
//!
//! The head runs on the positions it is given, never on a whole pack: most of a pack is not masked,
//! and the logits of all of it would be the largest tensor by far.

use tch::{Kind, Reduction, Tensor};

use crate::model::dropout::Dropout;
use crate::model::encoder::Encoder;
use crate::model::input::{NOT_PREDICTED, PackedInput, Targets};

/// The loss of one pack, summed so that the caller divides by the masked tokens of the whole step.
#[derive(Debug)]
pub struct MaskedLoss {
    /// Cross-entropy summed over the masked positions, fp32 scalar; `backward` starts here.
    pub sum: Tensor,
    /// Masked positions.
    pub masked: i64,
    /// Masked positions whose true token has the highest logit, int64 scalar (left on the device,
    /// so that reading the loss waits once, not twice).
    pub correct: Tensor,
}

impl Encoder<'_> {
    /// Logits of hidden states `[m, hidden_size]`: `[m, vocab_size]` of the products' kind. The
    /// decoder is the embedding matrix, with a bias of its own.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        let dense = self.product(hidden, &self.head.dense).gelu("none");
        let normed = self.norm(&dense, &self.head.norm).to_kind(self.kind);
        normed.linear(&self.head.decoder, Some(&self.head.decoder_bias))
    }

    /// The loss of predicting `targets` in `input`.
    pub fn loss(
        &self,
        input: &PackedInput,
        targets: &Targets,
        dropout: Option<&Dropout>,
    ) -> MaskedLoss {
        let hidden = self.encode(input, dropout);
        let logits = self.logits(&hidden.index_select(0, targets.positions()));
        let sum = logits.to_kind(Kind::Float).cross_entropy_loss(
            targets.labels(),
            None::<&Tensor>,
            Reduction::Sum,
            NOT_PREDICTED,
            0.0,
        );
        let correct = tch::no_grad(|| {
            logits
                .argmax(-1, false)
                .eq_tensor(targets.labels())
                .sum(Kind::Int64)
        });
        MaskedLoss {
            sum,
            masked: targets.count(),
            correct,
        }
    }
}
