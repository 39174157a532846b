//! Where values come from: flags, what `POST /restart` set, the environment, a `.env` file, a TOML file, in that order of
//! precedence.
//!
//! `.env` files are read as operators' tools write them: `NAME=value`, the value literal to the end of the line, quotes
//! kept. `DOTENV_PATH` names a file ending in `.env` or a directory that holds one; without it `./.env` is read if it is
//! there. The TOML file is named by `--config` or `WEIR_CONFIG`, else `./weir.toml` if it is there; its keys are the
//! property names, its values strings, booleans, numbers or arrays of strings.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// What the process finds around it; made by `main`, made up by tests.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Values given by command-line flags, by property name.
    pub flags: BTreeMap<String, String>,
    /// Properties set through `POST /restart`, and the file they are kept in. They win over the environment, because they
    /// were set later.
    pub restarted: Option<(PathBuf, BTreeMap<String, String>)>,
    /// The process environment.
    pub environment: BTreeMap<String, String>,
    /// Working directory, where `.env` and `weir.toml` are looked for.
    pub directory: PathBuf,
    /// The machine's own address towards the world, if it has one.
    pub machine_address: Option<IpAddr>,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A command-line flag.
    Flag,
    /// The environment.
    Environment,
    /// A file.
    File(PathBuf),
    /// The built-in default.
    Default,
    /// Worked out from other values.
    Derived,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Environment => f.write_str("environment"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => f.write_str("default"),
            Self::Derived => f.write_str("derived"),
        }
    }
}

/// One source with its values.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Which source.
    pub origin: Origin,
    /// Values by property name.
    pub values: BTreeMap<String, String>,
}

/// Problem with a source as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct SourceError {
    /// The file.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

/// Reads all sources, highest precedence first. Unreadable files become errors, the rest is still read.
pub fn layers(around: &Surroundings) -> (Vec<Layer>, Vec<SourceError>) {
    let mut layers = vec![Layer { origin: Origin::Flag, values: around.flags.clone() }];
    layers.extend(
        around
            .restarted
            .iter()
            .map(|(path, values)| Layer { origin: Origin::File(path.clone()), values: values.clone() }),
    );
    layers.push(Layer { origin: Origin::Environment, values: around.environment.clone() });
    let mut errors = Vec::new();
    let dotenv = dotenv_path(around).map(|path| (path, parse_dotenv as Parser));
    let toml = toml_path(around).map(|path| (path, parse_toml as Parser));
    for (path, parse) in dotenv.into_iter().chain(toml) {
        let parsed = std::fs::read_to_string(&path).map_err(|e| e.to_string()).and_then(|text| parse(&text));
        match parsed {
            Ok(values) => layers.push(Layer { origin: Origin::File(path), values }),
            Err(message) => errors.push(SourceError { path: path.display().to_string(), message }),
        }
    }
    (layers, errors)
}

type Parser = fn(&str) -> Result<BTreeMap<String, String>, String>;

/// The `.env` file to read: the one `DOTENV_PATH` names (whether it exists or not), else `./.env` if it is there.
fn dotenv_path(around: &Surroundings) -> Option<PathBuf> {
    if let Some(given) = around.environment.get("DOTENV_PATH").filter(|p| !p.is_empty()) {
        let given = around.directory.join(given);
        let is_file = given.to_string_lossy().ends_with(".env") && !given.is_dir();
        return Some(if is_file { given } else { given.join(".env") });
    }
    existing(&around.directory.join(".env"))
}

fn toml_path(around: &Surroundings) -> Option<PathBuf> {
    let given = [&around.flags, &around.environment].into_iter().find_map(|m| m.get("WEIR_CONFIG"));
    match given.filter(|p| !p.is_empty()) {
        Some(path) => Some(around.directory.join(path)),
        None => existing(&around.directory.join("weir.toml")),
    }
}

fn existing(path: &Path) -> Option<PathBuf> {
    path.is_file().then(|| path.to_owned())
}

/// Parses a `.env` file. The error names the first bad line.
pub fn parse_dotenv(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut values = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.strip_suffix('\r').unwrap_or(line);
        let start = line.trim_start();
        if start.is_empty() || start.starts_with('#') {
            continue;
        }
        let (name, value) = start.split_once('=').ok_or_else(|| format!("line {}: no '='", index + 1))?;
        let name = name.trim();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(format!("line {}: '{name}' is no property name", index + 1));
        }
        values.insert(name.to_owned(), value.to_owned());
    }
    Ok(values)
}

/// Parses a TOML file into the same textual values.
pub fn parse_toml(text: &str) -> Result<BTreeMap<String, String>, String> {
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| e.to_string())?;
    table.into_iter().map(|(name, value)| toml_text(&name, &value).map(|text| (name, text))).collect()
}

fn toml_text(name: &str, value: &toml::Value) -> Result<String, String> {
    match value {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Boolean(_) | toml::Value::Integer(_) | toml::Value::Float(_) => Ok(value.to_string()),
        toml::Value::Array(items) => {
            let strings: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
            let strings = strings.ok_or_else(|| format!("{name}: an array may hold strings only"))?;
            Ok(serde_json::Value::from(strings).to_string())
        }
        _ => Err(format!("{name}: allowed are strings, booleans, numbers and arrays of strings")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dotenv_is_literal() {
        let text = "# comment\n\nA=1\r\n  B = x # not a comment\nC=\"q\"\nD=\nE=a=b\n";
        let values = parse_dotenv(text).unwrap();
        let expected = [("A", "1"), ("B ", ""), ("C", "\"q\""), ("D", ""), ("E", "a=b")];
        for (name, value) in expected.iter().filter(|(n, _)| *n != "B ") {
            assert_eq!(values.get(*name).map(String::as_str), Some(*value), "{name}");
        }
        assert_eq!(values["B"], " x # not a comment");
        assert_eq!(parse_dotenv("A=1\nnonsense\n"), Err("line 2: no '='".into()));
        assert!(parse_dotenv("a b=1").is_err());
    }

    #[test]
    fn toml_values_become_text() {
        let values = parse_toml("A = \"x\"\nB = true\nC = 5\nD = [\"a\", \"b\"]\n").unwrap();
        let got: Vec<_> = values.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(got, [("A", "x"), ("B", "true"), ("C", "5"), ("D", "[\"a\",\"b\"]")]);
        assert!(
            parse_toml("[table]\nA = 1\n").is_err()
                && parse_toml("A = [1]").is_err()
                && parse_toml("A").is_err()
        );
    }
}
