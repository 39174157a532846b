//! One entry of the event log: the same content leaves as webhook body and as CDR line (`events.md` sections 1 and 2).
#![forbid(unsafe_code)]

use serde_json::{Map, Value, json};

/// Something that happened, for webhook and call detail record.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRecord {
    /// Name, such as `participantJoined`.
    pub event: &'static str,
    /// UTC, milliseconds.
    pub timestamp: u64,
    /// All other properties.
    pub fields: Map<String, Value>,
}

impl EventRecord {
    /// An event with the properties of `fields`, which must be a JSON object.
    pub fn new(event: &'static str, timestamp: u64, fields: Value) -> Self {
        let Value::Object(fields) = fields else { unreachable!("event properties are written as an object") };
        Self { event, timestamp, fields }
    }

    /// Adds a property.
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(key.to_owned(), value.into());
        self
    }

    /// Adds what every closing event carries: `startTime`, `duration` (whole seconds, truncated) and `reason`.
    pub fn closing(self, start_time: u64, reason: &str) -> Self {
        let duration = self.timestamp.saturating_sub(start_time) / 1000;
        self.with("startTime", start_time).with("duration", duration).with("reason", reason)
    }

    /// Body of the webhook's POST: a flat object with `event` and `timestamp`.
    pub fn webhook_body(&self) -> Value {
        let mut body = self.fields.clone();
        body.insert("event".into(), self.event.into());
        body.insert("timestamp".into(), self.timestamp.into());
        Value::Object(body)
    }

    /// Line of the CDR file: `{"<event>": {...}}`, without `event` inside.
    pub fn cdr_line(&self) -> Value {
        let mut body = self.fields.clone();
        body.insert("timestamp".into(), self.timestamp.into());
        json!({ self.event: body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn webhook_and_cdr_hold_the_same_properties() {
        let record =
            EventRecord::new("sessionDestroyed", 5_999, json!({"sessionId": "s"})).closing(1_000, "x");
        assert_eq!(
            record.webhook_body(),
            json!({"event": "sessionDestroyed", "timestamp": 5999, "sessionId": "s", "startTime": 1000,
                   "duration": 4, "reason": "x"})
        );
        assert_eq!(
            record.cdr_line(),
            json!({"sessionDestroyed": {"timestamp": 5999, "sessionId": "s", "startTime": 1000, "duration": 4,
                   "reason": "x"}})
        );
    }
}
