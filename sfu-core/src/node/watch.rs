//! What becomes of a core that ends without having been told to: the node ends with it.
//!
//! A dead core behind a node that lives would be the worst of both. Its calls are silent, its load reads zero, so placement
//! sends it the next ones. A node that is gone is something that the controller knows what to do with.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::sync::mpsc;

use super::NodeError;

/// The first core that ended; one is enough.
pub(super) fn channel() -> (mpsc::Sender<NodeError>, mpsc::Receiver<NodeError>) {
    mpsc::channel(1)
}

/// Runs a core's turn loop, and tells `failed` if it ends in an error or a panic.
pub(super) fn watched(core: u16, failed: &mpsc::Sender<NodeError>, turns: impl FnOnce() -> io::Result<()>) {
    let reason = match catch_unwind(AssertUnwindSafe(turns)) {
        Ok(Ok(())) => return,
        Ok(Err(error)) => format!("the kernel refuses its sockets: {error}"),
        Err(panic) => format!("its thread panicked: {}", message(&*panic)),
    };
    tracing::error!(core, reason, "a core has ended, and the node with it");
    let _ = failed.try_send(NodeError::CoreEnded { core, reason });
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of a core that ends so.
    fn told(turns: impl FnOnce() -> io::Result<()>) -> Option<String> {
        let (failed, mut ended) = channel();
        watched(3, &failed, turns);
        ended.try_recv().ok().map(|error| error.to_string())
    }

    #[test]
    fn an_end_that_nobody_asked_for_is_told() {
        assert_eq!(told(|| Ok(())), None);
        let refused = told(|| Err(io::Error::from_raw_os_error(libc::ENOTSOCK))).expect("told");
        assert!(refused.contains("core 3") && refused.contains("os error 88"), "{refused}");
        let lost = told(|| panic!("slot {} is free", 7)).expect("told");
        assert!(lost.contains("core 3") && lost.contains("slot 7 is free"), "{lost}");
        assert!(told(|| panic!("no room")).expect("told").contains("no room"));
    }

    #[test]
    fn cores_that_end_after_the_first_wait_for_nobody() {
        let (failed, mut ended) = channel();
        for core in 0..3 {
            watched(core, &failed, || Err(io::ErrorKind::OutOfMemory.into()));
        }
        assert!(matches!(ended.try_recv(), Ok(NodeError::CoreEnded { core: 0, .. })));
    }
}
