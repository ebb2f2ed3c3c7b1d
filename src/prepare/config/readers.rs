//! How the documents of a source are read: the format, where its files are, and what of them is
//! text.

#![expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "garde passes its context by reference"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use garde::Validate;
use serde::{Deserialize, Serialize};

use crate::prepare::encoding::Encoding;
use crate::prepare::fields::Fields;
use crate::prepare::synthetic::Style;

/// What stands for each speaker in the path of a `text_grid` source.
pub const SPEAKER: &str = "{speaker}";

/// How documents are read. Files may be plain, gzip, zstd or xz. A path may be a pattern with `*`,
/// `?` and `**` (any number of folders, and at the end all that is in them), and an address in
/// object storage; its files are read in sorted order.
#[derive(Clone, Debug, Serialize, Deserialize, Validate)]
#[serde(rename_all = "snake_case")]
pub enum ReadConfig {
    /// JSON objects one after the other, as a rule one a line.
    JsonLines(#[garde(dive)] JsonLinesConfig),
    /// Separated values with a line of column names; quoted fields may hold line ends.
    Csv(#[garde(dive)] CsvConfig),
    /// Text columns of Parquet files.
    Parquet(#[garde(dive)] ParquetConfig),
    /// Each file is one document.
    TextFiles(#[garde(dive)] FilesConfig),
    /// PubMed's citations: title and abstract of each.
    PubmedXml(#[garde(dive)] FilesConfig),
    /// Articles of PubMed Central and of publishers: title, abstract and body of each.
    Jats(#[garde(dive)] FilesConfig),
    /// The pages of `MedQuAD`: each question with its answer.
    MedquadXml(#[garde(dive)] FilesConfig),
    /// Praat's transcripts: the turns of all speakers of a conversation.
    TextGrid(#[garde(dive)] TextGridConfig),
    /// A directory that MosaicML's streaming library has written: token ids, or text.
    Mds(#[garde(dive)] MdsConfig),
    /// Invented notes, for a first run without any text.
    Synthetic(#[garde(dive)] SyntheticConfig),
}

#[derive(Clone, Debug, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct JsonLinesConfig {
    /// A file or a pattern.
    #[garde(skip)]
    pub path: PathBuf,
    /// Which fields make which documents.
    #[garde(dive)]
    pub text: Fields,
    /// What files without a byte-order mark are.
    #[serde(default)]
    #[garde(skip)]
    pub encoding: Encoding,
}

#[derive(Clone, Debug, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct CsvConfig {
    /// A file or a pattern.
    #[garde(skip)]
    pub path: PathBuf,
    /// Which columns make which documents.
    #[garde(dive)]
    pub text: Fields,
    /// What stands between the fields of a row.
    #[serde(default)]
    #[garde(skip)]
    pub separator: Separator,
    /// Whether a field may stand in double quotes; without them a quote is a character like others.
    #[serde(default = "default_quoted")]
    #[garde(skip)]
    pub quoted: bool,
    /// What files without a byte-order mark are.
    #[serde(default)]
    #[garde(skip)]
    pub encoding: Encoding,
}

/// What stands between the fields of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Separator {
    #[default]
    Comma,
    Tab,
    Semicolon,
    Bar,
}

#[derive(Clone, Debug, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct ParquetConfig {
    /// A file or a pattern.
    #[garde(skip)]
    pub path: PathBuf,
    /// Which columns make which documents.
    #[garde(dive)]
    pub text: Fields,
}

/// Files whose format says by itself what their documents are.
#[derive(Clone, Debug, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct FilesConfig {
    /// A file or a pattern.
    #[garde(skip)]
    pub path: PathBuf,
    /// The files are tar archives; their members that match this pattern are read.
    #[serde(default)]
    #[garde(inner(length(min = 1)))]
    pub members: Option<String>,
    /// What files without a byte-order mark are.
    #[serde(default)]
    #[garde(skip)]
    pub encoding: Encoding,
}

#[derive(Clone, Debug, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct TextGridConfig {
    /// A file or a pattern. With `{speaker}` in the name of the file, each speaker has a file, and
    /// those whose names differ in nothing else are one conversation; without it, each file is a
    /// conversation and each speaker a tier.
    #[garde(custom(one_speaker))]
    pub path: PathBuf,
    /// What stands for `{speaker}`, or the name of the tier, and with what the speaker's lines
    /// begin.
    #[garde(length(min = 1))]
    pub speakers: BTreeMap<String, String>,
    /// What files without a byte-order mark are.
    #[serde(default)]
    #[garde(skip)]
    pub encoding: Encoding,
}

/// Tokens are taken over as they stand: each sample is a document of one chunk, its special tokens
/// included, so the corpus must have the tokenizer and at least the `max_length` of the directory.
#[derive(Clone, Debug, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct MdsConfig {
    /// The folder with `index.json`, or a pattern for several.
    #[garde(skip)]
    pub path: PathBuf,
    /// Which columns make which documents, where the samples are text; without it, each sample's
    /// `input_ids` are read.
    #[serde(default)]
    #[garde(dive)]
    pub text: Option<Fields>,
}

#[derive(Clone, Debug, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct SyntheticConfig {
    /// The kind of note.
    #[garde(skip)]
    pub style: Style,
    /// How many notes.
    #[garde(range(min = 1, max = 10_000_000))]
    pub documents: u64,
}

impl TextGridConfig {
    /// Whether each speaker has a file.
    pub fn has_file_each(&self) -> bool {
        self.path.to_string_lossy().contains(SPEAKER)
    }
}

impl Separator {
    pub fn byte(self) -> u8 {
        match self {
            Self::Comma => b',',
            Self::Tab => b'\t',
            Self::Semicolon => b';',
            Self::Bar => b'|',
        }
    }
}

fn default_quoted() -> bool {
    true
}

fn one_speaker(path: &Path, _context: &()) -> garde::Result {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (named, all) = (
        name.matches(SPEAKER).count(),
        path.to_string_lossy().matches(SPEAKER).count(),
    );
    if named == all && all <= 1 {
        return Ok(());
    }
    Err(garde::Error::new(
        "{speaker} must stand in the name of the file alone, and once",
    ))
}
