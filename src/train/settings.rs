//! What the run's YAML says of a step.

use garde::Validate;
use serde::{Deserialize, Serialize};

/// The global batch: what one optimizer step takes, whatever the number of ranks.
#[derive(Clone, Debug, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct BatchSettings {
    /// Tokens of a packed row; at least the corpus's `max_length`.
    #[garde(range(min = 16, max = 1_048_576))]
    pub row_tokens: u32,
    /// Rows of a step over all ranks.
    #[garde(range(min = 1, max = 1_048_576))]
    pub rows: u32,
    /// Rows that a rank computes at once; more need more memory, none change the result but for the
    /// order of floating-point sums.
    #[garde(range(min = 1), custom(at_most(self.rows)))]
    pub micro_rows: u32,
}

fn at_most(rows: u32) -> impl Fn(&u32, &()) -> garde::Result {
    move |micro_rows, ()| {
        // A step without rows is an error of its own.
        if rows == 0 || *micro_rows <= rows {
            return Ok(());
        }
        Err(garde::Error::new(format!(
            "must be at most the {rows} rows of a step"
        )))
    }
}

/// How tokens are chosen for prediction; the rate stands in each phase.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Validate)]
#[serde(default, deny_unknown_fields)]
pub struct MaskingSettings {
    /// Never choose `[CLS]`, `[SEP]` and `[PAD]`. The recipe does not protect them.
    #[garde(skip)]
    pub protect_special_tokens: bool,
}

/// The number format of matrix products; weights, gradients and sums stay in fp32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    #[default]
    Fp32,
    /// As torch autocast does it. Slow on a CPU without bf16 instructions.
    Bf16,
    /// bf16 where the processor has instructions for it, else fp32.
    Auto,
}
