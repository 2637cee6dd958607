//! What an agent can be asked.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::PROTOCOL;
use crate::path::{self, RelPath};

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`PROTOCOL`] of whoever asks.
    pub protocol: u32,
    /// What is asked.
    #[serde(flatten)]
    pub command: Command,
}

/// What is asked. Without a root it is asked of all roots, without a target of all their targets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// The names of the roots, where they are, and the names of their targets.
    Roots,
    /// How everything is.
    Status {
        /// Which root.
        root: Option<String>,
    },
    /// Answers when everything that changed before the request is on the target.
    Wait {
        /// Which root.
        root: Option<String>,
        /// Which target.
        target: Option<String>,
        /// Give up after this. Unit: milliseconds. `None`: never.
        timeout_ms: Option<u64>,
    },
    /// Begins no batches until `resume`; changes are kept.
    Pause {
        /// Which root.
        root: Option<String>,
        /// Which target.
        target: Option<String>,
    },
    /// Takes a `pause` back.
    Resume {
        /// Which root.
        root: Option<String>,
        /// Which target.
        target: Option<String>,
    },
    /// Compares a path and everything beneath it, in the background.
    Rescan {
        /// Which root.
        root: Option<String>,
        /// What; the whole root when it is left out.
        path: Option<WirePath>,
    },
    /// What failed and waits is tried at once, and a target that takes nothing is asked at once.
    Retry {
        /// Which root.
        root: Option<String>,
        /// Which target.
        target: Option<String>,
        /// At or beneath this path only.
        path: Option<WirePath>,
    },
    /// Lets the held deletes go.
    Approve {
        /// Which root.
        root: Option<String>,
        /// Which target.
        target: Option<String>,
    },
    /// What is known of one path.
    Explain {
        /// Which root; may be left out when there is one.
        root: Option<String>,
        /// Which path.
        path: WirePath,
        /// It is a directory, which some filter rules ask for.
        #[serde(default)]
        directory: bool,
    },
}

impl Request {
    /// This command in the version of this program.
    #[must_use]
    pub fn new(command: Command) -> Self {
        Self { protocol: PROTOCOL, command }
    }

    /// Reads a request from its line.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(line: &[u8]) -> Result<Self, String> {
        let request: Self = serde_json::from_slice(line).map_err(|error| format!("not a request: {error}"))?;
        if request.protocol != PROTOCOL {
            return Err(format!("protocol {} is not spoken here, {PROTOCOL} is", request.protocol));
        }
        Ok(request)
    }

    /// The request as a line with its end.
    #[must_use]
    pub fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// A path of a request or an answer, in its escaped form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WirePath(pub RelPath);

impl Serialize for WirePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for WirePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let text = String::deserialize(deserializer)?;
        if text == "." {
            return Ok(Self(RelPath::root()));
        }
        let bytes = path::unescaped(&text).ok_or_else(|| D::Error::custom("a path with a wrong escape"))?;
        RelPath::parse(&bytes).map(Self).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(bytes: &[u8]) -> WirePath {
        WirePath(RelPath::parse(bytes).unwrap())
    }

    #[test]
    fn requests_are_what_people_can_write_by_hand() {
        let check = |text: &str, command: Command| {
            let request = Request::parse(text.as_bytes()).unwrap();
            assert_eq!(request.command, command, "{text}");
            assert_eq!(Request::parse(&request.line()), Ok(request), "{text}");
        };
        check(r#"{"protocol":1,"command":"status"}"#, Command::Status { root: None });
        check(
            r#"{"protocol":1,"command":"wait","root":"data","timeout_ms":5,"new":1}"#,
            Command::Wait { root: Some("data".to_owned()), target: None, timeout_ms: Some(5) },
        );
        check(
            r#"{"command":"explain","path":"a\\\\b\\xff\\n","protocol":1}"#,
            Command::Explain { root: None, path: path(b"a\\b\xff\n"), directory: false },
        );
        check(
            r#"{"protocol":1,"command":"rescan","path":"."}"#,
            Command::Rescan { root: None, path: Some(WirePath(RelPath::root())) },
        );
    }

    #[test]
    fn what_is_no_request_is_refused_in_words() {
        let deep = format!("{{\"a\":{}", "[".repeat(60_000));
        for (text, words) in [
            ("", "not a request"),
            ("GET / HTTP/1.1", "not a request"),
            ("\u{0}", "not a request"),
            (deep.as_str(), "recursion limit"),
            (r#"{"protocol":1}"#, "command"),
            (r#"{"protocol":2,"command":"status"}"#, "protocol 2 is not spoken here"),
            (r#"{"protocol":1,"command":"fly"}"#, "fly"),
            (r#"{"protocol":1,"command":"explain","path":"a\\q"}"#, "wrong escape"),
            (r#"{"protocol":1,"command":"explain","path":"../a"}"#, "'..'"),
            (r#"{"protocol":1,"command":"explain","path":"a\u0000"}"#, "NUL"),
            (r#"{"protocol":1,"command":"explain","path":"/a"}"#, "empty path component"),
            (r#"{"protocol":-1,"command":"status"}"#, "not a request"),
        ] {
            let error = Request::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(words), "{}: {error}", &text[..text.len().min(60)]);
        }
        assert!(Request::parse(b"\xff\xfe").is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_line_makes_it_panic_and_every_path_survives(line: Vec<u8>, name in "[^/\u{0}]{1,40}", odd: Vec<u8>) {
            let _whatever = Request::parse(&line);
            let odd: Vec<u8> = odd.into_iter().filter(|byte| *byte != 0).collect();
            for bytes in [name.into_bytes(), odd] {
                let Ok(path) = RelPath::parse(&bytes) else { continue };
                let command = Command::Retry { root: None, target: None, path: Some(WirePath(path)) };
                let request = Request::new(command);
                proptest::prop_assert_eq!(Request::parse(&request.line()), Ok(request));
            }
        }
    }
}
