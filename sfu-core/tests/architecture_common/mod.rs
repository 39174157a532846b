//! Reads the sources of a crate as far as the layer rules need it: modules, the paths they name, and their length.
//!
//! No parser of Rust: comments, strings and test modules are taken out, the rest is cut into words. Also used by
//! `controller/tests/architecture.rs`.
#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// One file of `src/`.
#[derive(Debug)]
pub(crate) struct Source {
    /// Relative to `src/`.
    pub(crate) path: String,
    /// `wire/rtcp/nack.rs` is `[wire, rtcp, nack]`, `wire/mod.rs` is `[wire]`.
    pub(crate) module: Vec<String>,
    /// As it stands.
    pub(crate) text: String,
    /// Words and signs of the code that ships.
    pub(crate) tokens: Vec<String>,
    /// Lines without test modules.
    pub(crate) lines: usize,
}

impl Source {
    pub(crate) fn new(path: &str, text: String) -> Source {
        let shipped = without_tests(&text);
        let mut module: Vec<String> =
            path.trim_end_matches(".rs").split('/').map(ToOwned::to_owned).collect();
        if module.last().is_some_and(|last| last == "mod") {
            module.pop();
        }
        let tokens = tokens(&without_comments(&shipped));
        Source { path: path.into(), module, lines: shipped.lines().count(), tokens, text }
    }

    /// Whole files of tests, which the rules for shipped code leave out.
    pub(crate) fn is_test(&self) -> bool {
        self.module.iter().any(|part| part == "tests")
    }

    /// Whether the words `path` (`std::net::UdpSocket`) stand here in a row.
    pub(crate) fn names(&self, path: &str) -> bool {
        let wanted = tokens(path);
        self.tokens.windows(wanted.len()).any(|row| row == wanted)
    }

    /// Every path that begins at the crate's root (`crate::...`) or above this module (`super::...`), without `crate`.
    pub(crate) fn paths(&self) -> BTreeSet<Vec<String>> {
        let mut found = BTreeSet::new();
        let mut at = 0;
        while at < self.tokens.len() {
            let begins = at == 0 || self.tokens[at - 1] != "::";
            let (mut base, mut next) = match &*self.tokens[at] {
                "crate" if begins => (Vec::new(), at + 1),
                "super" if begins => {
                    let mut supers = 1;
                    while self.token(at + 2 * supers) == "super" {
                        supers += 1;
                    }
                    let depth = self.module.len().saturating_sub(supers);
                    (self.module[..depth].to_vec(), at + 2 * supers - 1)
                }
                _ => {
                    at += 1;
                    continue;
                }
            };
            if self.token(next) == "::" {
                next += 1;
                self.tree(&mut next, &mut base, &mut found);
            }
            at = next.max(at + 1);
        }
        found
    }

    fn token(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| token)
    }

    /// Reads a path or a use tree at `at` and leaves `at` behind it.
    fn tree(&self, at: &mut usize, base: &mut Vec<String>, found: &mut BTreeSet<Vec<String>>) {
        let depth = base.len();
        if self.token(*at) == "{" {
            *at += 1;
            while !matches!(self.token(*at), "}" | "") {
                self.tree(at, base, found);
                // Past a rename, and to the next branch.
                while !matches!(self.token(*at), "," | "}" | "") {
                    *at += 1;
                }
                *at += usize::from(self.token(*at) == ",");
            }
            *at += 1;
        } else {
            base.push(self.token(*at).to_owned());
            *at += 1;
            if self.token(*at) == "::" && is_path_part(self.token(*at + 1)) {
                *at += 1;
                self.tree(at, base, found);
            } else {
                found.insert(base.clone());
            }
        }
        base.truncate(depth);
    }
}

