//! The `model` section of a run's YAML.
//!
//! It says what to build; the tokens and the special ones among them come from the corpus, so that
//! a run cannot contradict its own shards.

use anyhow::ensure;
use garde::Validate;
use serde::{Deserialize, Serialize};

use crate::corpus::TokenizerInfo;
use crate::model::config::{ModelConfig, Preset, SpecialTokens};

/// A published shape and what deviates from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    /// The shape to start from: `modernbert-base` or `modernbert-large`.
    #[garde(skip)]
    pub preset: Preset,
    /// Encoder layers.
    #[garde(inner(range(min = 1, max = 1024)))]
    pub layers: Option<i64>,
    /// Width of the residual stream; must be divisible by `attention_heads`.
    #[garde(
        inner(range(min = 2, max = 65_536)),
        custom(buildable(self, "hidden_size"))
    )]
    pub hidden_size: Option<i64>,
    /// Attention heads of a layer.
    #[garde(inner(range(min = 1, max = 1024)))]
    pub attention_heads: Option<i64>,
    /// Width of one GeGLU half.
    #[garde(inner(range(min = 1, max = 262_144)))]
    pub intermediate_size: Option<i64>,
    /// Width of the local attention window in tokens, half of it on each side; even.
    #[garde(
        inner(range(min = 2, max = 1_048_576)),
        custom(buildable(self, "sliding_window"))
    )]
    pub sliding_window: Option<i64>,
    /// Layers 0, n, 2n, … attend globally.
    #[garde(inner(range(min = 1, max = 1024)))]
    pub global_every: Option<i64>,
    /// Base of the rotary angles in global layers.
    #[garde(inner(range(max = 1e12)), custom(buildable(self, "global_rope_base")))]
    pub global_rope_base: Option<f64>,
    /// Base of the rotary angles in local layers.
    #[garde(inner(range(max = 1e12)), custom(buildable(self, "local_rope_base")))]
    pub local_rope_base: Option<f64>,
    /// Tokens of the longest document that the encoder is made for.
    #[garde(inner(range(min = 1, max = 1_048_576)))]
    pub max_positions: Option<i64>,
    /// Rows of the embeddings, where the model to start from has more than the corpus's tokenizer
    /// has tokens; those beyond stay as they are.
    #[garde(inner(range(min = 1, max = 16_777_216)))]
    pub vocab_size: Option<i64>,
    /// Share of the attention output projection's numbers that is dropped while training.
    /// ModernBERT and its clinical successors were trained with 0.1.
    #[serde(default)]
    #[garde(range(min = 0.0, max = 0.9))]
    pub attention_output_dropout: f64,
}

impl ModelSettings {
    /// The published shape as it is.
    pub fn preset(preset: Preset) -> Self {
        Self {
            preset,
            layers: None,
            hidden_size: None,
            attention_heads: None,
            intermediate_size: None,
            sliding_window: None,
            global_every: None,
            global_rope_base: None,
            local_rope_base: None,
            max_positions: None,
            vocab_size: None,
            attention_output_dropout: 0.0,
        }
    }

    /// The encoder for a corpus made with this tokenizer.
    ///
    /// # Errors
    /// A shape that cannot be built, with every broken rule; fewer rows than tokens.
    pub fn resolve(&self, tokenizer: &TokenizerInfo) -> anyhow::Result<ModelConfig> {
        let tokens = i64::from(tokenizer.vocab_size);
        let rows = self.vocab_size.unwrap_or(tokens);
        ensure!(
            rows >= tokens,
            "`vocab_size` of `model` is {rows}, the corpus's tokenizer has {tokens} tokens\n  \
             hint: leave it out, unless the model to start from has more rows than that"
        );
        let config = ModelConfig {
            vocab_size: rows,
            special_tokens: SpecialTokens {
                pad: i64::from(tokenizer.pad),
                cls: i64::from(tokenizer.cls),
                sep: i64::from(tokenizer.sep),
            },
            ..self.shape()
        };
        config.validate()?;
        Ok(config)
    }

    /// The encoder with the published vocabulary.
    fn shape(&self) -> ModelConfig {
        let preset = self.preset.config();
        ModelConfig {
            layers: self.layers.unwrap_or(preset.layers),
            hidden_size: self.hidden_size.unwrap_or(preset.hidden_size),
            attention_heads: self.attention_heads.unwrap_or(preset.attention_heads),
            intermediate_size: self.intermediate_size.unwrap_or(preset.intermediate_size),
            local_window: self.sliding_window.unwrap_or(preset.local_window),
            global_every: self.global_every.unwrap_or(preset.global_every),
            global_rope_base: self.global_rope_base.unwrap_or(preset.global_rope_base),
            local_rope_base: self.local_rope_base.unwrap_or(preset.local_rope_base),
            max_positions: self.max_positions.unwrap_or(preset.max_positions),
            ..preset
        }
    }
}

/// The rules between fields, on the field that breaks one. Where the preset fills it, the error is
/// shown at the section.
fn buildable<T>(
    settings: &ModelSettings,
    field: &'static str,
) -> impl Fn(&Option<T>, &()) -> garde::Result {
    let broken = settings
        .shape()
        .broken_rules()
        .into_iter()
        .find(|problem| problem.field == field);
    move |_, ()| match &broken {
        Some(problem) => Err(garde::Error::new(&problem.words)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use crate::config;

    use super::*;

    fn parse(text: &str) -> anyhow::Result<ModelSettings> {
        config::parse(text, "run.yaml")
    }

    fn tokenizer(vocab_size: u32) -> TokenizerInfo {
        TokenizerInfo {
            digest: String::new(),
            new_tokens: None,
            vocab_size,
            cls: 1,
            sep: 2,
            pad: 3,
            mask: 4,
            unk: 0,
            random_ids_end: vocab_size,
        }
    }

    #[test]
    fn a_preset_with_overrides_takes_its_vocabulary_from_the_corpus() {
        let settings =
            parse("preset: modernbert-base\nlayers: 6\nhidden_size: 384\nattention_heads: 6\n")
                .unwrap();
        let config = settings.resolve(&tokenizer(9000)).unwrap();
        assert_eq!(
            (config.layers, config.hidden_size, config.intermediate_size),
            (6, 384, 1152)
        );
        assert_eq!(config.vocab_size, 9000);
        assert_eq!(
            config.special_tokens,
            SpecialTokens {
                pad: 3,
                cls: 1,
                sep: 2
            }
        );
        assert!(settings.attention_output_dropout.abs() < f64::EPSILON);
    }

    #[test]
    fn wrong_settings_say_what_is_wrong() {
        for (text, wanted) in [
            (
                "preset: modernbert-base\nhidden_size: 100\n",
                "hidden_size 100 is not divisible by attention_heads 12",
            ),
            (
                "preset: modernbert-base\nsliding_window: 13\n",
                "sliding_window 13 is odd",
            ),
            ("preset: modernbert-base\nlayers: 0\n", "layers"),
            ("preset: modernbert-huge\n", "modernbert-huge"),
            ("preset: modernbert-base\nheads: 3\n", "heads"),
            (
                "preset: modernbert-base\nattention_output_dropout: 1.5\n",
                "attention_output_dropout",
            ),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(wanted), "{wanted:?} is missing in {error:?}");
        }
    }
}
