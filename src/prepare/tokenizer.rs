//! The tokenizer of a corpus: the ids of its special tokens, and documents into chunks.
//!
//! A chunk is `[CLS] ids [SEP]` with at most `max_length` tokens; a document longer than that
//! becomes several, without overlap, the last one as long as what remains; documents are never
//! joined (`BioClinical` ModernBERT, `pretraining_resources/convert_dataset_to_mds.py`). Unlike
//! that script, the first token of a later chunk is left as it is, so that the chunks of a document
//! always add up to its ids.
//!
//! Text can never produce a special token: `[SEP]` written in a note becomes ordinary tokens.
//!
//! The `tokenizers` library says what the ids are. Tokenizers of the family that
//! [`crate::prepare::bpe`] knows are encoded there, and compared with the library on a sample.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use crate::corpus::new_tokens::{NEW_TOKENS_FILE, NewTokens};
use crate::corpus::{TOKENIZER_FILE, TokenizerInfo};
use crate::prepare::bpe::{Encoder, sample};
use crate::prepare::config::TokenizerEngine;
use crate::prepare::files;

/// The Hugging Face file beside `tokenizer.json` that names the special tokens.
pub const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
/// Every corpus has these five, under these names.
pub const SPECIAL_TOKENS: [&str; 5] = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"];

/// A tokenizer as its files have it, to be stored beside the shards.
pub struct TokenizerFiles {
    /// `tokenizer.json`, byte for byte.
    pub tokenizer: Vec<u8>,
    /// `tokenizer_config.json`.
    pub config: Vec<u8>,
    /// `new_tokens.json`, where the tokenizer was given new tokens.
    pub new_tokens: Option<Vec<u8>>,
}

/// How documents become chunks.
#[derive(Clone, Copy, Debug)]
pub struct Chunking {
    /// Tokens of the longest chunk, `[CLS]` and `[SEP]` included.
    pub max_length: u32,
    /// Put a space before a document that does not begin with white space. Hugging Face's
    /// `add_prefix_space` does so after every added token (a run of spaces, say) as well; here the
    /// ids always decode to the text itself.
    pub prefix_space: bool,
}

/// A tokenizer ready to cut documents.
pub struct Chunker {
    tokenizer: Tokenizer,
    /// Where the tokenizer is of the family, or else why documents go through the library.
    fast: Result<Encoder, String>,
    chunking: Chunking,
    info: TokenizerInfo,
}

impl TokenizerFiles {
    /// Reads a `tokenizer.json`, or the one in a folder, and the `tokenizer_config.json` beside it;
    /// where there is none, one is made.
    pub fn read(path: &Path, max_length: u32) -> Result<Self> {
        let file = if path.is_dir() {
            path.join(TOKENIZER_FILE)
        } else {
            path.to_owned()
        };
        let Ok(tokenizer) = fs::read(&file) else {
            bail!(
                "no tokenizer at {}\n  hint: name a tokenizer.json of Hugging Face, or the folder \
                 that holds it",
                file.display()
            );
        };
        let config = match read_beside(&file, TOKENIZER_CONFIG_FILE)? {
            Some(bytes) => bytes,
            None => default_config(max_length)?,
        };
        let new_tokens = read_beside(&file, NEW_TOKENS_FILE)?;
        if let Some(bytes) = &new_tokens {
            let digest = blake3::hash(&tokenizer).to_hex();
            NewTokens::parse(bytes, &digest).with_context(|| {
                format!(
                    "cannot use {}\n  hint: it belongs to a tokenizer that `cohort tokenizer grow` \
                     made; remove it where the tokenizer is another",
                    file.with_file_name(NEW_TOKENS_FILE).display()
                )
            })?;
        }
        Ok(Self {
            tokenizer,
            config,
            new_tokens,
        })
    }

    /// blake3 over each of its files, in hexadecimal.
    pub fn digest(&self) -> String {
        let files = [&self.tokenizer, &self.config].into_iter();
        let digests: Vec<String> = files
            .chain(&self.new_tokens)
            .map(|bytes| blake3::hash(bytes).to_hex().to_string())
            .collect();
        digests.join(" ")
    }

