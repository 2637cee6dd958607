//! The names of many directories, end to end in a few large pieces of memory: two bytes of length, then the name.
//!
//! An allocation of its own for each name would cost two or three times as much. What is removed stays until
//! [`Names::is_wasteful`]; then whoever holds the handles copies what is left into a new store.

/// Where a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NameId(u32);

/// Names begin at multiples of this, so that 32 bits reach 16 GiB: 60 million of the usual longest. Unit: bytes.
const GRAIN: usize = 4;

/// One piece. Unit: bytes.
const PIECE: usize = 256 * 1024;

/// Less is not worth a copy. Unit: bytes.
const GARBAGE_MIN: usize = PIECE;

/// Names that are at most 65,535 bytes each. `NAME_MAX` is 255, but file systems that count characters, and those in user
/// space, have longer ones; the kernel itself ends at 4096.
#[derive(Debug, Default)]
pub(super) struct Names {
    pieces: Vec<Vec<u8>>,
    /// Bytes of names in use, with what they need around them.
    used: usize,
    garbage: usize,
}

/// What a name takes.
fn room(name: &[u8]) -> usize {
    (2 + name.len()).next_multiple_of(GRAIN)
}

impl Names {
    /// Keeps a copy of `name`.
    ///
    /// # Panics
    /// If it is longer than 65,535 bytes.
    pub(super) fn add(&mut self, name: &[u8]) -> NameId {
        let length = u16::try_from(name.len()).expect("a name is shorter than a path");
        let room = room(name);
        if self.pieces.last().is_none_or(|piece| piece.len() + room > PIECE) {
            self.pieces.push(Vec::with_capacity(PIECE));
        }
        let last = self.pieces.len() - 1;
        let piece = &mut self.pieces[last];
        let at = last * (PIECE / GRAIN) + piece.len() / GRAIN;
        let end = piece.len() + room;
        piece.extend_from_slice(&length.to_ne_bytes());
        piece.extend_from_slice(name);
        piece.resize(end, 0);
        self.used += room;
        NameId(u32::try_from(at).expect("names of less than 16 GiB in one shard"))
    }

    /// The name.
    pub(super) fn get(&self, name: NameId) -> &[u8] {
        let at = name.0 as usize * GRAIN;
        let piece = &self.pieces[at / PIECE][at % PIECE..];
        let length = usize::from(u16::from_ne_bytes([piece[0], piece[1]]));
        &piece[2..2 + length]
    }

    /// Nobody needs the name any more.
    pub(super) fn remove(&mut self, name: NameId) {
        let room = room(self.get(name));
        self.used -= room;
        self.garbage += room;
    }

    /// Whether more than half is garbage, and worth the copy of what is not.
    pub(super) fn is_wasteful(&self) -> bool {
        self.garbage > self.used && self.garbage >= GARBAGE_MIN
    }

    /// How many pieces there are.
    #[cfg(test)]
    pub(super) fn pieces(&self) -> usize {
        self.pieces.len()
    }
}
