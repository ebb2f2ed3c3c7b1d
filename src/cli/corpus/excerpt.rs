//! The text of one chunk or one document, for the person who asked for it by number.

use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail};
use tokenizers::Tokenizer;
use tracing::info;

use crate::cli::table::{counted, grouped};
use crate::corpus::plan::ChunkRef;
use crate::corpus::{Institution, Source};
use crate::data::{Corpus, SplitName};
use crate::ids::SourceIndex;
use crate::preflight::{check_tokenizer, read_tokenizer};

/// `INSTITUTION/SOURCE:NUMBER`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    source: String,
    number: u64,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text
            .rsplit_once(':')
            .filter(|(source, _)| source.contains('/'));
        let address = parts.and_then(|(source, number)| {
            let (source, number) = (source.to_owned(), number.parse().ok()?);
            Some(Self { source, number })
        });
        address.ok_or_else(|| "expected INSTITUTION/SOURCE:NUMBER, as `clinic/notes:12`".to_owned())
    }
}

/// The text of one chunk of a split.
pub(super) fn chunk(corpus: &Corpus, address: &Address, split: SplitName) -> Result<String> {
    let index = find(corpus, address)?;
    let Some(place) = corpus.locate_chunk(index, split, address.number)? else {
        let count: usize = corpus.lengths(index, split)?.iter().map(|l| l.len()).sum();
        let other = match split {
            SplitName::Train => "`--held-out` is for those of the held-out split",
            SplitName::HeldOut => "without `--held-out` it is one of the training split",
        };
        bail!(
            "source `{}` has {} in its {} split, counted from 0, so no number {}\n  hint: {other}",
            address.source,
            counted(count as u64, "chunk"),
            name_of(split),
            address.number
        );
    };
    let reader = Reader::open(corpus)?;
    let (text, document) = reader.read(split, &place)?;
    info!(
        source = address.source,
        split = name_of(split),
        chunk = address.number,
        document,
        tokens = place.length,
        "shown"
    );
    Ok(text)
}

/// The text of one document, in whichever split it is.
pub(super) fn document(corpus: &Corpus, address: &Address) -> Result<String> {
    let index = find(corpus, address)?;
    let Some(place) = corpus.locate_document(index, address.number)? else {
        bail!(
            "source `{}` has no document {}: it was dropped, or the source has fewer\n  \
             hint: documents are counted from 0 in the order in which they were read",
            address.source,
            grouped(address.number)
        );
    };
    let reader = Reader::open(corpus)?;
    let mut text = String::new();
    for chunk in &place.chunks {
        text += &reader.read(place.split, chunk)?.0;
    }
    info!(
        source = address.source,
        split = name_of(place.split),
        document = address.number,
        chunks = place.chunks.len(),
        tokens = place.chunks.iter().map(|chunk| chunk.length).sum::<u32>(),
        "shown"
    );
    Ok(text)
}

fn name_of(split: SplitName) -> &'static str {
    match split {
        SplitName::Train => "training",
        SplitName::HeldOut => "held-out",
    }
}

fn find(corpus: &Corpus, address: &Address) -> Result<SourceIndex> {
    let sources = || corpus.manifest().sources();
    let is_it =
        |institution: &Institution, source: &Source| institution.name_of(source) == address.source;
    let mut all = sources();
    let found =
        all.find_map(|(index, institution, source)| is_it(institution, source).then_some(index));
    found.with_context(|| {
        let names = sources().map(|(_, institution, source)| institution.name_of(source));
        format!(
            "the corpus has no source `{}`\n  hint: it has {}",
            address.source,
            names.collect::<Vec<_>>().join(", ")
        )
    })
}

/// Reads chunks as text.
struct Reader<'a> {
    corpus: &'a Corpus,
    tokenizer: Tokenizer,
}

impl<'a> Reader<'a> {
    fn open(corpus: &'a Corpus) -> Result<Self> {
        check_tokenizer(corpus)?;
        let tokenizer = read_tokenizer(corpus)?;
        Ok(Self { corpus, tokenizer })
    }

    /// A chunk's text without its `[CLS]` and `[SEP]`, and the number of its document.
    fn read(&self, split: SplitName, place: &ChunkRef) -> Result<(String, u64)> {
        let mut ids = Vec::new();
        let origin = self.corpus.read_chunk(split, place, &mut ids)?;
        let info = &self.corpus.manifest().tokenizer;
        let body = ids.strip_prefix(&[info.cls]).unwrap_or(&ids);
        let body = body.strip_suffix(&[info.sep]).unwrap_or(body);
        // The cause is not passed on: it might quote the text.
        let text = self.tokenizer.decode(body, false);
        let text = text.map_err(|_| anyhow!("the tokenizer cannot decode this chunk"))?;
        Ok((text, origin.document))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_a_source_and_a_number() {
        let address: Address = "clinic/notes:12".parse().expect("it is one");
        assert_eq!(
            (address.source.as_str(), address.number),
            ("clinic/notes", 12)
        );
        for wrong in [
            "",
            "clinic/notes",
            "notes:12",
            "clinic/notes:",
            "clinic/notes:-1",
            ":1",
        ] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }
}
