//! Training a byte-level BPE on the corpus itself, for corpora that bring no tokenizer.
//!
//! The same texts in the same order give the same bytes of `tokenizer.json`, whatever the number of
//! threads: the library counts words in maps but decides merges by (count, pair). A test trains
//! twice. The form follows ModernBERT's tokenizer: NFC, byte-level words, `[CLS] A [SEP]`.

use anyhow::{Result, anyhow};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer};

use crate::prepare::tokenizer::SPECIAL_TOKENS;

/// Pairs seen less often are not merged.
const PAIR_COUNT_MIN: u64 = 2;

/// A `tokenizer.json` with at most `vocab_size` tokens; fewer where the texts hold fewer pairs.
pub fn train(texts: &[String], vocab_size: u32) -> Result<Vec<u8>> {
    build(texts, vocab_size).map_err(|error| anyhow!("the tokenizer cannot be trained: {error}"))
}

fn build(texts: &[String], vocab_size: u32) -> tokenizers::Result<Vec<u8>> {
    // As in ModernBERT's tokenizer, the mask takes the space before it: " [MASK]" is one token.
    let special = SPECIAL_TOKENS.map(|name| AddedToken::from(name, true).lstrip(name == "[MASK]"));
    let trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(vocab_size as usize)
        .min_frequency(PAIR_COUNT_MIN)
        .special_tokens(special.to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_normalizer(Some(NFC))?;
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_decoder(Some(ByteLevel::new(false, true, true)));
    tokenizer.train(&mut TrainerWrapper::from(trainer), texts.iter())?;
    let id = |name: &str| {
        tokenizer
            .token_to_id(name)
            .ok_or("a special token is missing")
    };
    let template = TemplateProcessing::builder()
        .try_single("[CLS] $A [SEP]")?
        .try_pair("[CLS] $A [SEP] $B:0 [SEP]:0")?
        .special_tokens(vec![("[CLS]", id("[CLS]")?), ("[SEP]", id("[SEP]")?)])
        .build()?;
    tokenizer.with_post_processor(Some(template));
    let mut json = tokenizer.to_string(true)?.into_bytes();
    json.push(b'\n');
    Ok(json)
}
