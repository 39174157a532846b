//! When a connection may be closed because nothing happens on it: no request under way, and no body that moves on.
//!
//! Pings do not count: a client that only answers them, or that leaves an answer unread, holds a place of others.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::reply::ReplyBody;

/// What happens on one connection.
#[derive(Clone, Debug, Default)]
pub struct Activity(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    under_way: AtomicU64,
    steps: AtomicU64,
}

/// A request under way; its end is a step as well.
#[derive(Debug)]
pub struct UnderWay(Activity);

impl Activity {
    /// A request begins. Requests are bounded in time by who serves them.
    pub fn begin(&self) -> UnderWay {
        self.0.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(self.clone())
    }

    /// Something moved on.
    pub fn step(&self) {
        self.0.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until nothing happened for `limit`; looks that often, so it may take twice as long.
    pub async fn none_for(&self, limit: Duration) {
        let mut seen = self.0.steps.load(Ordering::Relaxed);
        loop {
            tokio::time::sleep(limit).await;
            let steps = self.0.steps.load(Ordering::Relaxed);
            if steps == seen && self.0.under_way.load(Ordering::Relaxed) == 0 {
                return;
            }
            seen = steps;
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.step();
        self.0.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an answer; each piece that is taken of it is a step.
#[derive(Debug)]
pub struct Watched {
    body: ReplyBody,
    activity: Activity,
}

impl Watched {
    /// Notes the steps of `body`.
    pub fn new(body: ReplyBody, activity: Activity) -> Self {
        Self { body, activity }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.activity.step();
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    const LIMIT: Duration = Duration::from_millis(100);

    #[tokio::test]
    async fn requests_and_steps_put_the_end_off() {
        let (activity, begun) = (Activity::default(), Instant::now());
        let watched = activity.clone();
        let watching = tokio::spawn(async move { watched.none_for(LIMIT).await });
        let request = activity.begin();
        sleep(5 * LIMIT).await;
        assert!(!watching.is_finished(), "a request is under way");
        drop(request);
        for _ in 0..10 {
            sleep(LIMIT / 2).await;
            activity.step();
        }
        assert!(!watching.is_finished(), "its answer moves on");
        tokio::time::timeout(100 * LIMIT, watching).await.expect("nothing happens any more").unwrap();
        assert!(begun.elapsed() > 10 * LIMIT);
    }
}
