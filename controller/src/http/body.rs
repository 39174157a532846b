//! Request bodies: bounded in size and time, parsed as JSON.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body;
use serde_json::Value;

/// Why a body is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// 413.
    #[error("the body is longer than {0} bytes")]
    TooLong(usize),
    /// 408.
    #[error("the body did not arrive in {0:?}")]
    TooSlow(Duration),
    /// 400.
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    /// 400.
    #[error("the body broke off")]
    Broken,
}

impl BodyError {
    /// HTTP status to answer with.
    pub fn status(&self) -> u16 {
        match self {
            Self::TooLong(_) => 413,
            Self::TooSlow(_) => 408,
            Self::NotJson(_) | Self::Broken => 400,
        }
    }
}

/// Reads a whole body of at most `limit` bytes.
///
/// # Errors
/// [`BodyError`], except `NotJson`.
pub async fn read<B>(body: B, limit: usize, within: Duration) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if body.size_hint().lower() > limit as u64 {
        return Err(BodyError::TooLong(limit));
    }
    let collected = tokio::time::timeout(within, Limited::new(body, limit).collect()).await;
    match collected {
        Err(_) => Err(BodyError::TooSlow(within)),
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(BodyError::TooLong(limit)),
        Ok(Err(_)) => Err(BodyError::Broken),
    }
}

/// Parses a body; blank is `None`.
///
/// # Errors
/// [`BodyError::NotJson`].
pub fn parse(bytes: &[u8]) -> Result<Option<Value>, BodyError> {
    if bytes.trim_ascii().is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(bytes).map(Some).map_err(|e| BodyError::NotJson(e.to_string()))
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use serde_json::json;

    use super::*;

    #[test]
    fn json_or_nothing() {
        assert_eq!(parse(b" \n"), Ok(None));
        assert_eq!(parse(b"{\"a\":1}"), Ok(Some(json!({"a": 1}))));
        for bad in [&b"{"[..], b"{'a':1}", b"{}{}", b"\xff", b"nul"] {
            assert!(matches!(parse(bad), Err(BodyError::NotJson(_))), "{bad:?}");
        }
        // Deep nesting ends in an error, not in a stack overflow.
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
    }

    #[tokio::test]
    async fn length_is_bounded() {
        let read = |n: usize| read(Full::new(Bytes::from(vec![b'x'; n])), 10, Duration::from_secs(1));
        assert_eq!(read(10).await.map(|b| b.len()), Ok(10));
        assert_eq!(read(11).await, Err(BodyError::TooLong(10)));
    }
}
