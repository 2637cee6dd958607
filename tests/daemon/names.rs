//! The names that churn gives: few, so that names come back with another content or type; hostile ones for every trap of
//! notes/rsync.md (lists, globs, comments, escapes in rsync's messages).
//!
//! Invariant: no name looks like an rsync temporary file (`.*.??????`) or an NFS silly rename (`.nfs` and 24 hex digits):
//! the agent may ignore those.

/// Which names a churn uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// Letters and digits.
    Plain,
    /// Plain ones and every name that could break a list, a message or a terminal.
    Hostile,
}

impl Names {
    /// All names, in a fixed order.
    pub fn list(self) -> Vec<Vec<u8>> {
        let mut list: Vec<Vec<u8>> = (0..24).map(|number| format!("n{number}").into_bytes()).collect();
        list.extend([&b"data.txt"[..], b"Makefile", b"a-b_c.d", b".hidden"].map(<[u8]>::to_vec));
        if self == Self::Hostile {
            list.truncate(8);
            list.extend(HOSTILE.iter().map(|name| name.to_vec()));
            // NAME_MAX: no room for rsync's temporary name unless rsync shortens it.
            list.push(vec![b'L'; 255]);
            list.push([&[b'L'; 254][..], b"#"].concat());
            list.push(vec![0xff; 255]);
            list.push("é".repeat(127).into_bytes());
            list.push([&[b'*'; 200][..], b"\n"].concat());
        }
        list
    }
}

const HOSTILE: &[&[u8]] = &[
    b"new\nline",
    b"\n",
    b"\r",
    b"a\r\n",
    b"-rf",
    b"--delete",
    b"-",
    b"#hash",
    b"#",
    b";semi",
    b";",
    b"*",
    b"**",
    b"?",
    b"n*",
    b"a*?[b]",
    b"[a-z]",
    b"[",
    b"\xff\xfe",
    b"bad\x80utf",
    b"\xc3",
    b"back\\slash",
    b"\\",
    b"end\\",
    b"\\#123",
    b"\\#012",
    b"\\n",
    b"quote\"d",
    b"it's",
    b" lead",
    b"trail ",
    b" ",
    b"  two  ",
    b"\t",
    b"tab\tbed",
    b"...",
    b"..x",
    b". x",
    b" failed: x",
    b"x failed: No such file or directory (2)",
    b"file has vanished: \"n1\"",
    b"*deleting   n1",
    b"deleting n1",
    b"rsync: [sender] n1",
    b"\x7f",
    b"\x01\x02\x1b[31m",
    b"%n%i%%",
    b"$HOME",
    b"`id`",
    b"host::module",
    b"rsync:",
    b"a:b",
    b"~",
    b"+ n1",
    b"- n1",
    b"P n1",
    b"!",
    b"merge .x",
    b"\xf0\x9f\xa6\x80",
    b"\xe2\x80\xae\xe2\x80\xa8",
    b"e\xcc\x81",
    b"\xc3\xa9",
];

/// Whether the agent is free to ignore `name`.
pub fn reserved(name: &[u8]) -> bool {
    let temporary = |length: usize| {
        // `.*.??????`: a dot, anything, a dot and six characters.
        name.len() > length + 1 && name[0] == b'.' && name[name.len() - length - 1] == b'.'
    };
    let characters: Vec<char> = String::from_utf8_lossy(name).chars().collect();
    let temporary_as_text = characters.len() > 7 && characters[0] == '.' && characters[characters.len() - 7] == '.';
    let silly =
        name.strip_prefix(b".nfs").is_some_and(|rest| rest.len() == 24 && rest.iter().all(u8::is_ascii_hexdigit));
    temporary(6) || temporary_as_text || silly
}

#[test]
fn no_name_is_reserved_or_given_twice() {
    assert!(reserved(b".file.Ab12Cd"));
    assert!(reserved(b"..123456"));
    assert!(reserved(b".nfs0123456789abcdef01234567"));
    assert!(!reserved(b"file.Ab12Cd"));
    assert!(!reserved(b"..."));
    for names in [Names::Plain, Names::Hostile] {
        let mut list = names.list();
        for name in &list {
            assert!(!reserved(name) && !name.is_empty() && name.len() <= 255 && !name.contains(&b'/'), "{name:?}");
        }
        let given = list.len();
        list.sort();
        list.dedup();
        assert_eq!(list.len(), given);
    }
}
