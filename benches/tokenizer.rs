//! Times Cohort's own byte-level BPE and the `tokenizers` library on the same documents, in turn,
//! on one thread, and compares all ids.
//!
//! Usage: `cargo bench --bench tokenizer -- TOKENIZER INPUT... [--rounds N] [--dump FILE]`, where
//! an INPUT is a corpus YAML, all of whose documents are taken, or a file, which is one document;
//! see `scripts/bench-tokenizer`. `--dump` writes the documents as JSON lines.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for whoever works on Cohort"
)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use cohort::config;
use cohort::prepare::bpe::Encoder;
use cohort::prepare::config::CorpusConfig;
use cohort::prepare::find_inputs;
use cohort::prepare::readers::Content;
use cohort::prepare::tokenizer::TokenizerFiles;
use tokenizers::Tokenizer;
use tokio::time::Instant;

/// Documents by what they came from.
type Documents = BTreeMap<String, Vec<String>>;

/// The best of all rounds.
struct Timing {
    bytes: u64,
    tokens: u64,
    fast_s: f64,
    library_s: f64,
}

impl Timing {
    fn line(&self) -> String {
        let Self {
            bytes,
            tokens,
            fast_s,
            library_s,
        } = *self;
        let speed = |seconds: f64| (bytes as f64 / seconds / 1e6, tokens as f64 / seconds / 1e6);
        let ((fast, fast_tokens), (library, library_tokens)) = (speed(fast_s), speed(library_s));
        let (bytes, ratio) = (bytes as f64 / 1e6, library_s / fast_s);
        let fast = format!("{fast:8.1} {fast_tokens:8.2}");
        let library = format!("{library:8.2} {library_tokens:8.3}");
        format!("{bytes:8.2} {fast} {library} {ratio:7.1}")
    }
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (mut inputs, mut rounds, mut dump) = (Vec::new(), 3, None);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--rounds" => rounds = arguments.next().context("--rounds N")?.parse()?,
            "--dump" => dump = Some(arguments.next().context("--dump FILE")?),
            // What cargo says to every benchmark.
            "--bench" => {}
            _ => inputs.push(argument),
        }
    }
    let [tokenizer, inputs @ ..] = inputs.as_slice() else {
        bail!("usage: cargo bench --bench tokenizer -- TOKENIZER INPUT...");
    };
    let files = TokenizerFiles::read(Path::new(tokenizer), 512)?;
    let mut library = Tokenizer::from_bytes(&files.tokenizer).map_err(anyhow::Error::msg)?;
    // As `Chunker` does: limits and paddings of the tokenizer's own would change the ids.
    library.with_padding(None);
    library.with_truncation(None).map_err(anyhow::Error::msg)?;
    library.set_encode_special_tokens(true);
    let fast = Encoder::new(&library, &serde_json::from_slice(&files.tokenizer)?)?;
    let documents = read(inputs)?;
    if let Some(dump) = dump {
        write(&documents, Path::new(&dump))?;
    }

    println!("one thread, best of {rounds} rounds; MB and MB/s of UTF-8, million tokens/s");
    println!(
        "{:24} {:>8} {:>17} {:>17} {:>7}",
        "source", "MB", "cohort", "tokenizers", "ratio"
    );
    let mut total = Timing {
        bytes: 0,
        tokens: 0,
        fast_s: 0.0,
        library_s: 0.0,
    };
    for (name, texts) in &documents {
        let timing = time(texts, &fast, &library, rounds);
        println!("{name:24} {}", timing.line());
        total.bytes += timing.bytes;
        total.tokens += timing.tokens;
        total.fast_s += timing.fast_s;
        total.library_s += timing.library_s;
    }
    println!("{:24} {}", "all", total.line());
    let count: usize = documents.values().map(Vec::len).sum();
    println!(
        "the ids of all {count} documents are the same: {} tokens",
        total.tokens
    );
    Ok(())
}

/// # Panics
/// Ids that differ.
fn time(texts: &[String], fast: &Encoder, library: &Tokenizer, rounds: usize) -> Timing {
    let mut timing = Timing {
        bytes: texts.iter().map(|text| text.len() as u64).sum(),
        tokens: 0,
        fast_s: f64::INFINITY,
        library_s: f64::INFINITY,
    };
    for round in 0..rounds {
        let begun = Instant::now();
        let found: Vec<Vec<u32>> = texts.iter().map(|text| fast.encode(text)).collect();
        timing.fast_s = timing.fast_s.min(begun.elapsed().as_secs_f64());
        let begun = Instant::now();
        let encode = |text: &String| library.encode_fast(text.as_str(), false).unwrap();
        let expected: Vec<Vec<u32>> = texts
            .iter()
            .map(|text| encode(text).get_ids().to_vec())
            .collect();
        timing.library_s = timing.library_s.min(begun.elapsed().as_secs_f64());
        timing.tokens = expected.iter().map(|ids| ids.len() as u64).sum();
        if round == 0 {
            let differ = |(found, expected): (&Vec<u32>, &Vec<u32>)| found != expected;
            let first = found.iter().zip(&expected).position(differ);
            assert_eq!(first, None, "the ids of a document differ");
        }
    }
    timing
}

fn read(inputs: &[String]) -> Result<Documents> {
    let mut documents = Documents::new();
    for input in inputs.iter().map(Path::new) {
        if input
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            let config: CorpusConfig = config::load(input)?;
            for job in find_inputs(&config, input.parent().unwrap_or(Path::new("")))? {
                let mut texts = Vec::new();
                for document in job.documents(&Arc::default()) {
                    // Token ids have nothing to be encoded.
                    if let Content::Text(text) = document?.content {
                        texts.push(text);
                    }
                }
                documents.insert(job.name(), texts);
            }
        } else {
            let whole = fs::read_to_string(input)?;
            let kind = input.extension().unwrap_or_default().to_string_lossy();
            documents
                .entry(format!("*.{kind}"))
                .or_default()
                .push(whole);
        }
    }
    Ok(documents)
}

fn write(documents: &Documents, path: &Path) -> Result<()> {
    let mut lines = BufWriter::new(File::create(path)?);
    for text in documents.values().flatten() {
        serde_json::to_writer(&mut lines, text)?;
        lines.write_all(b"\n")?;
    }
    Ok(lines.flush()?)
}
