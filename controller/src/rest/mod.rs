//! The REST API on top of the engine's operations: paths, bodies, JSON answers. To come.
#![forbid(unsafe_code)]

use crate::engine::{Engine, Output, RestRequest, RestResponse};

/// Answers a request below `/openvidu/api/`.
pub fn handle(
    _engine: &mut Engine,
    _now_ms: u64,
    _request: RestRequest,
    _out: &mut Vec<Output>,
) -> RestResponse {
    RestResponse { status: 501, body: None }
}
