//! Responses: their body type, error bodies, and the few shapes the handlers share.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::Value;
use tokio::io::{AsyncRead, ReadBuf};

/// Body of every response.
pub type ReplyBody = UnsyncBoxBody<Bytes, io::Error>;
/// Every response.
pub type Reply = Response<ReplyBody>;

/// Bytes read from a file at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// A response with this body and content type.
pub fn with_body(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()).map_err(|never| match never {}).boxed_unsync());
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// A response without a body.
pub fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync());
    *reply.status_mut() = status;
    reply
}

/// A JSON response.
pub fn json(status: StatusCode, body: &Value) -> Reply {
    with_body(status, "application/json", body.to_string())
}

/// The error body of the contract: `{timestamp, status, error, message, path}`.
pub fn error(status: StatusCode, message: &str, path: &str, now_ms: u64) -> Reply {
    json(status, &crate::rest::error_body(status.as_u16(), message, path, now_ms))
}

/// A file, streamed.
pub fn file(content_type: &'static str, file: tokio::fs::File, length: u64) -> Reply {
    let body = FileBody { file, left: length, buffer: vec![0; CHUNK_BYTES] };
    let mut reply = Response::new(body.boxed_unsync());
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// The first `left` bytes of a file, so that a file that grows meanwhile still has the length that was announced.
struct FileBody {
    file: tokio::fs::File,
    left: u64,
    buffer: Vec<u8>,
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if this.left == 0 {
            return Poll::Ready(None);
        }
        let want = usize::try_from(this.left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        let mut buffer = ReadBuf::new(&mut this.buffer[..want]);
        match Pin::new(&mut this.file).poll_read(cx, &mut buffer) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(e)) => Poll::Ready(Some(Err(e))),
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())))
            }
            Poll::Ready(Ok(())) => {
                let chunk = Bytes::copy_from_slice(buffer.filled());
                this.left -= chunk.len() as u64;
                Poll::Ready(Some(Ok(Frame::data(chunk))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
