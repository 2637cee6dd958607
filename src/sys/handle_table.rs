//! Many file handles, each with a small number. Pure.
//!
//! Handles of one file system have one length, so they stand in rows of one arena; whatever has another form is kept aside.
//! A row and its place in the hash table take the handle's length and about ten bytes.

use std::collections::HashMap;
use std::hash::BuildHasher as _;

use hashbrown::HashTable;

use super::handle::Handle;

/// Rows of one chunk: growing copies nothing and wastes little.
const CHUNK_ROWS: usize = 4096;

/// The table.
#[derive(Debug, Default)]
pub struct HandleTable {
    /// What nearly all have: kind and length.
    form: Option<(i32, usize)>,
    chunks: Vec<Box<[u8]>>,
    rows: u32,
    free: Vec<u32>,
    numbers: HashTable<u32>,
    /// Those of another form, as kind and bytes; and which numbers they have.
    odd: HashMap<(i32, Box<[u8]>), u32>,
    odd_numbers: HashMap<u32, (i32, Box<[u8]>)>,
    hasher: foldhash::fast::RandomState,
}

impl HandleTable {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.numbers.len() + self.odd.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of a handle.
    #[must_use]
    pub fn find(&self, handle: Handle<'_>) -> Option<u32> {
        if self.form != Some((handle.kind, handle.bytes.len())) {
            return if self.odd.is_empty() { None } else { self.odd.get(&(handle.kind, handle.bytes.into())).copied() };
        }
        let hash = self.hasher.hash_one(handle.bytes);
        self.numbers.find(hash, |number| self.row(*number) == handle.bytes).copied()
    }

    /// The number of a handle, which gets the lowest free one if it has none.
    pub fn insert(&mut self, handle: Handle<'_>) -> u32 {
        if let Some(number) = self.find(handle) {
            return number;
        }
        let form = *self.form.get_or_insert((handle.kind, handle.bytes.len()));
        let number = self.free.pop().unwrap_or_else(|| {
            self.rows += 1;
            self.rows - 1
        });
        if form != (handle.kind, handle.bytes.len()) {
            let key: (i32, Box<[u8]>) = (handle.kind, handle.bytes.into());
            self.odd.insert(key.clone(), number);
            self.odd_numbers.insert(number, key);
            return number;
        }
        let (chunk, from) = (number as usize / CHUNK_ROWS, number as usize % CHUNK_ROWS * form.1);
        while self.chunks.len() <= chunk {
            self.chunks.push(vec![0; CHUNK_ROWS * form.1].into());
        }
        self.chunks[chunk][from..from + form.1].copy_from_slice(handle.bytes);
        let hash = self.hasher.hash_one(handle.bytes);
        let (chunks, hasher) = (&self.chunks, &self.hasher);
        self.numbers.insert_unique(hash, number, |number| hasher.hash_one(row(chunks, form.1, *number)));
        number
    }

    /// Forgets the handle with this number, which may be given to another one then. An unknown number is no error.
    pub fn remove(&mut self, number: u32) {
        if let Some(key) = self.odd_numbers.remove(&number) {
            self.odd.remove(&key);
            self.free.push(number);
            return;
        }
        if self.form.is_none() || number >= self.rows {
            return;
        }
        let hash = self.hasher.hash_one(self.row(number));
        if let Ok(entry) = self.numbers.find_entry(hash, |known| *known == number) {
            entry.remove();
            self.free.push(number);
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        *self = Self { hasher: self.hasher.clone(), ..Self::default() };
    }

    fn row(&self, number: u32) -> &[u8] {
        row(&self.chunks, self.form.map_or(0, |(_, length)| length), number)
    }
}

fn row(chunks: &[Box<[u8]>], length: usize, number: u32) -> &[u8] {
    let from = number as usize % CHUNK_ROWS * length;
    chunks.get(number as usize / CHUNK_ROWS).and_then(|chunk| chunk.get(from..from + length)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_handles_are_found_by_their_bytes() {
        let mut table = HandleTable::default();
        let bytes = |number: u32| (u64::from(number) * 0x9e37_79b9).to_le_bytes();
        for number in 0..20_000 {
            assert_eq!(table.insert(Handle { kind: 1, bytes: &bytes(number) }), number);
        }
        for number in 0..20_000 {
            assert_eq!(table.find(Handle { kind: 1, bytes: &bytes(number) }), Some(number));
            assert_eq!(table.find(Handle { kind: 2, bytes: &bytes(number) }), None);
        }
    }

    proptest::proptest! {
        /// Against a plain map: the same handles are known, and no two have the same number.
        #[test]
        fn it_holds_what_a_map_would(
            steps in proptest::collection::vec((proptest::prelude::any::<bool>(), 0_u8..12, 1_usize..4, 1_i32..3), 0..80),
        ) {
            let mut table = HandleTable::default();
            let mut model: HashMap<(i32, Vec<u8>), u32> = HashMap::new();
            for (insert, byte, length, kind) in steps {
                let bytes = vec![byte; length];
                let handle = Handle { kind, bytes: &bytes };
                let key = (kind, bytes.clone());
                if insert {
                    let number = table.insert(handle);
                    assert!(model.iter().all(|(other, known)| *known != number || *other == key));
                    let known = model.insert(key, number);
                    assert!(known.is_none_or(|known| known == number));
                } else if let Some(number) = model.remove(&key) {
                    table.remove(number);
                    table.remove(number);
                }
                assert_eq!(table.len(), model.len());
                for ((kind, bytes), number) in &model {
                    assert_eq!(table.find(Handle { kind: *kind, bytes }), Some(*number));
                }
                assert_eq!(table.find(handle), model.get(&(kind, bytes.clone())).copied());
            }
        }
    }
}
