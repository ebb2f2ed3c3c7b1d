//! The shape of an encoder: everything that decides which tensors it has and what they mean.
//!
//! A [`ModelConfig`] that passed [`ModelConfig::validate`] can be built; nothing after that checks
//! shapes again.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// ModernBERT's hyperparameters, named after what they do; `huggingface` maps them to the names of
/// `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Rows of the embedding matrix.
    pub vocab_size: i64,
    /// Width of the residual stream.
    pub hidden_size: i64,
    /// Width of one GeGLU half: the first MLP matrix has twice as many rows.
    pub intermediate_size: i64,
    pub layers: i64,
    pub attention_heads: i64,
    /// Tokens of the longest document.
    pub max_positions: i64,
    /// Width of the local attention window: a token sees half of it on each side, and itself.
    pub local_window: i64,
    /// Layers 0, n, 2n, … attend globally, all others locally.
    pub global_every: i64,
    /// Base of the rotary angles in global layers.
    pub global_rope_base: f64,
    /// Base of the rotary angles in local layers.
    pub local_rope_base: f64,
    pub norm_epsilon: f64,
    pub special_tokens: SpecialTokens,
    /// Only carried along for downstream classifiers.
    pub classifier_pooling: String,
}

/// A rule that a shape breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field to change, as `ModelSettings` names it.
    pub field: &'static str,
    pub words: String,
}

/// Token ids that `config.json` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Its embedding gets no gradient from the input side, as in transformers.
    pub pad: i64,
    pub cls: i64,
    pub sep: i64,
}

/// A published ModernBERT shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Preset {
    /// 22 layers of width 768: 149,655,232 parameters.
    #[serde(rename = "modernbert-base")]
    Base,
    /// 28 layers of width 1024: 395,881,664 parameters.
    #[serde(rename = "modernbert-large")]
    Large,
}

impl Preset {
    /// The published configuration, with the vocabulary of the published tokenizer.
    pub fn config(self) -> ModelConfig {
        let (layers, hidden_size, attention_heads, intermediate_size) = match self {
            Preset::Base => (22, 768, 12, 1152),
            Preset::Large => (28, 1024, 16, 2624),
        };
        ModelConfig {
            vocab_size: 50_368,
            hidden_size,
            intermediate_size,
            layers,
            attention_heads,
            max_positions: 8192,
            local_window: 128,
            global_every: 3,
            global_rope_base: 160_000.0,
            local_rope_base: 10_000.0,
            norm_epsilon: 1e-5,
            special_tokens: SpecialTokens {
                pad: 50_283,
                cls: 50_281,
                sep: 50_282,
            },
            classifier_pooling: "mean".to_owned(),
        }
    }
}

impl ModelConfig {
    /// Numbers of one attention head.
    pub fn head_size(&self) -> i64 {
        self.hidden_size / self.attention_heads
    }

    /// Tokens seen on each side in a local layer.
    pub fn half_window(&self) -> i64 {
        self.local_window / 2
    }

    pub fn is_global(&self, layer: i64) -> bool {
        layer % self.global_every == 0
    }

    /// Refuses a shape that cannot be built, naming every broken rule.
    pub fn validate(&self) -> Result<()> {
        let problems = self.problems();
        if !problems.is_empty() {
            let words: Vec<_> = problems.into_iter().map(|problem| problem.words).collect();
            bail!("the model cannot be built: {}", words.join("; "));
        }
        Ok(())
    }

    fn problems(&self) -> Vec<Problem> {
        let wrong_sizes = self.wrong_sizes();
        if wrong_sizes.is_empty() {
            self.broken_rules()
        } else {
            wrong_sizes // the rules divide by them
        }
    }

    fn wrong_sizes(&self) -> Vec<Problem> {
        [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("layers", self.layers),
            ("attention_heads", self.attention_heads),
            ("max_positions", self.max_positions),
            ("sliding_window", self.local_window),
            ("global_every", self.global_every),
        ]
        .into_iter()
        .filter(|(_, value)| !(1..=1 << 31).contains(value))
        .map(|(field, value)| Problem {
            field,
            words: format!("{field} is {value}, it must be at least 1"),
        })
        .collect()
    }

