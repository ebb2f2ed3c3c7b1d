//! Which files are one conversation: those whose names differ in nothing but the speaker.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::prepare::config::{SPEAKER, TextGridConfig};
use crate::prepare::inputs::{self, InputFile};

/// The files of each conversation one after the other, within it in the order of the speakers.
///
/// # Errors
/// As for a pattern, and a file without those of the other speakers.
pub fn find_files(config: &TextGridConfig, folder: &Path) -> Result<Vec<InputFile>> {
    let path = folder.join(&config.path);
    if !config.has_file_each() {
        return inputs::expand(&path);
    }
    let pattern = config.path.file_name().unwrap_or_default();
    let pattern = pattern.to_string_lossy();
    let mut conversations: BTreeMap<(PathBuf, String), BTreeMap<&str, InputFile>> = BTreeMap::new();
    for speaker in config.speakers.keys() {
        let own = path.with_file_name(pattern.replace(SPEAKER, speaker));
        for file in inputs::expand(&own)? {
            let name = file.path.file_name().unwrap_or_default().to_string_lossy();
            let Some(common) = without_speaker(&pattern, speaker, &name) else {
                continue;
            };
            let key = (file.path.with_file_name(""), common);
            conversations.entry(key).or_default().insert(speaker, file);
        }
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
    let mut places = name.match_indices(speaker).map(|(at, _)| at);
    let place = places.find(|at| {
        let rest = &name[at + speaker.len()..];
        inputs::name_matches(before, &name[..*at]) && inputs::name_matches(after, rest)
    })?;
    let rest = &name[place + speaker.len()..];
    Some(format!("{}{SPEAKER}{rest}", &name[..place]))
}
