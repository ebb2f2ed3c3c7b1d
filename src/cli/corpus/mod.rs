//! `cohort corpus show`: what a prepared corpus holds, and single chunks when asked by number.
//!
//! Everything but the asked-for chunk is counts and names: no text of any document. A chunk's text
//! goes to stdout alone.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};

use crate::cli::say;
use crate::config;
use crate::data::location::{CorpusLocation, CorpusStore};
use crate::data::{Corpus, SplitName};
use crate::prepare::config::CorpusConfig;
use crate::store::backend::Credentials;
use crate::store::settings::is_address;

mod chart;
mod excerpt;
mod facts;
mod palette;
mod report;
mod tables;
mod text;

use excerpt::Address;
use facts::Facts;

#[derive(Subcommand, Debug)]
pub(super) enum CorpusCommand {
    /// Show what a prepared corpus holds: documents, tokens, lengths, licences, what was dropped.
    Show(ShowArguments),
}

#[derive(Args, Debug)]
pub(super) struct ShowArguments {
    /// The folder of a prepared corpus, its address in object storage, or the corpus's YAML.
    corpus: PathBuf,
    /// Everything that is shown and more, as JSON.
    #[arg(long)]
    json: bool,
    /// Write a page for people to this HTML file.
    #[arg(long, value_name = "FILE.html", conflicts_with = "json")]
    report: Option<PathBuf>,
    /// Print the text of one chunk, counted from 0 in the training split of its source.
    #[arg(
        long,
        value_name = "INSTITUTION/SOURCE:NUMBER",
        conflicts_with_all = ["json", "report"]
    )]
    chunk: Option<Address>,
    /// The chunk is one of the held-out split.
    #[arg(long, requires = "chunk")]
    held_out: bool,
    /// Print the text of one document, counted from 0 in its source as it was read.
    #[arg(
        long,
        value_name = "INSTITUTION/SOURCE:NUMBER",
        conflicts_with_all = ["json", "report", "chunk"]
    )]
    document: Option<Address>,
}

pub(super) fn run(command: CorpusCommand) -> Result<()> {
    let CorpusCommand::Show(arguments) = command;
    let corpus = open(&arguments.corpus)?;
    if let Some(address) = &arguments.chunk {
        let split = if arguments.held_out {
            SplitName::HeldOut
        } else {
            SplitName::Train
        };
        return say(&excerpt::chunk(&corpus, address, split)?);
    }
    if let Some(address) = &arguments.document {
        return say(&excerpt::document(&corpus, address)?);
    }
    if let Some(file) = &arguments.report {
        return write_report(&corpus, file);
    }
    let facts = Facts::gather(&corpus)?;
    if arguments.json {
        return say(&serde_json::to_string_pretty(&facts)?);
    }
    say(&text::render(&facts))
}

/// Opens the corpus that is named by its folder, its address or its YAML. An endpoint that is not
/// the cloud's own comes from the environment, as credentials do.
fn open(named: &Path) -> Result<Corpus> {
    match named.to_str() {
        Some(address) if is_address(address) => {
            let location = CorpusLocation::Store(CorpusStore::at(address));
            Corpus::open_at(&location, &Credentials::Environment)
        }
        _ => Corpus::open(&folder(named)?),
    }
}

/// The folder of a corpus that is named by it or by its YAML.
fn folder(named: &Path) -> Result<PathBuf> {
    let is_yaml = named.extension().is_some_and(|e| e == "yaml" || e == "yml");
    if named.is_dir() || !is_yaml {
        return Ok(named.to_owned());
    }
    let config: CorpusConfig = config::load(named)?;
    let base = named.parent().unwrap_or(Path::new(""));
    Ok(base.join(config.output))
}

fn write_report(corpus: &Corpus, file: &Path) -> Result<()> {
    let is_html = file.extension().and_then(OsStr::to_str) == Some("html");
    ensure!(
        is_html,
        "{} is no name for a page: it does not end in .html\n  hint: `--report corpus.html`",
        file.display()
    );
    let facts = Facts::gather(corpus)?;
    fs::write(file, report::render(&facts))
        .with_context(|| format!("cannot write {}", file.display()))?;
    say(&format!("written to {}", file.display()))
}
