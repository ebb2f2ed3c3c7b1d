//! Directories that MosaicML's streaming library has written (MDS, version 2), token ids of a
//! column `input_ids`, or the texts of other columns.
//!
//! Ids are handed on as they stand; whether they are the corpus's tokenizer's is for whoever knows
//! that to say. Encodings other than `str` and arrays of whole numbers are not read, so nothing in
//! a directory is ever executed as the library's pickled columns are.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, anyhow};

use crate::prepare::compression::ReadCounts;
use crate::prepare::config::readers::MdsConfig;
use crate::prepare::inputs::{Folder, InputFile};
use crate::prepare::readers::layout::Layout;
use crate::prepare::readers::mds::array::IdArray;
use crate::prepare::readers::mds::index::{INDEX_FILE, Shard};
use crate::prepare::readers::mds::samples::Samples;
use crate::prepare::readers::{Content, Document, Documents, Place, chain, rows};

mod array;
mod hash;
pub mod index;
mod samples;

const IDS: &str = "input_ids";
const TEXT: &str = "str";

/// The documents of the directories whose files [`index::find_files`] found.
pub fn read(files: Vec<InputFile>, config: &MdsConfig, counts: Arc<ReadCounts>) -> Documents {
    let indexes: Vec<PathBuf> = files
        .iter()
        .filter(|file| file.path.ends_with(INDEX_FILE))
        .map(|file| file.path.clone())
        .collect();
    let files = files.into_iter().map(|file| (file.path.clone(), file));
    let found = Folder::Listed(files.collect());
    let for_indexes = Arc::clone(&counts);
    let shards = indexes.into_iter().flat_map(move |path| {
        match index::read(&path, &for_indexes, |path| found.file(path)) {
            Ok(shards) => shards.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        }
    });
    let layout = config.text.as_ref().map(Layout::new);
    chain(shards, move |shard| {
        let wanted = Wanted::new(&shard, layout.clone())?;
        let mut samples = Samples::open(shard, &counts)?;
        Ok(rows::documents(move || {
            next_documents(&mut samples, &wanted)
        }))
    })
}

/// What of a shard is read.
enum Wanted {
    Ids {
        column: usize,
        array: IdArray,
    },
    /// The layout's fields stand in these columns.
    Texts {
        columns: Vec<usize>,
        layout: Layout,
    },
}

impl Wanted {
    fn new(shard: &Shard, layout: Option<Layout>) -> Result<Self> {
        let path = shard.path.display();
        let column = |name: &str| shard.columns.iter().position(|found| found.name == name);
        let Some(layout) = layout else {
            let hint = "read text columns by setting `text` to their names";
            let place = column(IDS);
            let place =
                place.ok_or_else(|| anyhow!("{path}: no column {IDS:?}\n  hint: {hint}"))?;
            let array = IdArray::parse(&shard.columns[place].encoding);
            let array = array.ok_or_else(|| {
                anyhow!(
                    "{path}: the column {IDS:?} {}\n  hint: {hint}",
                    array::NO_IDS
                )
            })?;
            return Ok(Self::Ids {
                column: place,
                array,
            });
        };
        let text = |name: &String| {
            let place = column(name);
            let text = place.filter(|place| shard.columns[*place].encoding == TEXT);
            text.ok_or_else(|| {
                let what = match place {
                    Some(_) => format!("the column {name:?} holds no text"),
                    None => format!("no column {name:?} among {}", shard.columns.len()),
                };
                anyhow!("{path}: {what}\n  hint: set `text` to a column of the encoding `{TEXT}`")
            })
        };
        let columns = layout.names.iter().map(text).collect::<Result<_>>()?;
        Ok(Self::Texts { columns, layout })
    }
}

fn next_documents(samples: &mut Samples, wanted: &Wanted) -> Result<Option<Vec<Document>>> {
    let Some((sample, place)) = samples.next_sample()? else {
        return Ok(None);
    };
    let values = samples::values(&samples.shard, &sample);
    let values = values.ok_or_else(|| wrong(&place, "the sample is damaged"))?;
    match wanted {
        Wanted::Ids { column, array } => {
            let ids = array.decode(values[*column]);
            let ids = ids.map_err(|what| wrong(&place, &format!("the column {IDS:?} {what}")))?;
            let content = Content::Tokens(ids);
            Ok(Some(vec![Document { content, place }]))
        }
        Wanted::Texts { columns, layout } => {
            let text = |column: &usize| {
                let text = std::str::from_utf8(values[*column]);
                text.map_err(|_| wrong(&place, "a text is not valid UTF-8"))
            };
            let texts = columns.iter().map(text).collect::<Result<Vec<&str>>>()?;
            layout.documents(&texts, &place).map(Some)
        }
    }
}

fn wrong(place: &Place, what: &str) -> anyhow::Error {
    anyhow!("{place}: {what}\n  hint: copy the directory again, or write it anew")
}
