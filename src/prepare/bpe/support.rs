//! Which tokenizers are byte-level BPEs as GPT-2, `RoBERTa`, GPT-NeoX and ModernBERT have them, and
//! their parts.
//!
//! Whatever could change an id is looked at; what is not known is refused, and the library encodes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokenizers::models::bpe::BPE;
use tokenizers::{ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer};

use crate::prepare::bpe::Parts;
use crate::prepare::bpe::added_tokens::{AddedToken, AddedTokens};
use crate::prepare::bpe::merges::{Merge, Merges};

/// The parts of a tokenizer that was read from `json`.
///
/// # Errors
/// Why it does not belong to the family.
pub fn parts(tokenizer: &Tokenizer, json: &Value) -> Result<Parts> {
    let ModelWrapper::BPE(model) = tokenizer.get_model() else {
        bail!("its model is no BPE");
    };
    let composes = match tokenizer.get_normalizer() {
        None => false,
        Some(NormalizerWrapper::NFC(_)) => true,
        Some(_) => bail!("its normalizer is another than NFC"),
    };
    let Some(PreTokenizerWrapper::ByteLevel(words)) = tokenizer.get_pre_tokenizer() else {
        bail!("its pre-tokenizer is another than ByteLevel");
    };
    ensure!(
        words.use_regex,
        "its words are cut by another pattern than GPT-2's"
    );
    ensure!(
        keeps_ids(&json["post_processor"]),
        "its post-processor may change ids"
    );
    let vocabulary = vocabulary(model)?;
    let (raw_tokens, composed_tokens) = added_tokens(tokenizer)?;
    Ok(Parts {
        raw_tokens,
        composes,
        composed_tokens,
        prefix_space: words.add_prefix_space,
        whole_words: whole_words(model, &vocabulary),
        merges: Merges::new(
            byte_ids(&vocabulary)?,
            &merges(&json["model"]["merges"], &vocabulary)?,
        ),
    })
}

/// Whether ids pass a post-processor that is to add no special token.
fn keeps_ids(processor: &Value) -> bool {
    match processor["type"].as_str() {
        None => processor.is_null(),
        Some("ByteLevel" | "RobertaProcessing" | "BertProcessing") => true,
        Some("TemplateProcessing") => {
            let single = processor["single"].as_array();
            let sequences = |pieces: &Vec<Value>| {
                let is_sequence = |piece: &&Value| piece.get("Sequence").is_some();
                pieces.iter().filter(is_sequence).count()
            };
            single.map(sequences) == Some(1)
        }
        Some("Sequence") => {
            let processors = processor["processors"].as_array();
            processors.is_some_and(|all| all.iter().all(keeps_ids))
        }
        Some(_) => false,
    }
}

/// The tokens of the model, added ones aside.
fn vocabulary(model: &BPE) -> Result<BTreeMap<String, u32>> {
    let affix = |affix: &Option<String>| affix.as_ref().is_none_or(String::is_empty);
    ensure!(
        affix(&model.continuing_subword_prefix) && affix(&model.end_of_word_suffix),
        "its tokens carry a prefix or a suffix"
    );
    ensure!(
        model.dropout.is_none_or(|dropout| dropout == 0.0),
        "it has BPE dropout"
    );
    let vocabulary: BTreeMap<String, u32> = model.get_vocab().into_iter().collect();
    let ids: BTreeSet<u32> = vocabulary.values().copied().collect();
    ensure!(
        ids.len() == vocabulary.len(),
        "two of its tokens have the same id"
    );
    Ok(vocabulary)
}

/// The ids of single bytes; those that UTF-8 never has may be without a token.
fn byte_ids(vocabulary: &BTreeMap<String, u32>) -> Result<[u32; 256]> {
    let mut ids = [0; 256];
    for byte in 0..=u8::MAX {
        let id = vocabulary.get(&String::from(byte_character(byte)));
        let occurs = !matches!(byte, 0xc0 | 0xc1 | 0xf5..);
        ensure!(
            id.is_some() || !occurs,
            "it has no token for byte {byte:#04x}"
        );
        ids[usize::from(byte)] = id.copied().unwrap_or(0);
    }
    Ok(ids)
}

/// The character under which a byte stands in the vocabulary: itself where it is visible in
/// Latin-1, else the next one from U+0100 on (GPT-2, `src/encoder.py`, `bytes_to_unicode`).
fn byte_character(byte: u8) -> char {
    let is_visible = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..);
    if is_visible(&byte) {
        return char::from(byte);
    }
    let hidden = (0..byte).filter(|byte| !is_visible(byte)).count();
    char::from_u32(0x100 + hidden as u32).expect("characters go on after U+0100")
}

/// The words that are looked up before any merge.
fn whole_words(model: &BPE, vocabulary: &BTreeMap<String, u32>) -> BTreeMap<Vec<u8>, u32> {
    if !model.ignore_merges {
        return BTreeMap::new();
    }
    let bytes: BTreeMap<char, u8> = (0..=u8::MAX)
        .map(|byte| (byte_character(byte), byte))
        .collect();
    let word = |token: &str| {
        let own = token
            .chars()
            .map(|character| bytes.get(&character).copied());
        own.collect::<Option<Vec<u8>>>()
    };
    let words = vocabulary.iter();
    words
        .filter_map(|(token, id)| Some((word(token)?, *id)))
        .collect()
}

/// The merges as `tokenizer.json` has them: pairs of tokens, or in older files a line for each.
fn merges(list: &Value, vocabulary: &BTreeMap<String, u32>) -> Result<Vec<Merge>> {
    let id = |token: &str| {
        let id = vocabulary.get(token).copied();
        id.context("a merge is of a token that it does not have")
    };
    let mut merges = Vec::new();
    for entry in list.as_array().context("its merges are no list")? {
        let pair = match entry {
            Value::String(line) if line.starts_with("#version") => continue,
            Value::String(line) => line.split_once(' '),
            other => other[0].as_str().zip(other[1].as_str()),
        };
        let (left, right) = pair.context("a merge is no pair of tokens")?;
        merges.push(Merge {
            left: id(left)?,
            right: id(right)?,
            rank: merges.len() as u32,
            id: id(&format!("{left}{right}"))?,
        });
    }
    Ok(merges)
}

/// The added tokens that are looked for before and after NFC.
fn added_tokens(tokenizer: &Tokenizer) -> Result<(Option<AddedTokens>, Option<AddedTokens>)> {
    let added = tokenizer.get_added_vocabulary();
    let (mut raw, mut composed) = (Vec::new(), Vec::new());
    let mut texts = BTreeSet::new();
    let tokens: BTreeMap<_, _> = added.get_added_tokens_decoder().iter().collect();
    for (id, token) in tokens {
        let special = added.is_special_token(&token.content);
        ensure!(
            special || !(token.lstrip || token.rstrip),
            "an added token that is not special has `lstrip` or `rstrip`"
        );
        // Normalized tokens are looked for as the normalizer leaves them.
        let normalized = added.simple_id_to_token(*id);
        let text = normalized.context("an added token has no text")?;
        // Two that differ may be one in NFC.
        ensure!(
            texts.insert((token.normalized, text.clone())),
            "two of its added tokens are the same text"
        );
        let own = AddedToken {
            text,
            id: *id,
            special,
            single_word: token.single_word,
        };
        if token.normalized {
            composed.push(own);
        } else {
            raw.push(own);
        }
    }
    Ok((AddedTokens::new(&raw), AddedTokens::new(&composed)))
}
