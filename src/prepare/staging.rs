//! The folder in which a corpus is made, inside the one where it will stand.
//!
//! `<corpus>/.preparing` holds the new corpus until it is complete. So an older corpus stays usable
//! while its successor is made or fails, at the price of room for both, and an interrupted
//! preparation finds what it has done. Then the old manifest leaves the corpus folder, the files
//! move in by renames, and the new manifest last.
//!
//! Invariants, wherever the process is killed: a manifest stands only beside its own files; a
//! staged manifest stands only where every file of its corpus is in one of the two folders, and the
//! next run then finishes the move. Only files that a preparation makes are removed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::corpus::new_tokens::NEW_TOKENS_FILE;
use crate::corpus::{MANIFEST_FILE, Manifest, TOKENIZER_FILE};
use crate::prepare::cleaning::report::REPORT_FILE;
use crate::prepare::config::is_short_name;
use crate::prepare::files;
use crate::prepare::fingerprint::{FINGERPRINT_FILE, Fingerprint};
use crate::prepare::tokenizer::{TOKENIZER_CONFIG_FILE, TokenizerFiles};

const FOLDER: &str = ".preparing";
/// What the staged files are made from. Nothing that is staged counts without it: it comes before
/// the first shard, goes first where the staged files are given up, and last where they have moved.
const BEGUN_FILE: &str = "begun.json";
/// The manifest of the corpus that is being replaced.
const REPLACED_FILE: &str = "replaced.json";

/// A corpus folder, and the folder in it where the corpus is made.
pub struct Staging {
    root: PathBuf,
    folder: PathBuf,
}

/// `<corpus>/.preparing/begun.json`: digests of what is staged, in hexadecimal.
#[derive(Serialize, Deserialize)]
struct Begun {
    /// Of all that the corpus is made from.
    whole: String,
    /// Of what all sources have in common.
    common: String,
    /// Of the tokenizer's files.
    tokenizer: String,
}

