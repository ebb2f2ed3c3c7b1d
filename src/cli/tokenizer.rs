//! `cohort tokenizer`: training one, and giving one the terms of a domain. Both write a folder that
//! Hugging Face's `AutoTokenizer` opens and a corpus's `tokenizer: {file: …}` takes.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use serde_json::json;

use crate::cli::say;
use crate::cli::table::{counted, grouped};
use crate::config;
use crate::corpus::TOKENIZER_FILE;
use crate::prepare::config::{CorpusConfig, TokenizerConfig, TrainConfig};
use crate::prepare::grow_tokenizer::{Grown, grow, lines, read_terms};
use crate::prepare::tokenizer::TokenizerFiles;
use crate::prepare::{find_inputs, progress, train_on};

/// Tokens of the longest text, in a `tokenizer_config.json` that lacks.
const MAX_LENGTH: u32 = 8192;

#[derive(Subcommand, Debug)]
pub(super) enum TokenizerCommand {
    /// Train a byte-level BPE on the training documents of a corpus, or on text files.
    Train(TrainArguments),
    /// Make tokens of a domain's terms: of free `[unused…]` ids first, then of new ones.
    Grow(GrowArguments),
}

#[derive(Args, Debug)]
pub(super) struct TrainArguments {
    /// A corpus's YAML, or text files, each one document.
    #[arg(required = true, value_name = "CORPUS.yaml|FILE")]
    texts: Vec<PathBuf>,
    /// Tokens, the five special ones included.
    #[arg(long, value_parser = clap::value_parser!(u32).range(512..=262_144))]
    vocab_size: u32,
    /// The folder to make.
    #[arg(long)]
    output: PathBuf,
}

#[derive(Args, Debug)]
pub(super) struct GrowArguments {
    /// A Hugging Face `tokenizer.json`, or the folder that holds it.
    tokenizer: PathBuf,
    /// The terms, one a line.
    #[arg(long, value_name = "FILE")]
    terms: PathBuf,
    /// The folder to make.
    #[arg(long)]
    output: PathBuf,
    /// Add ids, up to a multiple of 64, where the free ones do not suffice.
    #[arg(long)]
    grow: bool,
}

pub(super) fn run(command: TokenizerCommand) -> Result<()> {
    match command {
        TokenizerCommand::Train(arguments) => train(&arguments),
        TokenizerCommand::Grow(arguments) => grow_by_terms(&arguments),
    }
}

fn train(arguments: &TrainArguments) -> Result<()> {
    expect_new(&arguments.output)?;
    let is_yaml = |path: &PathBuf| path.extension().is_some_and(|e| e == "yaml" || e == "yml");
    let (config, folder) = match &arguments.texts[..] {
        [yaml] if is_yaml(yaml) => {
            let folder = yaml.parent().unwrap_or(Path::new(""));
            (config::load::<CorpusConfig>(yaml)?, folder.to_owned())
        }
        files => {
            ensure!(
                !files.iter().any(is_yaml),
                "a corpus's YAML stands alone: it names all its files"
            );
            (of_files(files)?, PathBuf::new())
        }
    };
    let settings = match &config.tokenizer {
        TokenizerConfig::Train(own) => TrainConfig {
            vocab_size: arguments.vocab_size,
            ..own.clone()
        },
        TokenizerConfig::File(_) => default_training(arguments.vocab_size)?,
    };
    let jobs = find_inputs(&config, &folder)?;
    let mut progress = progress::for_standard_error();
    let files = train_on(&jobs, &config, &settings, progress.as_mut())?;
    files.write(&arguments.output)?;
    say(&written(&arguments.output))
}

/// A corpus whose documents are these files; nothing is held out.
fn of_files(files: &[PathBuf]) -> Result<CorpusConfig> {
    let source = |(number, path): (usize, &PathBuf)| {
        json!({
            "id": format!("{}", number + 1),
            "licence": "unknown",
            "read": {"text_files": {"path": path}},
        })
    };
    let sources: Vec<_> = files.iter().enumerate().map(source).collect();
    let corpus = json!({
        "name": "files",
        "output": "unused",
        "tokenizer": {"file": "unused"},
        "max_length": MAX_LENGTH,
        "held_out": 0.0,
        "institutions": [{"id": "files", "name": "Files", "sources": sources}],
    });
    config::parse(&corpus.to_string(), "the files")
}

fn default_training(vocab_size: u32) -> Result<TrainConfig> {
    Ok(serde_json::from_value(json!({ "vocab_size": vocab_size }))?)
}

fn grow_by_terms(arguments: &GrowArguments) -> Result<()> {
    expect_new(&arguments.output)?;
    let files = TokenizerFiles::read(&arguments.tokenizer, MAX_LENGTH)?;
    let about = || format!("the terms in {}", arguments.terms.display());
    let text = fs::read_to_string(&arguments.terms).with_context(about)?;
    let terms = read_terms(&text).with_context(about)?;
    let grown = grow(&files, &terms, arguments.grow)
        .with_context(|| format!("cannot grow {}", arguments.tokenizer.display()))?;
    grown.files.write(&arguments.output)?;
    say(&format!("{}\n{}", told(&grown), written(&arguments.output)))
}

fn told(grown: &Grown) -> String {
    let (before, after) = grown.rows;
    let mut told = format!(
        "{} made tokens; {} ids, of which {} [unused…] ones are free",
        counted(grown.given as u64, "term"),
        grouped(u64::from(after)),
        grown.free
    );
    if after > before {
        // Writing to a String cannot fail.
        let _ = write!(
            told,
            "\nthe vocabulary grew from {} ids",
            grouped(u64::from(before))
        );
    }
    if !grown.single.is_empty() {
        let _ = write!(
            told,
            "\n{} already one token, so left alone: {}",
            counted(grown.single.len() as u64, "term"),
            lines(grown.single.clone())
        );
    }
    told
}

fn written(folder: &Path) -> String {
    format!("written to {}", folder.display())
}

/// Refuses a folder that has a tokenizer: shards and models may depend on it.
fn expect_new(folder: &Path) -> Result<()> {
    if folder.join(TOKENIZER_FILE).exists() {
        bail!(
            "there is a tokenizer in {} already\n  hint: name another folder",
            folder.display()
        );
    }
    Ok(())
}
