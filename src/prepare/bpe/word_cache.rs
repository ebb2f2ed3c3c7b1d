//! The ids of words met before, in a table of fixed size.
//!
//! A word has one slot, named by its hash, and takes it from whatever word stood there: the
//! frequent ones are back at once. A slot is one line of the processor's cache. Words that do not
//! fit are not remembered.

/// Bytes of the longest word in the table.
const WORD_BYTES_MAX: usize = 31;
const WORD_IDS_MAX: usize = 7;
/// 2 MiB of slots.
const SLOT_BITS: u32 = 15;

/// A word's bytes, filled up with zeros, its length in the last byte.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key([u64; 4]);

/// Remembers the ids of words.
pub struct WordCache {
    slots: Vec<Slot>,
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Slot {
    /// A free slot has the key of no word.
    key: Key,
    ids: [u32; WORD_IDS_MAX],
    count: u32,
}

/// Bits of the first n bytes of a key.
const MASKS: [[u64; 4]; WORD_BYTES_MAX + 1] = masks();

const fn masks() -> [[u64; 4]; WORD_BYTES_MAX + 1] {
    let mut masks = [[0; 4]; WORD_BYTES_MAX + 1];
    let mut length = 0;
    while length <= WORD_BYTES_MAX {
        let mut byte = 0;
        while byte < length {
            masks[length][byte / 8] |= 0xff << (byte % 8 * 8);
            byte += 1;
        }
        length += 1;
    }
    masks
}

impl Key {
    /// The key of the word `bytes[start..end]`, which is not empty; none where it is too long.
    #[inline]
    pub fn of(bytes: &[u8], start: usize, end: usize) -> Option<Self> {
        let length = end - start;
        if length > WORD_BYTES_MAX {
            return None;
        }
        let mut key = if let Some(block) = bytes[start..].first_chunk::<32>() {
            words_of(block)
        } else {
            let mut block = [0; 32];
            block[..length].copy_from_slice(&bytes[start..end]);
            words_of(&block)
        };
        for (word, mask) in key.iter_mut().zip(&MASKS[length]) {
            *word &= mask;
        }
        key[3] |= (length as u64) << 56;
        Some(Self(key))
    }

    #[inline]
    fn slot(&self) -> usize {
        let [a, b, c, d] = self.0;
        let low = fold(a ^ 0x9e37_79b9_7f4a_7c15, b ^ 0xd1b5_4a32_d192_ed03);
        let high = fold(c ^ 0xaef1_7502_108e_f2d9, d ^ 0xdb4f_0b91_75ae_2165);
        (fold(low ^ 0xbb67_ae85_84ca_a73b, high ^ 0x3c6e_f372_fe94_f82b) >> (64 - SLOT_BITS))
            as usize
    }
}

#[inline]
fn words_of(block: &[u8; 32]) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(block.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

/// Mixes two words by their product's halves.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

impl WordCache {
    /// Appends the ids of a word, if it is there.
    #[inline]
    pub fn recall(&self, key: &Key, ids: &mut Vec<u32>) -> bool {
        let slot = &self.slots[key.slot()];
        if slot.key != *key {
            return false;
        }
        match slot.count {
            1 => ids.push(slot.ids[0]),
            count => ids.extend_from_slice(&slot.ids[..count as usize]),
        }
        true
    }

    pub fn remember(&mut self, key: &Key, ids: &[u32]) {
        let slot = &mut self.slots[key.slot()];
        if let Some(own) = slot.ids.get_mut(..ids.len()) {
            own.copy_from_slice(ids);
            slot.key = *key;
            slot.count = ids.len() as u32;
        }
    }
}

impl Default for WordCache {
    fn default() -> Self {
        let free = Slot {
            key: Key([0; 4]),
            ids: [0; WORD_IDS_MAX],
            count: 0,
        };
        Self {
            slots: vec![free; 1 << SLOT_BITS],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_differ_have_keys_that_differ() {
        let text: Vec<u8> = (0..80).map(|byte| byte % 3).collect();
        let mut seen: Vec<(Key, &[u8])> = Vec::new();
        for start in 0..text.len() {
            for end in start + 1..text.len().min(start + WORD_BYTES_MAX) {
                let key = Key::of(&text, start, end).expect("the word is short");
                let word = &text[start..end];
                for (other, theirs) in &seen {
                    assert_eq!(key == *other, word == *theirs);
                }
                if seen.len() < 400 {
                    seen.push((key, word));
                }
            }
        }
        assert!(Key::of(&text, 0, WORD_BYTES_MAX).is_some());
        assert!(Key::of(&text, 0, WORD_BYTES_MAX + 1).is_none());
    }

    #[test]
    fn a_word_comes_back_unless_another_took_its_slot() {
        let mut cache = WordCache::default();
        let key = Key::of(b"fever", 0, 5).expect("the word is short");
        let mut ids = vec![9];
        assert!(!cache.recall(&key, &mut ids));
        cache.remember(&key, &[1, 2, 3]);
        assert!(cache.recall(&key, &mut ids));
        assert_eq!(ids, [9, 1, 2, 3]);
        cache.remember(&key, &[0; WORD_IDS_MAX + 1]);
        assert!(cache.recall(&key, &mut ids));
        assert_eq!(ids[4..], [1, 2, 3]);
    }
}
