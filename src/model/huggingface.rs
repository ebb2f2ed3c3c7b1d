//! `config.json` of a Hugging Face model directory, read and written.
//!
//! Reads the keys of transformers 4.48 to 5 (`global_rope_theta` and its like) and those of 5
//! (`rope_parameters`, `layer_types`); writes both, so that either loads the directory. A key that
//! asks for something this encoder does not do is refused by name, never ignored.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use crate::model::config::{ModelConfig, Preset, SpecialTokens};

/// Keys that must have one value: the encoder does nothing else. An absent key has this value too
/// in `ModernBertConfig`.
const FIXED: [(&str, Value); 8] = [
    ("attention_bias", Value::Bool(false)),
    ("mlp_bias", Value::Bool(false)),
    ("norm_bias", Value::Bool(false)),
    ("decoder_bias", Value::Bool(true)),
    ("tie_word_embeddings", Value::Bool(true)),
    ("rope_scaling", Value::Null),
    ("is_decoder", Value::Bool(false)),
    ("add_cross_attention", Value::Bool(false)),
];
/// Dropout happens where `attention_output_dropout` of the run says, not where these keys do.
const DROPOUTS: [&str; 3] = ["attention_dropout", "embedding_dropout", "mlp_dropout"];

/// Reads `config.json`.
///
/// # Errors
/// What is no ModernBERT, what is malformed and what this encoder cannot honor, each by its key.
pub fn read(text: &str, origin: &str) -> Result<ModelConfig> {
    let document: Value =
        serde_json::from_str(text).with_context(|| format!("{origin} is no JSON document"))?;
    let Value::Object(keys) = document else {
        bail!("{origin} is no JSON object");
    };
    let reader = Reader { keys };
    reader
        .config()
        .with_context(|| format!("{origin} does not describe a usable encoder"))
}

/// Writes `config.json` for a directory that holds `ModernBertForMaskedLM` weights in fp32.
pub fn write(config: &ModelConfig) -> String {
    let SpecialTokens { pad, cls, sep } = config.special_tokens;
    let layer_types: Vec<&str> = (0..config.layers)
        .map(|layer| {
            if config.is_global(layer) {
                FULL
            } else {
                SLIDING
            }
        })
        .collect();
    let document = json!({
        "architectures": ["ModernBertForMaskedLM"],
        "attention_bias": false,
        "attention_dropout": 0.0,
        "bos_token_id": cls,
        "classifier_activation": "gelu",
        "classifier_bias": false,
        "classifier_dropout": 0.0,
        "classifier_pooling": config.classifier_pooling,
        "cls_token_id": cls,
        "decoder_bias": true,
        "dtype": "float32",
        "embedding_dropout": 0.0,
        "eos_token_id": sep,
        "global_attn_every_n_layers": config.global_every,
        "global_rope_theta": config.global_rope_base,
        "hidden_activation": "gelu",
        "hidden_size": config.hidden_size,
        "initializer_cutoff_factor": 2.0,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "layer_norm_eps": config.norm_epsilon,
        "layer_types": layer_types,
        "local_attention": config.local_window,
        "local_rope_theta": config.local_rope_base,
        "max_position_embeddings": config.max_positions,
        "mlp_bias": false,
        "mlp_dropout": 0.0,
        "model_type": "modernbert",
        "norm_bias": false,
        "norm_eps": config.norm_epsilon,
        "num_attention_heads": config.attention_heads,
        "num_hidden_layers": config.layers,
        "pad_token_id": pad,
        "rope_parameters": {
            FULL: { "rope_theta": config.global_rope_base, "rope_type": "default" },
            SLIDING: { "rope_theta": config.local_rope_base, "rope_type": "default" },
        },
        "sep_token_id": sep,
        "tie_word_embeddings": true,
        "torch_dtype": "float32",
        "vocab_size": config.vocab_size,
    });
    serde_json::to_string_pretty(&document).expect("a JSON value always prints") + "\n"
}

const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

struct Reader {
    keys: Map<String, Value>,
}

impl Reader {
    fn config(&self) -> Result<ModelConfig> {
        let model_type = self
            .keys
            .get("model_type")
            .and_then(Value::as_str)
            .unwrap_or("nothing");
        if model_type != "modernbert" {
            bail!(
                "model_type is {model_type:?}, not \"modernbert\"\n  \
                 hint: name the directory of a ModernBERT checkpoint"
            );
        }
        self.refuse_unsupported()?;
        let defaults = Preset::Base.config();
        let layers = self.integer("num_hidden_layers", defaults.layers)?;
        let cls = self.integer("cls_token_id", defaults.special_tokens.cls)?;
        let config = ModelConfig {
            vocab_size: self.integer("vocab_size", defaults.vocab_size)?,
            hidden_size: self.integer("hidden_size", defaults.hidden_size)?,
            intermediate_size: self.integer("intermediate_size", defaults.intermediate_size)?,
            layers,
            attention_heads: self.integer("num_attention_heads", defaults.attention_heads)?,
            max_positions: self.integer("max_position_embeddings", defaults.max_positions)?,
            local_window: self.integer("local_attention", defaults.local_window)?,
            global_every: self.global_every(layers)?,
            global_rope_base: self.rope_base(FULL, "global_rope_theta", 160_000.0)?,
            local_rope_base: self.rope_base(SLIDING, "local_rope_theta", 10_000.0)?,
            norm_epsilon: self.number("norm_eps", defaults.norm_epsilon)?,
            special_tokens: SpecialTokens {
                pad: self.integer("pad_token_id", defaults.special_tokens.pad)?,
                cls,
                sep: self.integer("sep_token_id", defaults.special_tokens.sep)?,
            },
            classifier_pooling: self
                .keys
                .get("classifier_pooling")
                .and_then(Value::as_str)
                .unwrap_or("cls")
                .to_owned(),
        };
        config.validate()?;
        Ok(config)
    }