    /// Writes the files into a folder, all of which are there in full or not at all.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let record = self.new_tokens.as_deref();
        for (file, bytes) in [
            (TOKENIZER_FILE, Some(self.tokenizer.as_slice())),
            (TOKENIZER_CONFIG_FILE, Some(self.config.as_slice())),
            (NEW_TOKENS_FILE, record),
        ] {
            if let Some(bytes) = bytes {
                files::write(folder, file, |output| Ok(output.write_all(bytes)?))?;
            }
        }
        Ok(())
    }
}

/// A file beside the tokenizer; none where there is none.
fn read_beside(tokenizer: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    let path = tokenizer.with_file_name(name);
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(_) if !path.exists() => Ok(None),
        Err(error) => bail!("cannot read {}: {error}", path.display()),
    }
}

impl Chunker {
    /// # Errors
    /// Bytes that are no tokenizer, one without the five special tokens, or one with BPE dropout
    /// (its ids would change from run to run).
    pub fn new(
        files: &TokenizerFiles,
        chunking: Chunking,
        engine: TokenizerEngine,
    ) -> Result<Self> {
        let mut tokenizer = Tokenizer::from_bytes(&files.tokenizer)
            .map_err(|error| anyhow!("the tokenizer cannot be loaded: {error}"))?;
        let fields: Value =
            serde_json::from_slice(&files.tokenizer).context("the tokenizer is not valid JSON")?;
        if fields["model"]["dropout"]
            .as_f64()
            .is_some_and(|dropout| dropout > 0.0)
        {
            bail!(
                "the tokenizer has BPE dropout, its ids change from run to run\n  hint: set \
                 `dropout` to null in tokenizer.json"
            );
        }
        // A tokenizer may carry a limit from its own training; it would cut documents silently.
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(None)
            .map_err(|error| anyhow!("the tokenizer's truncation cannot be lifted: {error}"))?;
        tokenizer.set_encode_special_tokens(true);
        let digest = |bytes: &Vec<u8>| blake3::hash(bytes).to_hex().to_string();
        let info = TokenizerInfo {
            new_tokens: files.new_tokens.as_ref().map(digest),
            ..describe(&tokenizer, digest(&files.tokenizer))?
        };
        let fast = match engine {
            TokenizerEngine::Auto => Encoder::new(&tokenizer, &fields),
            TokenizerEngine::Reference => Err(anyhow!("`tokenizer_engine` is `reference`")),
        };
        Ok(Self {
            tokenizer,
            fast: fast.map_err(|reason| reason.to_string()),
            chunking,
            info,
        })
    }

    /// Why documents go through the `tokenizers` library, many times slower; none where not.
    pub fn slow_because(&self) -> Option<&str> {
        self.fast.as_ref().err().map(String::as_str)
    }

    pub fn info(&self) -> &TokenizerInfo {
        &self.info
    }

    /// The chunks of a document, in order; none where the text has no token.
    pub fn chunks(&self, text: &str) -> Result<Vec<Vec<u32>>> {
        let ids = self.encode(text)?;
        let body_length = self.chunking.max_length as usize - 2;
        let chunk = |body: &[u32]| {
            let mut chunk = Vec::with_capacity(body.len() + 2);
            chunk.push(self.info.cls);
            chunk.extend_from_slice(body);
            chunk.push(self.info.sep);
            chunk
        };
        Ok(ids.chunks(body_length).map(chunk).collect())
    }

    /// Whether ids that somebody else made can be a chunk of this corpus.
    ///
    /// # Errors
    /// More tokens than a chunk may have, or an id that the tokenizer does not know.
    pub fn check_ids(&self, ids: &[u32]) -> Result<()> {
        let (max_length, vocab_size) = (self.chunking.max_length, self.info.vocab_size);
        if ids.len() > max_length as usize {
            bail!(
                "a sample of {} tokens, where `max_length` is {max_length}\n  hint: raise \
                 `max_length` to that of the directory",
                ids.len()
            );
        }
        if ids.iter().any(|id| *id >= vocab_size) {
            bail!(
                "a token id beyond the {vocab_size} of the tokenizer\n  hint: set `tokenizer: \
                 {{file: …}}` to the tokenizer that made the directory"
            );
        }
        Ok(())
    }

    /// Compares the fast tokenizer with the library on a part of the document, if its number in its
    /// source is one of those that are compared.
    ///
    /// # Errors
    /// The ids differ.
    pub fn check(&self, text: &str, number: u64) -> Result<()> {
        let Ok(fast) = &self.fast else { return Ok(()) };
        let Some(window) = sample::window(text, number) else {
            return Ok(());
        };
        if fast.encode(window) != self.encode_by_library(window)? {
            bail!(
                "the fast tokenizer and the tokenizers library give this document different ids\n  \
                 hint: set `tokenizer_engine: reference` in the corpus configuration, and report \
                 the tokenizer as a defect of Cohort"
            );
        }
        Ok(())
    }

