//! From files of every format to the texts of their documents, without a tokenizer in between.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cohort::prepare::compression::ReadCounts;
use cohort::prepare::inputs::Places;
use cohort::prepare::readers::{self, Content};

use super::{PRIVATE, Workspace, gzip};

mod archives;
mod columns;
mod encodings;
mod hostile;
mod limits;
mod markup;
pub mod mds;
mod sentences;
mod speech;
mod tables;

/// Files of a source, by their names.
type Files<'a> = &'a [(&'a str, Vec<u8>)];

/// The texts of a source, or why there are none, with the workspace's folder as `DIR`.
fn texts(read: &str, files: Files<'_>) -> Result<Vec<String>, String> {
    documents(read, files).map(|documents| documents.into_iter().map(|(_, text)| text).collect())
}

/// The documents of a source: where they stand and their texts. `ROOT` in `read` is the address of
/// the folder of the files.
fn documents(read: &str, files: Files<'_>) -> Result<Vec<(String, String)>, String> {
    let workspace = Workspace::new("max_length: 64", "");
    let root = format!("file://{}", workspace.folder.path().display());
    let read = read.replace("ROOT", &root);
    let source = format!("  - {{id: notes, licence: x, read: {{{read}}}}}");
    workspace.configure("max_length: 64", &source);
    for (name, bytes) in files {
        workspace.write(name, bytes);
    }
    let folder = workspace.folder.path();
    let config = workspace.config();
    let institution = &config.institutions[0];
    let source = &institution.sources[0];
    let read = || -> anyhow::Result<Vec<(String, String)>> {
        let places = Places::new(folder, &config.store);
        let found = readers::find_files(&source.read, &places)?;
        let counts = Arc::<ReadCounts>::default();
        let bytes: u64 = found.iter().map(|file| file.bytes).sum();
        let documents = readers::open(institution, source, found, Arc::clone(&counts));
        let documents = documents.map(|document| {
            let document = document?;
            Ok((document.place.to_string(), shown(document.content)))
        });
        let documents = documents.collect::<anyhow::Result<_>>()?;
        let counted = counts.bytes.load(Ordering::Relaxed);
        assert_eq!(counted, bytes, "every byte is counted once");
        Ok(documents)
    };
    match read() {
        Ok(documents) => Ok(documents
            .into_iter()
            .map(|(place, text)| (workspace.shorten(&place), text))
            .collect()),
        Err(error) => Err(workspace.shown(&error)),
    }
}

/// The text, or the token ids in figures.
fn shown(content: Content) -> String {
    match content {
        Content::Text(text) => text,
        Content::Tokens(ids) => {
            let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
            ids.join(" ")
        }
    }
}

/// The error of a source that must not be read.
fn refused(read: &str, files: Files<'_>) -> String {
    texts(read, files).expect_err("the input is bad")
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    let mut encoder = liblzma::read::XzEncoder::new(bytes, 6);
    io::copy(&mut encoder, &mut packed).unwrap();
    packed
}