    /// Every key that asks for what this encoder does not do, in one error.
    fn refuse_unsupported(&self) -> Result<()> {
        let mut problems = Vec::new();
        for (key, wanted) in &FIXED {
            match self.keys.get(*key) {
                None | Some(Value::Null) => {}
                Some(value) if value == wanted => {}
                Some(value) => {
                    problems.push(format!("{key} is {value}, only {wanted} is supported"));
                }
            }
        }
        // A key of BERT that the published files carry and transformers does not read: positions
        // are rotary whatever it says.
        match self.keys.get("position_embedding_type") {
            None | Some(Value::Null) => {}
            Some(value) if value == "absolute" => {}
            Some(value) => problems.push(format!(
                "position_embedding_type is {value}, only \"absolute\" is supported"
            )),
        }
        match self.keys.get("hidden_activation").map(Value::as_str) {
            None | Some(Some("gelu")) => {}
            _ => problems.push(format!(
                "hidden_activation is {}, only \"gelu\" is supported",
                self.keys["hidden_activation"]
            )),
        }
        for key in DROPOUTS {
            let value = self.keys.get(key).unwrap_or(&Value::Null);
            if value.as_f64().is_some_and(|probability| probability != 0.0) {
                problems.push(format!("{key} is {value}, only 0 is supported"));
            }
        }
        if !problems.is_empty() {
            bail!(
                "{}\n  hint: only the published ModernBERT architecture can be trained",
                problems.join("; ")
            );
        }
        Ok(())
    }