    /// The ids of a whole text, without special tokens.
    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let spaced;
        let text = if self.chunking.prefix_space && !text.starts_with(char::is_whitespace) {
            spaced = format!(" {text}");
            &spaced
        } else {
            text
        };
        match &self.fast {
            Ok(fast) => Ok(fast.encode(text)),
            Err(_) => self.encode_by_library(text),
        }
    }

    fn encode_by_library(&self, text: &str) -> Result<Vec<u32>> {
        // The cause is not passed on: it might quote the text.
        let encoding = self
            .tokenizer
            .encode_fast(text, false)
            .map_err(|_| anyhow!("the tokenizer cannot encode this document"))?;
        Ok(encoding.get_ids().to_vec())
    }
}

/// The `tokenizer_config.json` with which `transformers.AutoTokenizer` loads a `tokenizer.json`.
pub fn default_config(max_length: u32) -> Result<Vec<u8>> {
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": false,
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "mask_token": "[MASK]",
    });
    let mut bytes = serde_json::to_vec_pretty(&config)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn describe(tokenizer: &Tokenizer, digest: String) -> Result<TokenizerInfo> {
    let missing: Vec<&str> = SPECIAL_TOKENS
        .into_iter()
        .filter(|name| tokenizer.token_to_id(name).is_none())
        .collect();
    if !missing.is_empty() {
        bail!(
            "the tokenizer has no {}\n  hint: a masked language model needs all of {}",
            missing.join(", "),
            SPECIAL_TOKENS.join(", ")
        );
    }
    let id = |name: &str| tokenizer.token_to_id(name).expect("was found just above");
    let vocab_size = tokenizer
        .get_vocab(true)
        .values()
        .max()
        .map_or(0, |highest| highest + 1);
    let unused = |id: u32| {
        tokenizer
            .id_to_token(id)
            .is_none_or(|token| token.starts_with("[unused"))
    };
    let mut random_ids_end = vocab_size;
    while random_ids_end > 0 && unused(random_ids_end - 1) {
        random_ids_end -= 1;
    }
    Ok(TokenizerInfo {
        digest,
        new_tokens: None,
        vocab_size,
        cls: id("[CLS]"),
        sep: id("[SEP]"),
        pad: id("[PAD]"),
        mask: id("[MASK]"),
        unk: id("[UNK]"),
        random_ids_end,
    })
}

#[cfg(test)]
mod tests {
    use crate::prepare::train_tokenizer::train;

    use super::*;

    fn chunker(text: &str, engine: TokenizerEngine) -> Chunker {
        let files = TokenizerFiles {
            tokenizer: train(&[text.repeat(9)], 512).expect("the text trains a tokenizer"),
            config: Vec::new(),
            new_tokens: None,
        };
        let chunking = Chunking {
            max_length: 16,
            prefix_space: true,
        };
        Chunker::new(&files, chunking, engine).expect("the tokenizer is complete")
    }

    #[test]
    fn ids_that_differ_end_the_run_where_they_are_compared() {
        let mut shown = chunker("fever, feverish", TokenizerEngine::Auto);
        assert_eq!(shown.slow_because(), None);
        assert!(shown.check("feverish", 0).is_ok());
        shown.fast = chunker("pain, painful", TokenizerEngine::Auto).fast;
        assert!(shown.check("feverish", 100).is_ok());
        let error = shown.check("feverish", 0).expect_err("the ids differ");
        assert!(error.to_string().contains("`tokenizer_engine: reference`"));
        assert!(!error.to_string().contains("fever"));
    }

    #[test]
    fn the_engine_changes_no_chunk() {
        let [auto, reference] = [TokenizerEngine::Auto, TokenizerEngine::Reference]
            .map(|engine| chunker("fever, feverish", engine));
        assert!(reference.slow_because().is_some());
        for text in [
            "",
            " ",
            "fever  [SEP] cafe\u{301}",
            "Fever\n\nfever's 38.5 feverish fever",
        ] {
            assert_eq!(
                auto.chunks(text).expect("any text is fine"),
                reference.chunks(text).expect("any text is fine")
            );
        }
    }
}