fn is_path_part(token: &str) -> bool {
    token == "{" || token == "*" || token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Every `.rs` file below `src`.
pub(crate) fn read(src: &Path) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut folders = vec![src.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the folder can be listed") {
            let path: PathBuf = entry.expect("the folder can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source can be read");
                let relative =
                    path.strip_prefix(src).expect("below src").to_string_lossy().replace('\\', "/");
                sources.push(Source::new(&relative, text));
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!sources.is_empty(), "no sources in {}", src.display());
    sources
}

/// Leaves out `#[cfg(test)]` items that begin in the first column.
fn without_tests(text: &str) -> String {
    let mut kept = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line != "#[cfg(test)]" {
            kept.push_str(line);
            kept.push('\n');
            continue;
        }
        // One line, or a block to the closing bracket in the first column.
        let block = lines.next().is_some_and(|item| !item.trim_end().ends_with(';'));
        while block && lines.next().is_some_and(|line| line != "}") {}
    }
    kept
}

/// Replaces comments and the contents of strings and character literals by blanks.
fn without_comments(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::new();
    let mut at = 0;
    let from = |at: usize, n: usize| chars.get(at..at + n).map(|row| row.iter().collect::<String>());
    while let Some(&c) = chars.get(at) {
        let next = chars.get(at + 1).copied();
        if c == '/' && next == Some('/') {
            while chars.get(at).is_some_and(|c| *c != '\n') {
                at += 1;
            }
        } else if c == '/' && next == Some('*') {
            at += 2;
            while at < chars.len() && from(at, 2).as_deref() != Some("*/") {
                at += 1;
            }
            at += 2;
        } else if c == 'r' && matches!(next, Some('"' | '#')) && raw_string(&chars, at).is_some() {
            at = raw_string(&chars, at).expect("checked");
            out.push_str("\"\"");
        } else if c == '"' {
            at += 1;
            while chars.get(at).is_some_and(|c| *c != '"') {
                at += if chars[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
            out.push_str("\"\"");
        } else if c == '\'' && (next == Some('\\') || chars.get(at + 2) == Some(&'\'')) {
            // A character, not a lifetime.
            at += if next == Some('\\') { 3 } else { 2 };
            while chars.get(at).is_some_and(|c| *c != '\'') {
                at += 1;
            }
            at += 1;
        } else {
            out.push(c);
            at += 1;
        }
    }
    out
}

/// End of the raw string that begins at `at`, if one does.
fn raw_string(chars: &[char], at: usize) -> Option<usize> {
    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
    if chars.get(at + 1 + hashes) != Some(&'"') {
        return None;
    }
    let mut end = at + 2 + hashes;
    while end < chars.len() {
        if chars[end] == '"' && chars[end + 1..].iter().take_while(|c| **c == '#').count() >= hashes {
            return Some(end + 1 + hashes);
        }
        end += 1;
    }
    Some(end)
}

/// Words, `::`, and single signs.
fn tokens(code: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut word = String::new();
    let mut chars = code.chars().peekable();
    while let Some(c) = chars.next() {
        if c.is_alphanumeric() || c == '_' {
            word.push(c);
            continue;
        }
        if !word.is_empty() {
            tokens.push(std::mem::take(&mut word));
        }
        if c == ':' && chars.peek() == Some(&':') {
            chars.next();
            tokens.push("::".into());
        } else if !c.is_whitespace() {
            tokens.push(c.into());
        }
    }
    if !word.is_empty() {
        tokens.push(word);
    }
    tokens
}

/// The layers of a crate.
pub(crate) struct Rules<'a> {
    /// Module and rank. A module imports from lower ranks only. A module named with two parts (`control::proto`) has a
    /// rank of its own; the longer name wins.
    pub(crate) ranks: &'a [(&'a str, u8)],
    /// (from, to, why): imports that are taken all the same.
    pub(crate) allowed: &'a [(&'a str, &'a str, &'a str)],
}

