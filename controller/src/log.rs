//! The event log as its readers see it: what an entry is, how far a reader got, where entries come from.
//!
//! ```text
//! Output::Record ─▶ LoggedEvent ─▶ store, same commit as its cause ─▶ Log::events ─▶ webhook, CDR
//!                                                                  ◀─ Log::advance ── cursor
//! ```

use std::future::Future;
use std::pin::Pin;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::session::EventRecord;

/// An event as it is kept: its text is made once and leaves in two wrappings (`events.md` sections 1 and 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedEvent {
    /// Name, such as `participantJoined`.
    pub name: String,
    /// UTC, milliseconds.
    pub timestamp: u64,
    /// All properties but the name: the text of a JSON object with one member at least.
    body: String,
}

impl From<EventRecord> for LoggedEvent {
    fn from(record: EventRecord) -> Self {
        let EventRecord { event, timestamp, mut fields } = record;
        fields.insert("timestamp".into(), timestamp.into());
        Self { name: event.to_owned(), timestamp, body: serde_json::Value::Object(fields).to_string() }
    }
}

impl LoggedEvent {
    /// Body of the webhook's POST.
    pub fn webhook_body(&self) -> String {
        // Names are made of letters: they need no escaping.
        format!("{{\"event\":\"{}\",{}", self.name, &self.body[1..])
    }

    /// Line of the CDR file, without its end.
    pub fn cdr_line(&self) -> String {
        format!("{{\"{}\":{}}}", self.name, self.body)
    }

    /// As it is stored: time (8 bytes), length of the name (1 byte), name, body.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(9 + self.name.len() + self.body.len());
        bytes.extend_from_slice(&self.timestamp.to_le_bytes());
        bytes.push(u8::try_from(self.name.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(self.name.as_bytes());
        bytes.extend_from_slice(self.body.as_bytes());
        bytes
    }

    /// Reads what [`LoggedEvent::encode`] wrote. `None`: it did not.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (time, rest) = bytes.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first()?;
        let (name, body) = rest.split_at_checked(usize::from(*length))?;
        let (name, body) = (std::str::from_utf8(name).ok()?, std::str::from_utf8(body).ok()?);
        let is_object = body.len() > 2 && body.starts_with('{') && body.ends_with('}');
        is_object.then(|| Self {
            name: name.to_owned(),
            timestamp: u64::from_le_bytes(*time),
            body: body.to_owned(),
        })
    }
}

/// How far a reader of the log is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Number of the last event that it is done with.
    pub seq: u64,
    /// What it wants to remember besides.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// What is ready some time later.
pub type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Where readers get events from.
pub trait Log: Send + Sync + 'static {
    /// Where a reader stood when the log was opened.
    fn cursor(&self, reader: &str) -> Cursor;

    /// Events behind number `after`, oldest first, and not all at once. Empty when there is none, or when they cannot be
    /// read now; that is logged.
    fn events(&self, after: u64) -> Later<Vec<(u64, LoggedEvent)>>;

    /// Turns to the number of the newest event that is on disk.
    fn end(&self) -> watch::Receiver<u64>;

    /// A reader is done with what is before the cursor, which is on disk soon: with the next commit, or a moment later.
    fn advance(&self, reader: &'static str, cursor: Cursor);

    /// The same; ready when the cursor is on disk. `false`: the log is closed.
    fn advance_now(&self, reader: &'static str, cursor: Cursor) -> Later<bool>;
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn both_wrappings_are_those_of_the_record() {
        let fields = json!({"sessionId": "s\"\n", "from": null, "to": ["é"]});
        let record = EventRecord::new("signalSent", 7, fields);
        let logged = LoggedEvent::from(record.clone());
        let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(parsed(&logged.webhook_body()), record.webhook_body());
        assert_eq!(parsed(&logged.cdr_line()), record.cdr_line());
        assert_eq!(LoggedEvent::decode(&logged.encode()), Some(logged));
    }

    #[test]
    fn nonsense_is_not_decoded() {
        let good = LoggedEvent::from(EventRecord::new("a", 1, json!({}))).encode();
        for cut in 0..good.len() {
            assert_eq!(LoggedEvent::decode(&good[..cut]), None, "{cut}");
        }
    }
}
