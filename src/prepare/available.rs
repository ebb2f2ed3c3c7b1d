//! Which sources of a configuration are there: one corpus YAML may name more than one has.
//!
//! Nothing is left out in silence: without leave, whatever lacks is an error that lists all of it,
//! and says where it is had and under which terms.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Result, bail};

use crate::prepare::config::CorpusConfig;
use crate::prepare::inputs::{FOLDER_HINT, NothingThere, Places};
use crate::prepare::readers;

/// A source of which no file is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absent {
    /// `institution/source`.
    pub name: String,
    /// Which path leads nowhere.
    pub what: String,
    pub licence: String,
    pub homepage: Option<String>,
}

/// Takes the sources out of which no file is there. Paths start at `folder`.
///
/// # Errors
/// A source whose files are not as they must be, and a corpus of which nothing is there.
pub fn take_out_absent(config: &mut CorpusConfig, folder: &Path) -> Result<Vec<Absent>> {
    let places = Places::new(folder, &config.store);
    let mut all_absent = Vec::new();
    for institution in &mut config.institutions {
        let mut there = Vec::new();
        for source in std::mem::take(&mut institution.sources) {
            let name = format!("{}/{}", institution.id, source.id);
            let found = readers::find_files(&source.read, &places);
            let nothing = found.as_ref().err();
            let nothing = nothing.and_then(|error| error.downcast_ref::<NothingThere>());
            let Some(nothing) = nothing.map(NothingThere::what) else {
                found.map_err(|error| error.context(name))?;
                there.push(source);
                continue;
            };
            all_absent.push(Absent {
                name,
                what: nothing.to_owned(),
                licence: source.licence,
                homepage: source.homepage,
            });
        }
        institution.sources = there;
    }
    config
        .institutions
        .retain(|institution| !institution.sources.is_empty());
    if config.institutions.is_empty() {
        bail!("{}\n  hint: {FOLDER_HINT}", describe(&all_absent));
    }
    Ok(all_absent)
}

/// A line for each source, and one for where it is had.
pub fn describe(absent: &[Absent]) -> String {
    let mut text = match absent {
        [_] => "one source is not there:".to_owned(),
        _ => format!("{} sources are not there:", absent.len()),
    };
    for source in absent {
        let _ = write!(text, "\n  {}: {}", source.name, source.what);
        if let Some(homepage) = &source.homepage {
            let _ = write!(text, "\n    from {homepage} ({})", source.licence);
        }
    }
    text
}
