//! Which files are one conversation: those whose names differ in nothing but the speaker.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::prepare::config::readers::{SPEAKER, TextGridConfig};
use crate::prepare::inputs::{InputFile, NothingThere, Places};
use crate::prepare::pattern::name_matches;

/// The files of each conversation one after the other, within it in the order of the speakers.
///
/// # Errors
/// As for a pattern; a file without those of the other speakers, of two speakers, or of none.
pub fn find_files(config: &TextGridConfig, places: &Places<'_>) -> Result<Vec<InputFile>> {
    let path = places.resolve(&config.path);
    if !config.has_file_each() {
        return places.expand(&path);
    }
    let pattern = config.path.file_name().unwrap_or_default();
    let pattern = pattern.to_string_lossy();
    let mut conversations: BTreeMap<(PathBuf, String), BTreeMap<&str, InputFile>> = BTreeMap::new();
    let mut owners: BTreeMap<PathBuf, &str> = BTreeMap::new();
    let mut nothing = None;
    for speaker in config.speakers.keys() {
        let own = path.with_file_name(pattern.replace(SPEAKER, speaker));
        let found = match places.expand(&own) {
            Err(error) if error.is::<NothingThere>() => {
                nothing.get_or_insert(error);
                continue;
            }
            found => found?,
        };
        for file in found {
            let name = file.path.file_name().unwrap_or_default().to_string_lossy();
            let Some(common) = without_speaker(&pattern, speaker, &name) else {
                bail!(
                    "{}: the speaker {speaker:?} is not in the file's name\n  hint: `speakers` \
                     names what stands for {SPEAKER} in `path`, letter by letter",
                    file.path.display()
                );
            };
            if let Some(other) = owners.insert(file.path.clone(), speaker) {
                bail!(
                    "{}: the file of both {other:?} and {speaker:?}\n  hint: let `path` say more \
                     around {SPEAKER}, as in *_{SPEAKER}.TextGrid",
                    file.path.display()
                );
            }
            let key = (file.path.with_file_name(""), common);
            conversations.entry(key).or_default().insert(speaker, file);
        }
    }
    if let Some(error) = nothing {
        return Err(if conversations.is_empty() {
            error
        } else {
            NothingThere::in_part(error)
        });
    }
    let mut files = Vec::new();
    for found in conversations.into_values() {
        let missing = config.speakers.keys();
        let missing = missing
            .into_iter()
            .find(|key| !found.contains_key(key.as_str()));
        if let (Some(missing), Some(file)) = (missing, found.values().next()) {
            bail!(
                "{} has no file of the speaker {missing:?} beside it\n  hint: the names of the \
                 files of one conversation differ in {{speaker}} alone",
                file.path.display()
            );
        }
        files.extend(found.into_values());
    }
    Ok(files)
}

/// A file's name with `{speaker}` for the speaker, where `pattern` has it.
fn without_speaker(pattern: &str, speaker: &str, name: &str) -> Option<String> {
    let (before, after) = pattern.split_once(SPEAKER)?;
    let places = name.char_indices().map(|(at, _)| at);
    let mut places = places.filter(|at| name[*at..].starts_with(speaker));
    let place = places.find(|at| {
        let rest = &name[at + speaker.len()..];
        name_matches(before, &name[..*at]) && name_matches(after, rest)
    })?;
    let rest = &name[place + speaker.len()..];
    Some(format!("{}{SPEAKER}{rest}", &name[..place]))
}