    /// Every broken rule between fields; none where a size is out of all bounds.
    pub fn broken_rules(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if !self.wrong_sizes().is_empty() {
            return problems;
        }
        let mut push = |field, words| problems.push(Problem { field, words });
        let (width, heads) = (self.hidden_size, self.attention_heads);
        if width % heads != 0 {
            let words = format!("hidden_size {width} is not divisible by attention_heads {heads}");
            push("hidden_size", words);
        } else if self.head_size() % 2 != 0 {
            let words = format!(
                "hidden_size {width} over attention_heads {heads} gives heads of {}, rotary \
                 positions need an even size",
                self.head_size()
            );
            push("hidden_size", words);
        }
        if self.local_window % 2 != 0 {
            let words = format!(
                "sliding_window {} is odd, half of it lies on each side of a token",
                self.local_window
            );
            push("sliding_window", words);
        }
        for (name, value, above) in [
            ("global_rope_base", self.global_rope_base, 1.0),
            ("local_rope_base", self.local_rope_base, 1.0),
            ("norm_eps", self.norm_epsilon, 0.0),
        ] {
            if !(value.is_finite() && value > above) {
                push(name, format!("{name} is {value}, it must be above {above}"));
            }
        }
        let SpecialTokens { pad, cls, sep } = self.special_tokens;
        for (name, id) in [("pad", pad), ("cls", cls), ("sep", sep)] {
            if !(0..self.vocab_size).contains(&id) {
                let words = format!(
                    "{name}_token_id {id} is outside the vocabulary of {}",
                    self.vocab_size
                );
                push("vocab_size", words);
            }
        }
        problems
    }

    /// Refuses weights of another architecture: one error with every field that differs, as
    /// `layers is 28, expected 22`. Fields that only downstream classifiers read, and
    /// `max_positions`, which no tensor depends on, may differ.
    pub fn expect_same_architecture(&self, found: &ModelConfig, origin: &str) -> Result<()> {
        let mut differences = Vec::new();
        let mut compare = |name: &str, expected: f64, found: f64| {
            if (expected - found).abs() > f64::EPSILON {
                differences.push(format!("{name} is {found}, expected {expected}"));
            }
        };
        compare(
            "vocab_size",
            self.vocab_size as f64,
            found.vocab_size as f64,
        );
        compare(
            "hidden_size",
            self.hidden_size as f64,
            found.hidden_size as f64,
        );
        compare(
            "intermediate_size",
            self.intermediate_size as f64,
            found.intermediate_size as f64,
        );
        compare("layers", self.layers as f64, found.layers as f64);
        compare(
            "attention_heads",
            self.attention_heads as f64,
            found.attention_heads as f64,
        );
        compare(
            "sliding_window",
            self.local_window as f64,
            found.local_window as f64,
        );
        compare(
            "global_every",
            self.global_every as f64,
            found.global_every as f64,
        );
        compare(
            "global_rope_base",
            self.global_rope_base,
            found.global_rope_base,
        );
        compare(
            "local_rope_base",
            self.local_rope_base,
            found.local_rope_base,
        );
        compare("norm_eps", self.norm_epsilon, found.norm_epsilon);
        if !differences.is_empty() {
            bail!(
                "the checkpoint {origin} is of another architecture: {}\n  \
                 hint: set these fields under \
                 `model` to the checkpoint's values, or start from another checkpoint",
                differences.join("; ")
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid() {
        Preset::Base.config().validate().unwrap();
        Preset::Large.config().validate().unwrap();
    }

    #[test]
    fn every_broken_rule_is_named_at_once() {
        let config = ModelConfig {
            hidden_size: 100,
            local_window: 127,
            local_rope_base: 0.0,
            vocab_size: 50_000,
            ..Preset::Base.config()
        };
        let error = config.validate().unwrap_err().to_string();
        for part in [
            "hidden_size 100 is not divisible by attention_heads 12",
            "sliding_window 127 is odd",
            "local_rope_base is 0",
            "pad_token_id 50283 is outside the vocabulary of 50000",
        ] {
            assert!(error.contains(part), "{part:?} is missing in {error:?}");
        }
        let config = ModelConfig {
            attention_heads: 0,
            ..Preset::Base.config()
        };
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains("attention_heads is 0"), "{error}");
    }

    #[test]
    fn another_architecture_is_one_error_with_its_fields() {
        let error = Preset::Base
            .config()
            .expect_same_architecture(&Preset::Large.config(), "s3://bucket/large")
            .unwrap_err()
            .to_string();
        assert!(error.contains("s3://bucket/large"), "{error}");
        assert!(error.contains("layers is 28, expected 22"), "{error}");
        assert!(
            error.contains("hidden_size is 1024, expected 768"),
            "{error}"
        );
        assert!(!error.contains("vocab_size"), "{error}");
    }
}