impl Rules<'_> {
    /// The entry that a path belongs to.
    pub(crate) fn layer(&self, path: &[String]) -> Option<(&str, u8)> {
        let two = path.iter().take(2).cloned().collect::<Vec<_>>().join("::");
        let one = path.first()?;
        let find = |name: &str| self.ranks.iter().find(|(known, _)| *known == name).copied();
        find(&two).or_else(|| find(one))
    }

    /// Every import that breaks the rules, and every allowance that nobody needs.
    pub(crate) fn violations(&self, sources: &[Source]) -> Vec<String> {
        let mut violations = Vec::new();
        let mut used = BTreeSet::new();
        for source in sources.iter().filter(|source| !source.is_test()) {
            let Some((from, rank)) = self.layer(&source.module) else {
                violations.push(format!("{} belongs to no layer", source.path));
                continue;
            };
            for path in source.paths() {
                let Some((to, below)) = self.layer(&path) else { continue };
                if to == from || below < rank {
                    continue;
                }
                if self.allowed.iter().any(|(a, b, _)| (*a, *b) == (from, to)) {
                    used.insert((from, to));
                } else {
                    violations.push(format!("{} ({from}) imports {}", source.path, path.join("::")));
                }
            }
        }
        for (from, to, _) in self.allowed {
            if !used.contains(&(*from, *to)) {
                violations.push(format!("the allowance from {from} to {to} is not needed any more"));
            }
        }
        violations
    }
}

/// Files that do not open with `//!`, and files above 600 lines.
pub(crate) fn shape_violations(sources: &[Source]) -> Vec<String> {
    let mut violations = Vec::new();
    for source in sources {
        if !source.text.starts_with("//!") {
            violations.push(format!("{} does not open with //!", source.path));
        }
        if source.lines > LINES_MAX && !source.is_test() {
            violations.push(format!("{} has {} lines", source.path, source.lines));
        }
    }
    violations
}

/// Lines of a file, test modules left out.
const LINES_MAX: usize = 600;

/// Sockets, clocks, threads, files and async: nothing for code that is given time and bytes.
pub(crate) const IMPURE: &[&str] = &[
    "UdpSocket",
    "TcpStream",
    "TcpListener",
    "UnixStream",
    "Instant::now",
    "SystemTime::now",
    "std::thread",
    "thread::spawn",
    "thread::sleep",
    "std::fs",
    "std::env",
    "std::process",
    "tokio",
    "async",
    "await",
    "Mutex",
    "RwLock",
    "println",
    "eprintln",
];

/// Files of `pure` modules that name something impure. `allowed`: (file, name, why).
pub(crate) fn impurities(
    sources: &[Source],
    pure: impl Fn(&Source) -> bool,
    allowed: &[(&str, &str, &str)],
) -> Vec<String> {
    let mut violations = Vec::new();
    let mut used = 0;
    for source in sources.iter().filter(|source| !source.is_test() && pure(source)) {
        for name in IMPURE.iter().filter(|name| source.names(name)) {
            if allowed.iter().any(|(file, what, _)| (*file, *what) == (&*source.path, *name)) {
                used += 1;
            } else {
                violations.push(format!("{} names {name}", source.path));
            }
        }
    }
    if used != allowed.len() {
        violations.push("an allowance is not needed any more".into());
    }
    violations
}

/// Files of `pure` modules that neither say `#![forbid(unsafe_code)]` nor lie in a module that does.
pub(crate) fn without_forbid(sources: &[Source], pure: impl Fn(&Source) -> bool) -> Vec<String> {
    let forbids: BTreeSet<&[String]> = sources
        .iter()
        .filter(|source| source.names("forbid(unsafe_code)"))
        .map(|source| &source.module[..])
        .collect();
    let covered =
        |source: &Source| (1..=source.module.len()).any(|len| forbids.contains(&source.module[..len]));
    let lacking = sources.iter().filter(|source| pure(source) && !covered(source));
    lacking.map(|source| source.path.clone()).collect()
}
