//! The name of a file that is not in its place yet: `.NAME.XXXXXX`, as a receiving rsync makes it, so that what clears
//! away the one clears away the other, and what leaves out the one leaves out the other. Pure.

/// Most bytes of a name (`NAME_MAX`, limits.h).
const NAME_MAX: usize = 255;
/// A dot and six random characters.
const SUFFIX: usize = 7;
const LETTERS: &[u8; 62] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

/// A name for what is to become `name`; a long one is shortened, not within a character.
#[must_use]
pub fn name(name: &[u8], rng: &mut fastrand::Rng) -> Vec<u8> {
    let dots = name.iter().take_while(|byte| **byte == b'.').count();
    let bare = &name[dots..];
    let mut kept = &bare[..bare.len().min(NAME_MAX - 1 - SUFFIX - 1)];
    if bare.get(kept.len()).is_some_and(|cut| !cut.is_ascii()) {
        let text = kept.iter().rposition(u8::is_ascii).map_or(0, |last| last + 1);
        kept = &kept[..text];
    }
    let mut made = Vec::with_capacity(1 + kept.len() + SUFFIX);
    made.push(b'.');
    made.extend_from_slice(kept);
    if made.last() == Some(&b'.') {
        made.pop();
    }
    made.push(b'.');
    made.extend((1..SUFFIX).map(|_| LETTERS[rng.usize(..LETTERS.len())]));
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(of: &[u8]) -> Vec<u8> {
        let made = name(of, &mut fastrand::Rng::with_seed(1));
        assert!(made.len() <= NAME_MAX, "{}", made.len());
        let (start, random) = made.split_at(made.len() - SUFFIX + 1);
        assert!(random.iter().all(u8::is_ascii_alphanumeric));
        start.to_vec()
    }

    #[test]
    fn names_are_those_of_rsync() {
        let check = |of: &[u8], expected: &[u8]| {
            assert_eq!(bstr::BStr::new(&made(of)), bstr::BStr::new(expected), "{:?}", bstr::BStr::new(of));
        };
        check(b"a", b".a.");
        check(b"a.txt", b".a.txt.");
        check(b".hidden", b".hidden.");
        check(b"...x", b".x.");
        check(b"...", b".");
        check(b"a.", b".a.");
        check(b"\n\xff", b".\n\xff.");
        check(&[b'n'; 246], &[&b"."[..], &[b'n'; 246], b"."].concat());
        check(&[b'n'; 255], &[&b"."[..], &[b'n'; 246], b"."].concat());
        // Two bytes for each character, and an odd room for them.
        let umlauts = "\u{e4}".repeat(127);
        let after_one = [b"x", umlauts.as_bytes()].concat();
        let kept = made(&after_one);
        assert!(std::str::from_utf8(&kept).is_ok() && kept.starts_with(b".x"), "{kept:?}");
    }

    #[test]
    fn two_names_differ() {
        let mut rng = fastrand::Rng::with_seed(1);
        assert_ne!(name(b"a", &mut rng), name(b"a", &mut rng));
    }
}