impl Staging {
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            folder: root.join(FOLDER),
        }
    }

    /// Where the new corpus is written.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Refuses folders that no finished corpus can be moved into, before there is one; `names` are
    /// those of its sources.
    ///
    /// # Errors
    /// A folder of the corpus is on another file system than the staging folder.
    pub fn expect_one_file_system(&self, names: impl Iterator<Item = String>) -> Result<()> {
        let device = |folder: &Path| fs::metadata(folder).ok().map(|found| found.dev());
        let staging = device(&self.folder).or_else(|| device(&self.root));
        for name in names {
            for folder in Path::new(&name).ancestors() {
                let folder = self.root.join(folder);
                let other = device(&folder).filter(|other| Some(*other) != staging);
                ensure!(
                    other.is_none(),
                    "{} is on another file system than {}, from where a finished corpus is moved \
                     in\n  hint: set `output` to a folder that has all of its folders on one file \
                     system",
                    folder.display(),
                    self.folder.display()
                );
            }
        }
        Ok(())
    }

    /// The tokenizer of an interrupted preparation with the same settings. What was left by
    /// another one is removed.
    ///
    /// # Errors
    /// What is left cannot be removed.
    pub fn resume(&self, fingerprint: &Fingerprint) -> Result<Option<TokenizerFiles>> {
        let begun = self.begun();
        let same = begun
            .as_ref()
            .is_some_and(|begun| begun.common == fingerprint.common);
        // A complete corpus that is not the wanted one, or has lost files, is no beginning.
        let complete = self.folder.join(MANIFEST_FILE).exists();
        let tokenizer = self.tokenizer(begun.as_ref().filter(|_| same && !complete));
        if tokenizer.is_none() {
            if begun.is_some() {
                tracing::info!(
                    "beginning anew: what was interrupted had other settings or inputs, or is \
                     damaged"
                );
            }
            self.discard()?;
        }
        Ok(tokenizer)
    }

    fn begun(&self) -> Option<Begun> {
        files::read_json(&self.folder.join(BEGUN_FILE)).ok()
    }

    fn tokenizer(&self, begun: Option<&Begun>) -> Option<TokenizerFiles> {
        let files = TokenizerFiles {
            tokenizer: fs::read(self.folder.join(TOKENIZER_FILE)).ok()?,
            config: fs::read(self.folder.join(TOKENIZER_CONFIG_FILE)).ok()?,
            new_tokens: fs::read(self.folder.join(NEW_TOKENS_FILE)).ok(),
        };
        (files.digest() == begun?.tokenizer).then_some(files)
    }

    /// Says what is being made, with the tokenizer that is staged. From here on the preparation can
    /// be resumed.
    pub fn begin(&self, fingerprint: &Fingerprint, tokenizer: &TokenizerFiles) -> Result<()> {
        let begun = Begun {
            whole: fingerprint.whole().to_owned(),
            common: fingerprint.common.clone(),
            tokenizer: tokenizer.digest(),
        };
        files::write_json(&self.folder, BEGUN_FILE, &begun)?;
        Ok(())
    }

    /// Says that every file of the corpus is staged.
    pub fn complete(&self, fingerprint: &Fingerprint, manifest: &Manifest) -> Result<()> {
        fingerprint.write(&self.folder)?;
        files::write_json(&self.folder, MANIFEST_FILE, manifest)?;
        Ok(())
    }

    /// The manifest of the staged corpus, if it is complete and made from these inputs; part of it
    /// may have moved already.
    pub fn find_complete(&self, fingerprint: &Fingerprint) -> Option<Manifest> {
        let manifest: Manifest = files::read_json(&self.folder.join(MANIFEST_FILE)).ok()?;
        // One of the older corpus may have the same name and size, hence by digest where it moved.
        let there = manifest
            .sources()
            .flat_map(|(_, _, source)| source.files())
            .all(|file| {
                files::has_size(&self.folder, file) || files::expect(&self.root, file).is_ok()
            });
        (self.is_for(fingerprint) && there).then_some(manifest)
    }

    /// Moves a complete corpus to where it belongs, in the place of the one that stands there, and
    /// removes the staging folder. Can be repeated wherever it was interrupted.
    ///
    /// # Errors
    /// The folders cannot be changed.
    pub fn publish(&self, manifest: &Manifest) -> Result<()> {
        let old = self.root.join(MANIFEST_FILE);
        if old.exists() {
            rename(&old, &self.folder.join(REPLACED_FILE))?;
            files::sync_folder(&self.folder)?;
            files::sync_folder(&self.root)?;
        }
        let sources = manifest.sources().flat_map(|(_, _, source)| source.files());
        let names: BTreeSet<&str> = sources.map(|stored| stored.file.as_str()).collect();
        self.sweep(&names)?;
        if manifest.tokenizer.new_tokens.is_none() {
            files::remove(&self.root.join(NEW_TOKENS_FILE))?;
        }
        let mut folders = BTreeSet::from([self.root.clone()]);
        let others = [
            TOKENIZER_FILE,
            TOKENIZER_CONFIG_FILE,
            NEW_TOKENS_FILE,
            FINGERPRINT_FILE,
            REPORT_FILE,
        ];
        for file in names.into_iter().chain(others) {
            let (from, to) = (self.folder.join(file), self.root.join(file));
            // One that is not staged has moved before.
            if from.exists() {
                let folder = to.parent().expect("a file in a folder has a parent");
                fs::create_dir_all(folder)
                    .with_context(|| format!("cannot make {}", folder.display()))?;
                rename(&from, &to)?;
                folders.extend(
                    folder
                        .ancestors()
                        .take_while(|up| *up != self.root)
                        .map(Path::to_owned),
                );
            }
        }
        for folder in &folders {
            files::sync_folder(folder)?;
        }
        rename(&self.folder.join(MANIFEST_FILE), &old)?;
        files::sync_folder(&self.root)?;
        self.remove()
    }

    /// Whether something is staged from exactly these inputs.
    pub fn is_for(&self, fingerprint: &Fingerprint) -> bool {
        let begun = self.begun();
        begun.is_some_and(|begun| begun.whole == fingerprint.whole())
    }

    /// Removes the staging folder.
    pub fn remove(&self) -> Result<()> {
        let context = || format!("cannot remove {}", self.folder.display());
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return Ok(());
        };
        for entry in entries {
            let entry = entry.with_context(context)?;
            if entry.file_type().with_context(context)?.is_dir() {
                fs::remove_dir_all(entry.path()).with_context(context)?;
            } else if entry.file_name() != BEGUN_FILE {
                files::remove(&entry.path())?;
            }
        }
        files::remove(&self.folder.join(BEGUN_FILE))?;
        fs::remove_dir(&self.folder).with_context(context)
    }

    /// Gives up what is staged, with what of it has moved. What a kill leaves of it is no
    /// beginning for anybody, even one who wants the same again.
    fn discard(&self) -> Result<()> {
        if self.folder.exists() {
            files::remove(&self.folder.join(BEGUN_FILE))?;
            files::sync_folder(&self.folder)?;
        }
        if !self.root.join(MANIFEST_FILE).exists() {
            self.sweep(&BTreeSet::new())?;
        }
        self.remove()
    }

    /// Removes from the corpus folder the files of the staged corpus and of the one that it
    /// replaces, but for those that are named. No manifest stands there.
    fn sweep(&self, keep: &BTreeSet<&str>) -> Result<()> {
        let staged = [MANIFEST_FILE, REPLACED_FILE].map(|file| self.folder.join(file));
        let manifests = staged
            .iter()
            .filter_map(|path| files::read_json::<Manifest>(path).ok());
        let mut names = BTreeSet::new();
        for manifest in manifests {
            let sources = manifest.sources();
            names.extend(sources.filter_map(|(_, institution, source)| {
                let safe = is_short_name(&institution.id) && is_short_name(&source.id);
                safe.then(|| institution.name_of(source))
            }));
        }
        for name in names {
            let folder = self.root.join(&name);
            if !folder.is_dir() {
                continue;
            }
            let context = || format!("cannot list the folder {}", folder.display());
            for entry in fs::read_dir(&folder).with_context(context)? {
                let entry = entry.with_context(context)?;
                let file = entry.file_name().to_string_lossy().into_owned();
                if is_ours(&file) && !keep.contains(format!("{name}/{file}").as_str()) {
                    files::remove(&entry.path())?;
                }
            }
        }
        Ok(())
    }
}

/// Whether a preparation makes files of this name beside the shards of a source.
fn is_ours(name: &str) -> bool {
    let stem = name
        .strip_suffix(&format!(".{}", files::TEMPORARY))
        .unwrap_or(name);
    let numbered = |prefix: &str| {
        stem.strip_prefix(prefix)
            .and_then(|rest| rest.strip_suffix(".arrow"))
            .is_some_and(|number| number.len() >= 5 && number.bytes().all(|b| b.is_ascii_digit()))
    };
    let single = [
        "unigrams.arrow",
        "train-lengths.arrow",
        "held-out-lengths.arrow",
    ];
    single.contains(&stem) || numbered("train-") || numbered("held-out-")
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to)
        .with_context(|| format!("cannot move {} to {}", from.display(), to.display()))
}
