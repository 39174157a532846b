//! Counters of the controller's port, and the text exposition at `/metrics`.

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Labels of a served request.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RequestLabels {
    /// Part of the server: `api`, `page`, `other`.
    pub part: &'static str,
    /// HTTP status.
    pub status: u16,
}

/// Counters of the port.
#[derive(Debug)]
pub struct HttpMetrics {
    /// Requests answered.
    pub requests: Family<RequestLabels, Counter>,
    /// Open TCP connections.
    pub connections: Gauge,
    /// Connections refused because of the cap.
    pub refused: Counter,
    /// Connections refused because of the cap for one address.
    pub refused_address: Counter,
    /// Connections closed because nothing happened on them.
    pub idle: Counter,
    /// Connections that failed before a request: TLS errors, time-outs.
    pub failed: Counter,
    /// Open WebSockets.
    pub sockets: Gauge,
    /// WebSockets cut because their client did not read.
    pub sockets_cut: Counter,
    /// WebSockets closed because of a message that nobody could want to send.
    pub messages_too_long: Counter,
    /// Sessions, active and not; kept by the shell.
    pub sessions: Gauge,
    /// REST requests whose answer is not there yet; kept by the shell.
    pub rest_waiting: Gauge,
    /// Events that a webhook or CDR did not get out; kept by the shell.
    pub events_dropped: Gauge,
    /// The store's; kept by the shell.
    pub store: StoreMetrics,
    registry: Registry,
}

/// Gauges of the store.
#[derive(Debug, Default)]
pub struct StoreMetrics {
    /// Commits so far.
    pub commits: Gauge,
    /// Commits refused by the disk so far.
    pub failures: Gauge,
    /// Batches that wait for the disk.
    pub waiting: Gauge,
    /// Events that a reader of the log has still to get out.
    pub log_events: Gauge,
    /// Events dropped because the log was full.
    pub log_dropped: Gauge,
}

impl StoreMetrics {
    fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for (name, help, gauge) in [
            ("store_commits", "Commits of the store", &metrics.commits),
            ("store_failures", "Commits that the disk refused", &metrics.failures),
            ("store_waiting", "Batches that wait for the disk", &metrics.waiting),
            ("event_log_events", "Events that webhook or CDR have to get out", &metrics.log_events),
            ("event_log_dropped", "Events dropped because the log was full", &metrics.log_dropped),
        ] {
            registry.register(name, help, gauge.clone());
        }
        metrics
    }
}

impl Default for HttpMetrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("weir");
        let requests = Family::default();
        let (connections, sockets) = (Gauge::default(), Gauge::default());
        let (refused, failed, sockets_cut) = (Counter::default(), Counter::default(), Counter::default());
        registry.register("http_requests", "HTTP requests answered", Family::clone(&requests));
        registry.register("http_connections", "Open TCP connections", connections.clone());
        registry.register("http_connections_refused", "Connections over the cap", refused.clone());
        let (refused_address, idle) = (Counter::default(), Counter::default());
        registry.register(
            "http_connections_refused_address",
            "Connections over the cap for one address",
            refused_address.clone(),
        );
        registry.register("http_connections_idle", "Connections closed for idleness", idle.clone());
        registry.register("http_connections_failed", "Connections without a request", failed.clone());
        registry.register("websockets", "Open WebSockets", sockets.clone());
        registry.register("websockets_cut", "WebSockets whose client did not read", sockets_cut.clone());
        let messages_too_long = Counter::default();
        registry.register(
            "websocket_messages_too_long",
            "WebSockets closed for the length of a message",
            messages_too_long.clone(),
        );
        let (sessions, rest_waiting, events_dropped) = (Gauge::default(), Gauge::default(), Gauge::default());
        registry.register("sessions", "Sessions, active and not", sessions.clone());
        registry.register("rest_waiting", "REST requests without an answer yet", rest_waiting.clone());
        registry.register(
            "events_dropped",
            "Events that webhook or CDR did not take",
            events_dropped.clone(),
        );
        let store = StoreMetrics::register(&mut registry);
        Self {
            requests,
            connections,
            refused,
            refused_address,
            idle,
            failed,
            sockets,
            sockets_cut,
            messages_too_long,
            sessions,
            rest_waiting,
            events_dropped,
            store,
            registry,
        }
    }
}

impl HttpMetrics {
    /// Counts an answer.
    pub fn answered(&self, part: &'static str, status: u16) {
        self.requests.get_or_create(&RequestLabels { part, status }).inc();
    }

    /// OpenMetrics text.
    pub fn exposition(&self) -> String {
        let mut out = String::new();
        text::encode(&mut out, &self.registry).expect("writing into a string does not fail");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exposition_names_what_was_counted() {
        let metrics = HttpMetrics::default();
        metrics.answered("api", 200);
        metrics.answered("api", 200);
        let text = metrics.exposition();
        assert!(text.contains("weir_http_requests_total{part=\"api\",status=\"200\"} 2"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
