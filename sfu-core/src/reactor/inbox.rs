//! Commands from other threads: a bounded queue and an eventfd that wakes the shard.
//!
//! The eventfd is written only when the shard is about to sleep or sleeps, so a burst of commands to a busy shard costs
//! no system call. Who misses whom is settled as in Dekker's algorithm:
//!
//! ```text
//! sender: push ─▶ fence ─▶ asleep?  ──yes─▶ write eventfd
//! shard:  asleep = true ─▶ fence ─▶ queue empty? ──yes─▶ wait
//! ```
//!
//! At least one of the two sees the other's write, because the fences are sequentially consistent.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam::queue::ArrayQueue;
use rustix::event::{EventfdFlags, eventfd};

/// The queue was full: the value comes back.
#[derive(Debug, thiserror::Error)]
#[error("the shard's inbox is full")]
pub struct Full<T>(pub T);

/// Makes an inbox of `capacity` values (at least one) and its first sender.
///
/// # Errors
/// No eventfd to be had.
pub fn channel<T: Send>(capacity: usize) -> io::Result<(InboxSender<T>, Inbox<T>)> {
    let waker = Arc::new(Waker::new()?);
    let queue = Arc::new(ArrayQueue::new(capacity.max(1)));
    let sender = InboxSender { queue: Arc::clone(&queue), waker: Arc::clone(&waker) };
    Ok((sender, Inbox { queue, waker }))
}

/// The control thread's end.
pub struct InboxSender<T> {
    queue: Arc<ArrayQueue<T>>,
    waker: Arc<Waker>,
}

impl<T> Clone for InboxSender<T> {
    fn clone(&self) -> Self {
        InboxSender { queue: Arc::clone(&self.queue), waker: Arc::clone(&self.waker) }
    }
}

impl<T: Send> InboxSender<T> {
    /// Queues `value` and wakes the shard if it sleeps. Never blocks.
    ///
    /// # Errors
    /// [`Full`] with the value.
    pub fn send(&self, value: T) -> Result<(), Full<T>> {
        self.queue.push(value).map_err(Full)?;
        self.waker.wake();
        Ok(())
    }

    /// Asks the shard's turn loop to end. Values queued before are still applied.
    pub fn stop(&self) {
        self.waker.stop.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// The shard's end.
pub struct Inbox<T> {
    queue: Arc<ArrayQueue<T>>,
    waker: Arc<Waker>,
}

impl<T> Inbox<T> {
    /// The oldest value.
    pub fn pop(&self) -> Option<T> {
        self.queue.pop()
    }

    /// Whether [`InboxSender::stop`] was called.
    pub fn stopped(&self) -> bool {
        self.waker.stop.load(Ordering::Acquire)
    }

    /// What a reactor watches to be woken.
    pub fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// Announces sleep. `false`: something is there already, do not wait. Call [`Inbox::awake`] afterwards either way.
    pub(super) fn may_sleep(&self) -> bool {
        self.waker.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.queue.is_empty() && !self.stopped()
    }

    pub(super) fn awake(&self) {
        self.waker.asleep.store(false, Ordering::Relaxed);
    }
}

/// The eventfd of one inbox.
#[derive(Debug)]
pub struct Waker {
    fd: OwnedFd,
    asleep: AtomicBool,
    stop: AtomicBool,
}

impl Waker {
    fn new() -> io::Result<Waker> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Waker { fd, asleep: AtomicBool::new(false), stop: AtomicBool::new(false) })
    }

    fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            // Fails only when the counter is at its maximum, and then the shard is awake for sure.
            let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
        }
    }

    /// Makes the eventfd unreadable again.
    pub(super) fn clear(&self) {
        // Fails with EAGAIN when nothing was written.
        let _ = rustix::io::read(&self.fd, &mut [0u8; 8]);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readable(waker: &Waker) -> bool {
        rustix::io::read(&waker.fd, &mut [0u8; 8]).is_ok()
    }

    #[test]
    fn full_gives_the_value_back() {
        let (sender, inbox) = channel(2).unwrap();
        sender.send(1).unwrap();
        sender.clone().send(2).unwrap();
        assert_eq!(sender.send(3).unwrap_err().0, 3);
        assert_eq!([inbox.pop(), inbox.pop(), inbox.pop()], [Some(1), Some(2), None]);
        sender.send(4).unwrap();
        assert_eq!(inbox.pop(), Some(4));
    }

    #[test]
    fn wakes_a_sleeper_once_and_a_busy_shard_never() {
        let (sender, inbox) = channel(8).unwrap();
        sender.send(1).unwrap();
        assert!(!readable(&inbox.waker));
        assert!(!inbox.may_sleep(), "a value waits");
        inbox.awake();
        inbox.pop();
        assert!(inbox.may_sleep());
        sender.send(2).unwrap();
        sender.send(3).unwrap();
        assert!(readable(&inbox.waker));
        assert!(!readable(&inbox.waker));
        sender.send(4).unwrap();
        assert!(!readable(&inbox.waker), "already woken");
    }

    #[test]
    fn stop_wakes_and_keeps_sleep_away() {
        let (sender, inbox) = channel::<u8>(8).unwrap();
        assert!(inbox.may_sleep());
        sender.stop();
        assert!(readable(&inbox.waker));
        assert!(inbox.stopped() && !inbox.may_sleep());
    }

    #[test]
    fn no_wake_up_is_lost() {
        let (sender, inbox) = channel(4).unwrap();
        const COUNT: u32 = 20_000;
        let producer = std::thread::spawn(move || {
            for i in 0..COUNT {
                while sender.send(i).is_err() {
                    std::thread::yield_now();
                }
            }
        });
        let mut next = 0;
        while next < COUNT {
            if inbox.may_sleep() {
                let mut fds = [rustix::event::PollFd::new(&inbox.waker.fd, rustix::event::PollFlags::IN)];
                let timeout = rustix::time::Timespec { tv_sec: 10, tv_nsec: 0 };
                let ready = rustix::event::poll(&mut fds, Some(&timeout)).unwrap();
                assert_eq!(ready, 1, "slept with {next} of {COUNT} received");
                inbox.waker.clear();
            }
            inbox.awake();
            while let Some(i) = inbox.pop() {
                assert_eq!(i, next);
                next += 1;
            }
        }
        producer.join().unwrap();
    }
}
