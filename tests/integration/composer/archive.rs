//! Archives as `torch.save` makes them, changed and written again with right checksums.

use std::fs;
use std::io::{Cursor, Read, Write};
use std::path::Path;

use tempfile::NamedTempFile;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// Names below the archive's folder, and contents.
pub struct Archive {
    files: Vec<(String, Vec<u8>)>,
}

impl Archive {
    pub fn read(path: &Path) -> Self {
        let mut archive = ZipArchive::new(Cursor::new(fs::read(path).unwrap())).unwrap();
        let files = (0..archive.len())
            .map(|index| {
                let mut file = archive.by_index(index).unwrap();
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes).unwrap();
                let name = file.name().unwrap().into_owned();
                (name.strip_prefix("archive/").unwrap().to_owned(), bytes)
            })
            .collect();
        Self { files }
    }

    /// Writes the archive with changed contents.
    pub fn with(&self, change: impl Fn(&str, &[u8]) -> Vec<u8>) -> NamedTempFile {
        let files = self.files.iter();
        let files: Vec<_> = files
            .map(|(name, bytes)| (format!("archive/{name}"), change(name, bytes)))
            .collect();
        write(&files)
    }

    pub fn with_pickle(&self, change: impl Fn(&[u8]) -> Vec<u8>) -> NamedTempFile {
        self.with(|name, bytes| match name {
            "data.pkl" => change(bytes),
            _ => bytes.to_vec(),
        })
    }
}

/// Writes an uncompressed archive.
pub fn write(files: &[(String, Vec<u8>)]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, bytes) in files {
        writer.start_file(name.as_str(), options).unwrap();
        writer.write_all(bytes).unwrap();
    }
    file.write_all(&writer.finish().unwrap().into_inner())
        .unwrap();
    file
}

/// A text as protocol 2 writes it.
pub fn text(words: &str) -> Vec<u8> {
    let length = u32::try_from(words.len()).unwrap().to_le_bytes();
    [b"X", length.as_slice(), words.as_bytes()].concat()
}
