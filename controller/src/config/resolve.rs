//! From textual sources to typed values: looks names up by precedence, parses, and collects every error.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;

use super::property::{self, Kind, PROPERTIES};
use super::source::{Layer, Origin};
use super::value::Refused;

/// One refused value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{property} = {value} ({origin}): allowed: {allowed}")]
pub struct ValueError {
    /// Property name.
    pub property: String,
    /// The value, masked if it is a secret.
    pub value: String,
    /// Where it was set.
    pub origin: String,
    /// What is allowed.
    pub allowed: String,
}

/// A value with where it comes from, as `weir config check` prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The text.
    pub value: String,
    /// Its source.
    pub origin: Origin,
}

/// Without the value, which may be a secret.
impl fmt::Debug for Resolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resolved({})", self.origin)
    }
}

/// Reads properties out of layers; one per start.
#[derive(Debug)]
pub struct Resolver {
    layers: Vec<Layer>,
    /// Every value asked for so far.
    pub resolved: BTreeMap<&'static str, Resolved>,
    /// Every value refused so far.
    pub errors: Vec<ValueError>,
}

impl Resolver {
    /// `layers`: highest precedence first.
    pub fn new(layers: Vec<Layer>) -> Self {
        Self { layers, resolved: BTreeMap::new(), errors: Vec::new() }
    }

    /// The text of `name` as set by someone, or `None`. An empty value in the environment counts as set only for
    /// properties that are free text; a blank one of another type is refused by its parser, as OpenVidu does.
    pub fn given(&self, name: &str) -> Option<Resolved> {
        let found = self.layers.iter().find_map(|l| Some((l.values.get(name)?, &l.origin)));
        found.map(|(value, origin)| Resolved { value: value.clone(), origin: origin.clone() })
    }

    /// Parses `name`, or its default from the table; a refused value is noted and the default used instead.
    ///
    /// # Panics
    /// If the table has no such name, or its default does not parse: our own mistakes.
    pub fn value<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Result<T, Refused>) -> T {
        let default = property::find(name).expect("name is in the table").default;
        self.optional(name, &parse).unwrap_or_else(|| {
            self.note(name, default.to_owned(), Origin::Default);
            parse(default).unwrap_or_else(|e| panic!("default of {name}: {e}"))
        })
    }

    /// Parses `name` if it is set and not blank; a refused value is noted and counts as not set.
    pub fn optional<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, Refused>,
    ) -> Option<T> {
        let given = self.given(name)?;
        let has_default = property::find(name).is_some_and(|p| !p.default.is_empty());
        if given.value.trim().is_empty() && !has_default {
            return None;
        }
        match parse(given.value.trim()) {
            Ok(value) => {
                self.note(name, given.value, given.origin);
                Some(value)
            }
            Err(allowed) => {
                self.refuse(name, &given.value, &given.origin, allowed);
                None
            }
        }
    }

    /// As [`Resolver::optional`], with a default worked out by the caller.
    pub fn derived<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, Refused>,
        default: impl FnOnce() -> T,
        text: impl Fn(&T) -> String,
    ) -> T {
        self.optional(name, parse).unwrap_or_else(|| {
            let value = default();
            self.note(name, text(&value), Origin::Derived);
            value
        })
    }

    /// Notes a value for the print-out.
    pub fn note(&mut self, name: &'static str, value: String, origin: Origin) {
        self.resolved.insert(name, Resolved { value, origin });
    }

    /// Notes an error about a value that parsed but cannot be.
    pub fn refuse_set(&mut self, name: &'static str, allowed: &str) {
        let shown = self.resolved.get(name).cloned().or_else(|| self.given(name));
        let shown = shown.unwrap_or(Resolved { value: String::new(), origin: Origin::Default });
        self.refuse(name, &shown.value, &shown.origin, allowed.to_owned());
    }

    fn refuse(&mut self, name: &str, value: &str, origin: &Origin, allowed: String) {
        let value = masked(name, value);
        let error = ValueError { property: name.to_owned(), value, origin: origin.to_string(), allowed };
        if !self.errors.contains(&error) {
            self.errors.push(error);
        }
    }

    /// What happens to set names that have no effect: `NAME: sentence`.
    pub fn warnings(&self) -> Vec<String> {
        let mut names: Vec<&String> = self.layers.iter().flat_map(|l| l.values.keys()).collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter().filter_map(|n| property::no_effect(n).map(|why| format!("{n}: {why}"))).collect()
    }
}

/// The value as it may be shown.
pub fn masked(name: &str, value: &str) -> String {
    let secret = property::find(name).is_some_and(|p| p.kind == Kind::Secret);
    let harmless = value.is_empty() || value == "[]" || value == super::DEFAULT_SECRET;
    if secret && !harmless { "****".to_owned() } else { format!("{value:?}").trim_matches('"').to_owned() }
}

/// The print-out of `weir config check`: name, value, origin, one per line, in table order.
pub fn print_out(resolved: &BTreeMap<&'static str, Resolved>) -> String {
    let known = PROPERTIES.iter().filter_map(|p| Some((p.name, resolved.get(p.name)?)));
    known.map(|(name, r)| format!("{name}={}  ({})\n", masked(name, &r.value), r.origin)).collect()
}