    fn integer(&self, key: &str, default: i64) -> Result<i64> {
        match self.keys.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value
                .as_i64()
                .with_context(|| format!("{key} is {value}, no integer")),
        }
    }

    fn number(&self, key: &str, default: f64) -> Result<f64> {
        match self.keys.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value
                .as_f64()
                .with_context(|| format!("{key} is {value}, no number")),
        }
    }

    /// `rope_parameters.<kind>.rope_theta` where there is one, else the old key.
    fn rope_base(&self, kind: &str, old_key: &str, default: f64) -> Result<f64> {
        let new = self
            .keys
            .get("rope_parameters")
            .and_then(|parameters| parameters.get(kind));
        if let Some(parameters) = new {
            match parameters
                .get("rope_type")
                .map(|kind| kind.as_str().unwrap_or("?"))
            {
                None | Some("default") => {}
                Some(other) => bail!(
                    "rope_parameters.{kind}.rope_type is {other:?}, only \"default\" is \
                     supported\n  \
                     hint: rotary scaling changes every position; start from an unscaled checkpoint"
                ),
            }
            if let Some(base) = parameters.get("rope_theta") {
                return base.as_f64().with_context(|| {
                    format!("rope_parameters.{kind}.rope_theta is {base}, no number")
                });
            }
        }
        self.number(old_key, default)
    }

    /// The period of the global layers, from `layer_types` where there is one, else the old key.
    fn global_every(&self, layers: i64) -> Result<i64> {
        let every = self.integer("global_attn_every_n_layers", 3)?;
        let Some(Value::Array(types)) = self.keys.get("layer_types") else {
            return Ok(every);
        };
        if types.len() as i64 != layers {
            bail!(
                "layer_types has {} entries for num_hidden_layers {layers}",
                types.len()
            );
        }
        let global: Vec<bool> = types.iter().map(|kind| kind == FULL).collect();
        if let Some(other) = types.iter().find(|kind| *kind != FULL && *kind != SLIDING) {
            bail!("layer_types names {other}, only {FULL:?} and {SLIDING:?} are supported");
        }
        // Where no second global layer tells the period, any period beyond the last layer will do.
        let period = (1..global.len())
            .find(|&layer| global[layer])
            .unwrap_or(global.len());
        let periodic = global
            .iter()
            .enumerate()
            .all(|(layer, &is)| is == (layer % period.max(1) == 0));
        if !periodic {
            bail!(
                "layer_types is not periodic: layer 0 and then every n-th layer must be {FULL:?}, \
                 all others {SLIDING:?}"
            );
        }
        let period = period as i64;
        // Keep the old key's word where both describe the same layers.
        let same = every >= 1 && (0..layers).all(|l| (l % every == 0) == (l % period == 0));
        Ok(if same { every } else { period })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        for config in [Preset::Base.config(), Preset::Large.config()] {
            assert_eq!(read(&write(&config), "config.json").unwrap(), config);
        }
        let config = ModelConfig {
            layers: 2,
            global_every: 5,
            ..Preset::Base.config()
        };
        assert_eq!(read(&write(&config), "config.json").unwrap(), config);
    }

    /// The keys and values of the published base model's file.
    #[test]
    fn the_published_base_model_is_the_preset() {
        let published = r#"{"architectures": ["ModernBertForMaskedLM"], "attention_bias": false,
            "attention_dropout": 0.0, "bos_token_id": 50281, "classifier_activation": "gelu",
            "classifier_bias": false, "classifier_dropout": 0.0, "classifier_pooling": "mean",
            "cls_token_id": 50281, "decoder_bias": true, "deterministic_flash_attn": false,
            "embedding_dropout": 0.0, "eos_token_id": 50282, "global_attn_every_n_layers": 3,
            "global_rope_theta": 160000.0, "gradient_checkpointing": false,
            "hidden_activation": "gelu", "hidden_size": 768, "initializer_cutoff_factor": 2.0,
            "initializer_range": 0.02, "intermediate_size": 1152, "layer_norm_eps": 1e-05,
            "local_attention": 128, "local_rope_theta": 10000.0, "max_position_embeddings": 8192,
            "mlp_bias": false, "mlp_dropout": 0.0, "model_type": "modernbert", "norm_bias": false,
            "norm_eps": 1e-05, "num_attention_heads": 12, "num_hidden_layers": 22,
            "pad_token_id": 50283, "position_embedding_type": "absolute",
            "repad_logits_with_grad": false, "sep_token_id": 50282,
            "sparse_pred_ignore_index": -100, "sparse_prediction": false,
            "torch_dtype": "float32", "transformers_version": "4.47.0.dev0",
            "vocab_size": 50368}"#;
        let found = read(published, "config.json").unwrap();
        let preset = Preset::Base.config();
        preset.expect_same_architecture(&found, "it").unwrap();
        assert_eq!(found.max_positions, preset.max_positions);
        assert_eq!(found.special_tokens, preset.special_tokens);
    }

    #[test]
    fn old_and_new_keys_say_the_same() {
        let old = r#"{"model_type": "modernbert", "global_rope_theta": 1234.5,
            "local_rope_theta": 77, "global_attn_every_n_layers": 2, "num_hidden_layers": 4}"#;
        let new = r#"{"model_type": "modernbert", "num_hidden_layers": 4,
            "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1234.5},
                                "sliding_attention": {"rope_theta": 77.0}},
            "layer_types": ["full_attention", "sliding_attention",
                            "full_attention", "sliding_attention"]}"#;
        let old = read(old, "old").unwrap();
        assert_eq!(old, read(new, "new").unwrap());
        assert_eq!((old.global_every, old.global_rope_base), (2, 1234.5));
    }

    #[test]
    fn what_cannot_be_honored_is_refused_by_its_key() {
        let cases = [
            (
                r#""position_embedding_type": "relative_key""#,
                "position_embedding_type is \"relative_key\", only \"absolute\" is supported",
            ),
            (
                r#""attention_bias": true"#,
                "attention_bias is true, only false is supported",
            ),
            (r#""decoder_bias": false"#, "decoder_bias is false"),
            (
                r#""hidden_activation": "silu""#,
                "hidden_activation is \"silu\"",
            ),
            (r#""mlp_dropout": 0.1"#, "mlp_dropout is 0.1"),
            (
                r#""tie_word_embeddings": false"#,
                "tie_word_embeddings is false",
            ),
            (
                r#""hidden_size": "big""#,
                "hidden_size is \"big\", no integer",
            ),
            (
                r#""hidden_size": 100"#,
                "hidden_size 100 is not divisible by attention_heads 12",
            ),
            (
                r#""rope_parameters": {"full_attention": {"rope_type": "yarn"}}"#,
                "rope_parameters.full_attention.rope_type is \"yarn\"",
            ),
            (
                r#""num_hidden_layers": 3,
                "layer_types": ["sliding_attention", "full_attention", "full_attention"]"#,
                "layer_types is not periodic",
            ),
        ];
        for (line, wanted) in cases {
            let text = format!("{{\"model_type\": \"modernbert\", {line}}}");
            let error = format!("{:#}", read(&text, "config.json").unwrap_err());
            assert!(error.contains(wanted), "{wanted:?} is missing in {error:?}");
        }
        let error = format!(
            "{:#}",
            read(r#"{"model_type": "bert"}"#, "config.json").unwrap_err()
        );
        assert!(error.contains("model_type is \"bert\""), "{error}");
    }
}
