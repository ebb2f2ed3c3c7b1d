//! What `cohort corpus show` says of a corpus, whichever form it takes. Its JSON is this, so names
//! of fields stay.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::cli::table::grouped;
use crate::corpus::lengths::LengthSummary;
use crate::corpus::{MANIFEST_FILE, Split};
use crate::data::{Corpus, SplitName};
use crate::ids::SourceIndex;

#[derive(Debug, Serialize)]
pub(super) struct Facts {
    pub(super) name: String,
    /// blake3 of the manifest, which names the digest of every file of the corpus.
    pub(super) manifest_digest: String,
    /// The manifest's date in the file system, RFC 3339; the preparation's end, unless the folder
    /// was copied without its dates.
    pub(super) manifest_dated: Option<String>,
    pub(super) tokenizer_digest: String,
    pub(super) vocab_size: u32,
    /// Tokens of the longest possible chunk.
    pub(super) max_length: u32,
    /// The share of documents that is held out, as configured.
    pub(super) held_out: f64,
    pub(super) train: Amount,
    pub(super) held_out_split: Amount,
    pub(super) dropped: BTreeMap<String, u64>,
    pub(super) institutions: Vec<InstitutionFacts>,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Amount {
    pub(super) documents: u64,
    pub(super) chunks: u64,
    pub(super) tokens: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct InstitutionFacts {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) country: Option<String>,
    /// Of the corpus's training tokens, from 0 to 1.
    pub(super) share: f64,
    pub(super) train: Amount,
    pub(super) sources: Vec<SourceFacts>,
}

#[derive(Debug, Serialize)]
pub(super) struct SourceFacts {
    /// `institution/source`.
    pub(super) name: String,
    pub(super) licence: String,
    /// Of the corpus's training tokens, from 0 to 1.
    pub(super) share: f64,
    pub(super) train: SplitFacts,
    pub(super) held_out: SplitFacts,
    /// Documents by reason.
    pub(super) dropped: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize)]
pub(super) struct SplitFacts {
    #[serde(flatten)]
    pub(super) amount: Amount,
    /// None where the split is empty.
    pub(super) document_lengths: Option<LengthSummary>,
    pub(super) chunk_lengths: Option<LengthSummary>,
}

impl Facts {
    /// Reads the manifest and the lengths of all chunks; opens a shard only where those do not say
    /// where its documents end.
    pub(super) fn gather(corpus: &Corpus) -> Result<Self> {
        let manifest = corpus.manifest();
        let bytes = corpus.read_file(MANIFEST_FILE)?;
        let path = corpus.folder().map(|folder| folder.join(MANIFEST_FILE));
        let mut facts = Self {
            name: manifest.name.clone(),
            manifest_digest: blake3::hash(&bytes).to_hex().to_string(),
            manifest_dated: path.and_then(|path| date_of(&path)),
            tokenizer_digest: manifest.tokenizer.digest.clone(),
            vocab_size: manifest.tokenizer.vocab_size,
            max_length: manifest.max_length,
            held_out: f64::from(manifest.held_out_permille) / 1000.0,
            train: Amount::default(),
            held_out_split: Amount::default(),
            dropped: BTreeMap::new(),
            institutions: Vec::new(),
        };
        for (_, _, source) in manifest.sources() {
            facts.train.add(&source.train);
            facts.held_out_split.add(&source.held_out);
            for (reason, count) in &source.dropped {
                *facts.dropped.entry(reason.clone()).or_default() += count;
            }
        }
        let share = |tokens: u64| tokens as f64 / facts.train.tokens.max(1) as f64;
        let mut sources = manifest.sources();
        for institution in &manifest.institutions {
            let mut own = InstitutionFacts {
                id: institution.id.clone(),
                name: institution.name.clone(),
                country: institution.country.clone(),
                share: 0.0,
                train: Amount::default(),
                sources: Vec::new(),
            };
            for (index, _, source) in sources.by_ref().take(institution.sources.len()) {
                own.train.add(&source.train);
                own.sources.push(SourceFacts {
                    name: institution.name_of(source),
                    licence: source.licence.clone(),
                    share: share(source.train.tokens),
                    train: SplitFacts::gather(corpus, index, SplitName::Train, &source.train)?,
                    held_out: SplitFacts::gather(
                        corpus,
                        index,
                        SplitName::HeldOut,
                        &source.held_out,
                    )?,
                    dropped: source.dropped.clone(),
                });
            }
            own.share = share(own.train.tokens);
            facts.institutions.push(own);
        }
        Ok(facts)
    }

    /// Every source in manifest order.
    pub(super) fn sources(&self) -> impl Iterator<Item = &SourceFacts> {
        self.institutions
            .iter()
            .flat_map(|institution| &institution.sources)
    }
}

impl Amount {
    fn add(&mut self, split: &Split) {
        self.documents += split.documents;
        self.chunks += split.chunks;
        self.tokens += split.tokens;
    }
}

impl SplitFacts {
    fn gather(
        corpus: &Corpus,
        index: SourceIndex,
        name: SplitName,
        described: &Split,
    ) -> Result<Self> {
        let lengths = corpus.split_lengths(index, name)?;
        let mut amount = Amount::default();
        amount.add(described);
        Ok(Self {
            amount,
            document_lengths: lengths.documents.summary(),
            chunk_lengths: lengths.chunks.summary(),
        })
    }
}

fn date_of(path: &Path) -> Option<String> {
    let modified = fs::metadata(path).and_then(|found| found.modified()).ok()?;
    Some(humantime::format_rfc3339_seconds(modified).to_string())
}

/// A share for people: `12.3 %`, and `< 0.1 %` where there is something.
pub(super) fn percent(share: f64) -> String {
    if share > 0.0 && share < 0.000_5 {
        return "< 0.1 %".to_owned();
    }
    format!("{:.1} %", share * 100.0)
}

/// The edge of a bin for people: `512`, `4k`, `1M`, in steps of 1,024.
pub(super) fn edge(power_of_two: u64) -> String {
    match power_of_two {
        0..1_024 => power_of_two.to_string(),
        1_024..1_048_576 => format!("{}k", power_of_two >> 10),
        _ => format!("{}M", power_of_two >> 20),
    }
}

/// Counts by reason in words, the largest first: `12 empty, 3 duplicate`.
pub(super) fn reasons(dropped: &BTreeMap<String, u64>) -> String {
    let mut all: Vec<_> = dropped.iter().filter(|(_, count)| **count > 0).collect();
    all.sort_by_key(|(reason, count)| (u64::MAX - **count, *reason));
    let words = all.iter();
    let words = words.map(|(reason, count)| format!("{} {reason}", grouped(**count)));
    words.collect::<Vec<_>>().join(", ")
}
