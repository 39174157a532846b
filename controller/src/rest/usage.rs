//! `GET /usage?from=&to=&format=`: what the cluster used in a period. Weir's own; OpenVidu has nothing like it.
//!
//! `from` and `to`: UTC milliseconds or a day (`yyyy-MM-dd`, its beginning); absent, everything until now. `format`: `json` or
//! `csv`; an `Accept: text/csv` header does the same.
#![forbid(unsafe_code)]

use serde_json::Value;

use super::route::WRONG_METHOD;
use super::{Answer, empty, ok, refusal};
use crate::date::Date;
use crate::engine::{ApiError, RestRequest, RestResponse};
use crate::metering::Meter;

/// First segment of the path.
pub const PATH: &str = "usage";
/// Value of `format` for CSV, whose answer is a bare string.
pub const CSV: &str = "csv";

/// The answer, or `None` when the request is about something else.
pub fn answer(meter: &Meter, request: &RestRequest, now_ms: u64) -> Option<RestResponse> {
    let (first, rest) = request.path.split_first()?;
    if first != PATH {
        return None;
    }
    Some(match (request.method.as_str(), rest) {
        (_, [_, ..]) => empty(404),
        ("GET" | "HEAD", []) => {
            usage(meter, request, now_ms).unwrap_or_else(|error| refusal(error, PATH, now_ms))
        }
        _ => empty(WRONG_METHOD),
    })
}

fn usage(meter: &Meter, request: &RestRequest, now_ms: u64) -> Answer {
    let known = ["from", "to", "format"];
    if let Some(name) = request.query.keys().find(|name| !known.contains(&name.as_str())) {
        let message = format!("Query parameter \"{name}\" is not known; there are {}", known.join(", "));
        return Err(ApiError::with(400, message));
    }
    let from = moment(request, "from")?.unwrap_or(0);
    let to = moment(request, "to")?.unwrap_or(now_ms);
    if from > to {
        return Err(ApiError::with(400, "Query parameter \"from\" is later than \"to\""));
    }
    let usage = meter.usage(from, to, now_ms);
    match request.query.get("format").map(String::as_str) {
        None | Some("json") => Ok(ok(serde_json::to_value(usage).expect("plain data"))),
        Some(CSV) => Ok(ok(Value::String(usage.csv()))),
        Some(_) => Err(ApiError::with(400, "Query parameter \"format\" must be json or csv")),
    }
}

fn moment(request: &RestRequest, name: &str) -> Result<Option<u64>, ApiError> {
    let Some(text) = request.query.get(name) else { return Ok(None) };
    let day = || Date::parse_day(text)?.checked_mul(1000);
    let moment = text.parse().ok().or_else(day);
    moment.map(Some).ok_or_else(|| {
        let message =
            format!("Query parameter \"{name}\" must be UTC milliseconds or a day such as 2026-01-31");
        ApiError::with(400, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metering::{Member, MeterConfig, NodeRole, StartReason};

    fn meter() -> Meter {
        let config =
            MeterConfig { cluster_id: "c".into(), price_per_core_minute: 0.5, edition: "pro".into() };
        let mut meter = Meter::new(config, 0);
        let member = Member {
            node: "media_1".into(),
            environment_id: None,
            role: NodeRole::MediaNode,
            ip: None,
            cores: 2,
            reason: StartReason::Launch,
        };
        meter.connected(0, member);
        meter
    }

    fn get(query: &[(&str, &str)]) -> RestResponse {
        let query = query.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let request =
            RestRequest { method: "GET".into(), path: vec![PATH.into()], query, ..Default::default() };
        answer(&meter(), &request, 120_000).unwrap()
    }

    #[test]
    fn a_period_is_answered_as_json_and_csv() {
        let body = get(&[]).body.unwrap();
        assert_eq!((&body["coreMinutes"], &body["cost"]), (&4.0.into(), &2.0.into()));
        assert_eq!(get(&[("from", "60000"), ("to", "90000")]).body.unwrap()["cost"], 0.5);
        assert_eq!(get(&[("from", "1970-01-01"), ("to", "1970-01-02")]).body.unwrap()["cost"], 2.0);
        let csv = get(&[("format", "csv")]).body.unwrap();
        assert!(csv.as_str().unwrap().lines().count() == 2, "{csv}");
    }

    #[test]
    fn what_cannot_be_understood_is_400() {
        for query in [
            ("from", "yesterday"),
            ("from", "-1"),
            ("to", ""),
            ("to", "2026-02-30"),
            ("from", "200000"),
            ("format", "xml"),
            ("until", "1"),
        ] {
            let refused = get(&[query]);
            assert_eq!(refused.status, 400, "{query:?}");
            assert!(refused.body.unwrap()["message"].as_str().unwrap().contains(query.0), "{query:?}");
        }
    }

    #[test]
    fn other_methods_and_paths_are_refused() {
        let mut request =
            RestRequest { method: "POST".into(), path: vec![PATH.into()], ..Default::default() };
        assert_eq!(answer(&meter(), &request, 0).unwrap().status, WRONG_METHOD);
        request.path.push("x".into());
        assert_eq!(answer(&meter(), &request, 0).unwrap().status, 404);
        request.path = vec!["sessions".into()];
        assert_eq!(answer(&meter(), &request, 0), None);
    }
}
