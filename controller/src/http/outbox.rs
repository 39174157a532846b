//! The way out to one WebSocket: a bounded queue. A client that does not read is cut; nobody else waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, mpsc};

/// Most texts waiting for one client.
pub const QUEUE_MESSAGES_MAX: usize = 1024;
/// Bytes waiting for one client beyond which nothing is added. The last text counts with what was there before it only: the
/// answer to a join in a session of many with much metadata is longer than this, and without it nobody could join.
pub const QUEUE_BYTES_MAX: usize = 4 << 20;

/// What the socket task is to write.
#[derive(Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// A text frame.
    Text(Arc<str>),
    /// A close frame, and the end.
    Close {
        /// RFC 6455 §7.4 code.
        code: u16,
        /// Reason.
        reason: String,
    },
}

/// Sending half, held by the shell.
#[derive(Clone, Debug)]
pub struct Outbox {
    queue: mpsc::Sender<Outgoing>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    bytes: AtomicUsize,
    cut: Notify,
}

/// Receiving half, held by the socket task.
#[derive(Debug)]
pub struct OutboxReader {
    queue: mpsc::Receiver<Outgoing>,
    state: Arc<State>,
}

/// The client does not keep up; its socket is being cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client does not read")]
pub struct Cut;

/// Makes an outbox.
pub fn outbox() -> (Outbox, OutboxReader) {
    let (sender, receiver) = mpsc::channel(QUEUE_MESSAGES_MAX);
    let state = Arc::new(State::default());
    (Outbox { queue: sender, state: state.clone() }, OutboxReader { queue: receiver, state })
}

impl Outbox {
    /// Queues a text.
    ///
    /// # Errors
    /// [`Cut`] when the queue is full: the socket is then torn down, and [`super::Event::SocketClosed`] follows. A socket
    /// that is gone already takes texts without complaint.
    pub fn send(&self, text: Arc<str>) -> Result<(), Cut> {
        let length = text.len();
        let before = self.state.bytes.fetch_add(length, Ordering::Relaxed);
        if before >= QUEUE_BYTES_MAX {
            return Err(self.cut());
        }
        self.put(Outgoing::Text(text))
    }

    /// Queues a close frame.
    ///
    /// # Errors
    /// As [`Outbox::send`].
    pub fn close(&self, code: u16, reason: String) -> Result<(), Cut> {
        self.put(Outgoing::Close { code, reason })
    }

    fn put(&self, outgoing: Outgoing) -> Result<(), Cut> {
        match self.queue.try_send(outgoing) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => Err(self.cut()),
        }
    }

    fn cut(&self) -> Cut {
        self.state.cut.notify_one();
        Cut
    }
}

impl OutboxReader {
    /// The next thing to write; `None` when the shell dropped its half.
    pub async fn next(&mut self) -> Option<Outgoing> {
        self.queue.recv().await
    }

    /// To be called when a text was written.
    pub fn written(&self, length: usize) {
        self.state.bytes.fetch_sub(length, Ordering::Relaxed);
    }

    /// A future that ends when the client is cut; independent of this reader.
    pub fn cut(&self) -> impl Future<Output = ()> + Send + use<> {
        let state = self.state.clone();
        async move { state.cut.notified().await }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_queue_cuts() {
        let (outbox, mut reader) = outbox();
        for _ in 0..QUEUE_MESSAGES_MAX {
            assert_eq!(outbox.send("x".into()), Ok(()));
        }
        assert_eq!(outbox.send("x".into()), Err(Cut));
        reader.cut().await;
        assert_eq!(reader.next().await, Some(Outgoing::Text("x".into())));
        drop(reader);
        assert_eq!(outbox.send("x".into()), Ok(()), "a closed socket is no error");
    }

    #[tokio::test]
    async fn bytes_are_bounded_and_given_back() {
        let (outbox, mut reader) = outbox();
        let half: Arc<str> = "x".repeat(QUEUE_BYTES_MAX / 2).into();
        assert_eq!((outbox.send(half.clone()), outbox.send(half.clone())), (Ok(()), Ok(())));
        reader.next().await.unwrap();
        reader.written(half.len());
        assert_eq!(outbox.send(half.clone()), Ok(()));
        assert_eq!(outbox.send("x".into()), Err(Cut));
    }

    #[tokio::test]
    async fn one_text_may_be_longer_than_the_queue() {
        let (outbox, _reader) = outbox();
        assert_eq!(outbox.send("pong".into()), Ok(()));
        assert_eq!(outbox.send("x".repeat(3 * QUEUE_BYTES_MAX).into()), Ok(()));
        assert_eq!(outbox.send("x".into()), Err(Cut));
    }
}
