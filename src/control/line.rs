//! Lines out of a stream, bounded.

/// What is to be read next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A whole line, without its end.
    Whole(Vec<u8>),
    /// More bytes are needed.
    More,
    /// The line is longer than the bound: nothing after it can be trusted.
    TooLong,
}

/// Bytes of a stream that wait to become lines.
#[derive(Debug)]
pub struct LineBuffer {
    bytes: Vec<u8>,
    max: usize,
}

impl LineBuffer {
    /// For lines of at most `max` bytes, their ends included.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { bytes: Vec::new(), max }
    }

    /// How many more bytes it takes: never more than one line is kept.
    #[must_use]
    pub fn room(&self) -> usize {
        self.max.saturating_sub(self.bytes.len())
    }

    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the next line; empty ones are passed over.
    pub fn take(&mut self) -> Line {
        loop {
            let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') else {
                return if self.room() == 0 { Line::TooLong } else { Line::More };
            };
            let mut line: Vec<u8> = self.bytes.drain(..=end).collect();
            line.pop();
            if !line.trim_ascii().is_empty() {
                return Line::Whole(line);
            }
        }
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_however_they_came_in() {
        let mut buffer = LineBuffer::new(8);
        assert_eq!(buffer.take(), Line::More);
        buffer.push(b"ab");
        assert_eq!((buffer.take(), buffer.room()), (Line::More, 6));
        buffer.push(b"c\n\n \nd\n");
        assert_eq!(buffer.take(), Line::Whole(b"abc".to_vec()));
        assert_eq!(buffer.take(), Line::Whole(b"d".to_vec()));
        assert_eq!(buffer.take(), Line::More);
        assert!(buffer.is_empty());
        buffer.push(b"1234567\n");
        assert_eq!(buffer.take(), Line::Whole(b"1234567".to_vec()));
        buffer.push(b"12345678");
        assert_eq!((buffer.take(), buffer.room()), (Line::TooLong, 0));
    }
}
