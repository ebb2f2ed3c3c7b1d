//! FlexBERT, the encoder as ModernBERT's training code names it (AnswerDotAI/ModernBERT
//! `src/bert_layers`), in the words of the Hugging Face Hub.
//!
//! The layout of the tensors is the Hub's: queries, keys and values above one another, and of the
//! two GeGLU halves the one that is activated first. Only the names differ.

use anyhow::{Result, bail};

use crate::model::config::ModelConfig;
use crate::model::torch_file::value::{TensorRecord, Value, shown};
use crate::model::weights::EMBEDDINGS;

/// What a setting of FlexBERT must be; the encoder does nothing else.
#[derive(Clone, Copy)]
enum Must {
    /// One of these words, after `padded_` or `unpadded_`.
    Be(&'static [&'static str]),
    Hold(bool),
    BeNone,
}

/// Settings that no tensor shows. One that the file does not have is not looked at.
const FIXED: [(&str, Must); 16] = [
    ("attention_layer", Must::Be(&["rope"])),
    ("bert_layer", Must::Be(&["prenorm", "compile_prenorm"])),
    (
        "embedding_layer",
        Must::Be(&["sans_pos", "compiled_sans_pos"]),
    ),
    ("mlp_layer", Must::Be(&["glu"])),
    ("hidden_act", Must::Be(&["gelu"])),
    ("head_pred_act", Must::Be(&["gelu"])),
    (
        "normalization",
        Must::Be(&["layernorm", "triton_layernorm"]),
    ),
    ("embed_norm", Must::Hold(true)),
    ("final_norm", Must::Hold(true)),
    ("skip_first_prenorm", Must::Hold(true)),
    ("rotary_emb_interleaved", Must::Hold(false)),
    ("tie_word_embeddings", Must::Hold(true)),
    ("rotary_emb_scale_base", Must::BeNone),
    ("initial_attention_layer", Must::BeNone),
    ("initial_bert_layer", Must::BeNone),
    ("initial_mlp_layer", Must::BeNone),
];

/// The Hub's name of a parameter: `model.bert.encoder.layers.3.mlp.Wi.weight` is
/// `model.layers.3.mlp.Wi.weight`, `model.head.dense.weight` is `head.dense.weight`. The first
/// `model.` is that of Composer's wrapper; a `module.` before it that of data parallelism.
pub(super) fn hub_name(name: &str) -> String {
    let name = name.strip_prefix("module.").unwrap_or(name);
    let name = name.strip_prefix("model.").unwrap_or(name);
    match name.strip_prefix("bert.") {
        Some(rest) => format!("model.{}", rest.strip_prefix("encoder.").unwrap_or(rest)),
        None => name.to_owned(),
    }
}

/// The shape of the encoder in a checkpoint: its sizes from the tensors, the rest from the settings
/// that the file carries along. What neither shows is as `wanted`.
///
/// # Errors
/// Every setting that asks for what this encoder does not do.
pub(super) fn read_config(
    content: Option<Value<'_>>,
    weights: &[(String, TensorRecord)],
    wanted: &ModelConfig,
) -> Result<ModelConfig> {
    let mut config = sizes(weights, wanted);
    let Some(content) = content else {
        return Ok(config);
    };
    let settings = Settings { content };
    let mut problems = settings.unsupported();
    let integer = |key: &str| content.get(key).and_then(Value::integer);
    if let Some(heads) = integer("num_attention_heads") {
        config.attention_heads = heads;
    }
    if let Some(epsilon) = content.get("norm_kwargs").and_then(|norm| norm.get("eps")) {
        let number = epsilon.number().filter(|epsilon| epsilon.is_finite());
        config.norm_epsilon = number.unwrap_or(-1.0); // differs from what is wanted
    }
    if let Some(base) = settings.rope_base("rotary_emb_base") {
        config.global_rope_base = base;
        config.local_rope_base = settings
            .rope_base("local_attn_rotary_emb_base")
            .unwrap_or(base);
    }
    let every = integer("global_attn_every_n_layers").filter(|&every| every > 0);
    match (
        integer("sliding_window").filter(|&window| window > 0),
        every,
    ) {
        (Some(window), Some(every)) => {
            (config.local_window, config.global_every) = (window, every);
        }
        (Some(_), None) => problems.push("no layer attends globally".to_owned()),
        // No window: every layer attends globally.
        (None, _) if content.get("sliding_window").is_some() => config.global_every = 1,
        (None, _) => {}
    }
    for key in ["rotary_emb_dim", "local_attn_rotary_emb_dim"] {
        if let Some(size) = integer(key)
            && config.attention_heads > 0
            && size != config.head_size()
        {
            problems.push(format!(
                "{key} is {size}, only that of a whole head, {}, is supported",
                config.head_size()
            ));
        }
    }
    if !problems.is_empty() {
        bail!(
            "{}\n  hint: only the published ModernBERT architecture can be trained",
            problems.join("; ")
        );
    }
    Ok(config)
}

