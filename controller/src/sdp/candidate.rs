//! The candidates that a description names (RFC 8839 §5.1), for whoever wants to look at them. The rules need none: the node is
//! ICE-lite.

/// A candidate as clients trickle it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IceCandidate {
    /// `candidate:` and what follows.
    pub candidate: String,
    /// Mid of its m-line.
    pub mid: Option<String>,
    /// Which m-line that is, from 0.
    pub line: Option<u16>,
}

/// The candidates of all m-lines of a description, in its order.
pub fn candidates(sdp: &str) -> Vec<IceCandidate> {
    let mut found = Vec::new();
    for (line, section) in (0..).zip(sdp.split("\nm=").skip(1)) {
        let attributes = || section.lines().filter_map(|line| line.trim_end().strip_prefix("a="));
        let mid = attributes().find_map(|attribute| attribute.strip_prefix("mid:"));
        found.extend(attributes().filter(|attribute| attribute.starts_with("candidate:")).map(|candidate| {
            IceCandidate { candidate: candidate.to_owned(), mid: mid.map(str::to_owned), line: Some(line) }
        }));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_belong_to_their_line() {
        let sdp = "v=0\r\na=candidate:0 none\r\nm=audio 9 x 0\r\na=candidate:1 a\r\na=mid:A\r\nm=video 9 x 0\r\n\
                   a=mid:V\r\na=candidate:2 b\r\na=candidate:3 c\r\nm=application 9 x 0\r\na=candidate:4 d";
        let found = candidates(sdp);
        let found: Vec<_> = found.iter().map(|c| (c.candidate.as_str(), c.mid.as_deref(), c.line)).collect();
        let expected = [
            ("candidate:1 a", Some("A"), Some(0)),
            ("candidate:2 b", Some("V"), Some(1)),
            ("candidate:3 c", Some("V"), Some(1)),
            ("candidate:4 d", None, Some(2)),
        ];
        assert_eq!(found, expected);
        assert_eq!(candidates("m="), []);
    }
}
