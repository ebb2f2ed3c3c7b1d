//! `cohort prepare`.

use std::path::Path;

use anyhow::{Result, bail};

use crate::cli::table::{Table, grouped};
use crate::cli::{cleaning, say};
use crate::config;
use crate::corpus::Manifest;
use crate::prepare::available;
use crate::prepare::config::CorpusConfig;
use crate::prepare::inputs::FOLDER_HINT;
use crate::prepare::progress;

/// `leave_out` the sources that are not there; without it they are an error.
pub(super) fn prepare(corpus: &Path, leave_out: bool) -> Result<()> {
    let mut config: CorpusConfig = config::load(corpus)?;
    let folder = corpus.parent().unwrap_or(Path::new(""));
    let absent = available::take_out_absent(&mut config, folder)?;
    if !absent.is_empty() {
        let list = available::describe(&absent);
        if !leave_out {
            bail!("{list}\n  hint: {FOLDER_HINT}; `--available` prepares the others alone");
        }
        say(&list)?;
    }
    let manifest = crate::prepare::run(&config, corpus, progress::for_standard_error().as_mut())?;
    let root = corpus
        .parent()
        .unwrap_or(Path::new(""))
        .join(&config.output);
    say(&[Some(describe(&manifest)), cleaning::describe(&root)]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join("\n\n"))
}

/// What a corpus holds, by source.
pub(super) fn describe(manifest: &Manifest) -> String {
    let mut table = Table::new([
        "source",
        "documents",
        "chunks",
        "tokens",
        "held-out tokens",
        "dropped",
        "licence",
    ]);
    for (_, institution, source) in manifest.sources() {
        table.row(vec![
            institution.name_of(source),
            grouped(source.train.documents + source.held_out.documents),
            grouped(source.train.chunks + source.held_out.chunks),
            grouped(source.train.tokens),
            grouped(source.held_out.tokens),
            grouped(source.dropped.values().sum()),
            source.licence.clone(),
        ]);
    }
    let total: u64 = manifest
        .sources()
        .map(|(_, _, source)| source.train.tokens)
        .sum();
    format!("{}\n{} training tokens", table.render(), grouped(total))
}