/// `wanted` with the sizes that the tensors have.
fn sizes(weights: &[(String, TensorRecord)], wanted: &ModelConfig) -> ModelConfig {
    let mut config = wanted.clone();
    let shape = |name: &str| {
        let found = weights.iter().find(|(own, _)| own == name);
        found.map(|(_, record)| record.shape.as_slice())
    };
    if let Some(&[vocabulary, hidden]) = shape(EMBEDDINGS) {
        (config.vocab_size, config.hidden_size) = (vocabulary, hidden);
    }
    if let Some(&[_, intermediate]) = shape("model.layers.0.mlp.Wo.weight") {
        config.intermediate_size = intermediate;
    }
    let is_layer = |(name, _): &&(String, TensorRecord)| name.ends_with(".mlp.Wo.weight");
    config.layers = weights.iter().filter(is_layer).count() as i64;
    config
}

struct Settings<'a> {
    content: Value<'a>,
}

impl Settings<'_> {
    fn unsupported(&self) -> Vec<String> {
        let complain = |&(key, must): &(&str, Must)| {
            let value = self.content.get(key)?;
            let (fits, wanted) = match must {
                Must::Be(words) => {
                    let word = value.text().map(|word| {
                        let padded = word.strip_prefix("padded_");
                        padded.or(word.strip_prefix("unpadded_")).unwrap_or(word)
                    });
                    let fits = word.is_some_and(|word| words.contains(&word));
                    (fits, format!("{:?}", words[0]))
                }
                Must::Hold(wanted) => (value.boolean() == Some(wanted), wanted.to_string()),
                Must::BeNone => (value.is_none(), "None".to_owned()),
            };
            let found = match (value.text(), value.boolean()) {
                (Some(text), _) => format!("{:?}", shown(text)),
                (_, Some(is)) => is.to_string(),
                _ => value.describe(),
            };
            (!fits).then(|| format!("{key} is {found}, only {wanted} is supported"))
        };
        FIXED.iter().filter_map(complain).collect()
    }

    /// FlexBERT says -1, 0 or nothing for "the same as for global layers".
    fn rope_base(&self, key: &str) -> Option<f64> {
        let base = self.content.get(key)?.number()?;
        (base > 0.0).then_some(base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_hub() {
        for (name, wanted) in [
            (
                "model.bert.embeddings.tok_embeddings.weight",
                "model.embeddings.tok_embeddings.weight",
            ),
            (
                "model.bert.encoder.layers.21.attn.Wqkv.weight",
                "model.layers.21.attn.Wqkv.weight",
            ),
            (
                "module.model.bert.final_norm.weight",
                "model.final_norm.weight",
            ),
            (
                "bert.embeddings.norm.weight",
                "model.embeddings.norm.weight",
            ),
            ("model.head.dense.weight", "head.dense.weight"),
            ("model.decoder.bias", "decoder.bias"),
            ("loss.weight", "loss.weight"),
        ] {
            assert_eq!(hub_name(name), wanted);
        }
    }
}
