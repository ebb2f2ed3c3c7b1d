//! The hashes with which an index vouches for its shards.
//!
//! Known are the two that the format's own documentation proposes: SHA-1, and xxHash of 64 bits
//! with the seed 0. Others are passed over.

use std::collections::BTreeMap;
use std::hash::Hasher;

use bytes::Bytes;
use sha1::{Digest, Sha1};
use twox_hash::XxHash64;

/// Hashes what is read of a shard.
#[derive(Default)]
pub struct Check {
    sha1: Option<(String, Sha1)>,
    xxh64: Option<(String, XxHash64)>,
}

impl Check {
    /// `hashes` are the expected ones, in hexadecimal, by name.
    pub fn new(hashes: &BTreeMap<String, String>) -> Self {
        let wanted = |name: &str| hashes.get(name).map(|hash| hash.to_ascii_lowercase());
        Self {
            sha1: wanted("sha1").map(|hash| (hash, Sha1::new())),
            xxh64: wanted("xxh64").map(|hash| (hash, XxHash64::with_seed(0))),
        }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        if let Some((_, hasher)) = &mut self.sha1 {
            hasher.update(bytes);
        }
        if let Some((_, hasher)) = &mut self.xxh64 {
            hasher.write(bytes);
        }
    }

    /// The name of a hash that is another than expected.
    pub fn differing(&self) -> Option<&'static str> {
        if let Some((expected, hasher)) = &self.sha1 {
            let hash = Bytes::from(hasher.clone().finalize().to_vec());
            if format!("{hash:x}") != *expected {
                return Some("sha1");
            }
        }
        let (expected, hasher) = self.xxh64.as_ref()?;
        (format!("{:016x}", hasher.finish()) != *expected).then_some("xxh64")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_others() {
        // FIPS 180-1 gives SHA-1 of "abc"; xxHash's own tests give the hash of nothing.
        for (name, text, hash, differing) in [
            (
                "sha1",
                "abc",
                "A9993E364706816ABA3E25717850C26C9CD0D89D",
                None,
            ),
            (
                "sha1",
                "abd",
                "a9993e364706816aba3e25717850c26c9cd0d89d",
                Some("sha1"),
            ),
            ("xxh64", "", "ef46db3751d8e999", None),
            ("xxh64", "a", "ef46db3751d8e999", Some("xxh64")),
            ("md5", "a", "passed over", None),
        ] {
            let hashes = BTreeMap::from([(name.to_owned(), hash.to_owned())]);
            let mut check = Check::new(&hashes);
            check.update(text.as_bytes());
            assert_eq!(check.differing(), differing, "{name} of {text:?}");
        }
    }
}
