//! Files of `torch.save`, read as data: an uncompressed zip archive of one pickle, which says what
//! there is, and of one file for each storage of numbers.
//!
//! Opening reads the archive's directory and the pickle. Tensors are read one at a time, when they
//! are asked for, so that a file of many gigabytes needs the memory of one storage. Nothing that
//! the file names is ever called or imported (`pickle`), and no size that it claims is believed
//! before it was compared with the file's own length.

mod object;
mod pickle;
pub mod value;

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use tch::{Kind, Tensor};
use zip::{CompressionMethod, ZipArchive};

use crate::model::torch_file::object::Objects;
use crate::model::torch_file::value::{TensorRecord, Value, shown};

/// The pickle of ModernBERT's checkpoints has some megabytes, most of them the tokenizer's.
const PICKLE_BYTES_MAX: u64 = 64 << 20;
/// Files in the archive; a checkpoint of ModernBERT-large has some six hundred.
const FILES_MAX: usize = 100_000;
/// The newest layout of the archive that torch itself reads.
const LAYOUT_MAX: u64 = 10;

/// An open file of `torch.save`.
#[derive(Debug)]
pub struct TorchFile {
    path: PathBuf,
    archive: ZipArchive<BufReader<File>>,
    /// The folder in the archive that holds everything.
    folder: String,
    /// Of the file itself: nothing in it is longer.
    length: u64,
    objects: Objects,
}

impl TorchFile {
    /// Opens a file and reads what is in it, but for the tensors.
    ///
    /// # Errors
    /// What is no archive of `torch.save`, is compressed, damaged, or beyond the limits.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| {
            format!(
                "cannot read {}\n  hint: name a checkpoint file of Composer, `….pt`",
                path.display()
            )
        })?;
        Self::read(path, file).with_context(|| format!("cannot use {}", path.display()))
    }

    fn read(path: &Path, file: File) -> Result<Self> {
        let length = file.metadata()?.len();
        let archive = ZipArchive::new(BufReader::new(file)).context(
            "this is no intact zip archive, as torch.save writes\n  \
             hint: was it downloaded whole? Files of torch before 1.6 must be saved anew",
        )?;
        ensure!(
            archive.len() <= FILES_MAX,
            "the archive holds {} files, at most {FILES_MAX} are read",
            archive.len()
        );
        let folder = archive
            .file_names_raw()
            .filter_map(|name| std::str::from_utf8(name).ok()?.strip_suffix("/data.pkl"))
            .find(|folder| !folder.contains('/'))
            .context(
                "the archive holds no data.pkl, so it is no file of torch.save\n  \
                 hint: name a checkpoint file of Composer, `….pt`",
            )?
            .to_owned();
        let mut this = Self {
            path: path.to_owned(),
            archive,
            folder,
            length,
            objects: Objects::empty(),
        };
        this.check_layout()?;
        let bytes = this.file("data.pkl", PICKLE_BYTES_MAX)?;
        this.objects = pickle::read(bytes)?;
        Ok(this)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The value that was saved.
    pub fn root(&self) -> Value<'_> {
        Value::root(&self.objects)
    }

    /// Reads one tensor, of its own type, on the CPU.
    ///
    /// # Errors
    /// A storage that is missing, damaged or too short, and numbers that do not lie row by row.
    pub fn tensor(&mut self, record: &TensorRecord) -> Result<Tensor> {
        let numbers = record.numbers()?;
        let width = element_bytes(record.kind)?;
        let bytes = self.storage(record, width)?;
        let start = record.offset as usize * width;
        let part = &bytes[start..start + numbers * width];
        Ok(Tensor::f_from_data_size(part, &record.shape, record.kind)?)
    }

    /// All bytes of a tensor's storage, as many as its numbers take.
    fn storage(&mut self, record: &TensorRecord, width: usize) -> Result<Vec<u8>> {
        let plain = !record.key.is_empty() && record.key.bytes().all(|byte| byte.is_ascii_digit());
        ensure!(plain, "the storage {:?} has no number", shown(&record.key));
        let bytes = self.file(&format!("data/{}", record.key), u64::MAX)?;
        ensure!(
            record.elements.checked_mul(width as u64) == Some(bytes.len() as u64),
            "storage {} should hold {} numbers of {width} bytes, its file has {} bytes",
            record.key,
            record.elements,
            bytes.len()
        );
        Ok(bytes)
    }

    fn check_layout(&mut self) -> Result<()> {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
        if self.has("version") {
            let version = text(self.file("version", 64)?);
            let known = version
                .parse()
                .is_ok_and(|version: u64| version <= LAYOUT_MAX);
            ensure!(
                known,
                "the archive is of layout {:?}; up to {LAYOUT_MAX} is known",
                shown(&version)
            );
        }
        if self.has("byteorder") {
            let order = text(self.file("byteorder", 64)?);
            ensure!(
                order == "little",
                "its numbers are in byte order {:?}, only \"little\" is read",
                shown(&order)
            );
        }
        Ok(())
    }

    fn has(&self, name: &str) -> bool {
        let name = format!("{}/{name}", self.folder);
        self.archive.index_for_name(&name).is_some()
    }

    /// Reads one file of the archive; its checksum is compared.
    fn file(&mut self, name: &str, bytes_max: u64) -> Result<Vec<u8>> {
        let full_name = format!("{}/{name}", self.folder);
        let mut file = match self.archive.by_name(&full_name) {
            Ok(file) => file,
            Err(error) => bail!("cannot read {name} in the archive: {error}"),
        };
        let size = file.size();
        ensure!(
            file.compression() == CompressionMethod::Stored && !file.encrypted(),
            "{name} in the archive is compressed or encrypted, which torch.save never does"
        );
        ensure!(
            size == file.compressed_size() && size <= self.length,
            "{name} claims {size} bytes, more than the whole archive has"
        );
        ensure!(
            size <= bytes_max,
            "{name} has {size} bytes, at most {bytes_max} are read"
        );
        let mut bytes = Vec::with_capacity(size as usize);
        file.read_to_end(&mut bytes)
            .with_context(|| format!("{name} in the archive is damaged"))?;
        ensure!(
            bytes.len() as u64 == size,
            "{name} has {} of the {size} bytes that it claims",
            bytes.len()
        );
        Ok(bytes)
    }
}

fn element_bytes(kind: Kind) -> Result<usize> {
    Ok(match kind {
        Kind::Double | Kind::Int64 => 8,
        Kind::Float | Kind::Int => 4,
        Kind::Half | Kind::BFloat16 | Kind::Int16 => 2,
        Kind::Int8 | Kind::Uint8 | Kind::Bool => 1,
        other => bail!("numbers of type {other:?} are not read"),
    })
}
