//! The io_uring reactor: one ring, one place to wait, one system call for a batch in either direction.
//!
//! Needs Linux 6.1: multishot `RECVMSG` (6.0), provided-buffer rings (5.19), `DEFER_TASKRUN` (6.1). The ring belongs to
//! the thread that made it.
//!
//! Order of ending: cancel what is in flight and wait for it, unregister the buffers and files (so that the ports are free
//! at once, though the kernel tears the ring down later), close the ring, unmap the slots.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::io::Errno;

use super::gso::Pieces;
use super::op::Op;
use super::recv::Inbound;
use super::send::{CHUNK, Outbound};
use super::{Reactor, Received, Setup, Socket, Waker};
use crate::buf::{RxPool, TxBatch};
use crate::engine::Turn;

/// Completions the ring holds: a full buffer ring, a full chunk of failed sends, and room.
const COMPLETIONS: u32 = 4096;
/// Most `enter`s of one receive; each brings up to 32 datagrams a socket. A kernel that fails every receive at once for
/// want of memory must not keep the turn from its end.
const MAX_ROUNDS: usize = 64;
/// How long ending waits for the kernel to let go of the slots.
const FAREWELL: Duration = Duration::from_millis(500);

/// Why there is no ring.
#[derive(Debug, thiserror::Error)]
#[error("io_uring is not to be had ({step}: {source}); {remedy}")]
pub struct RingError {
    step: &'static str,
    source: io::Error,
    remedy: &'static str,
}

impl RingError {
    fn at(step: &'static str) -> impl FnOnce(io::Error) -> RingError {
        move |source| RingError { step, remedy: remedy(&source), source }
    }

    /// What the operator can do about it.
    pub fn remedy(&self) -> &'static str {
        self.remedy
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::PERM | Errno::ACCESS) => {
            "a seccomp profile or a sysctl forbids it: allow io_uring_setup, io_uring_enter and io_uring_register \
             (deploy/seccomp.json), and set kernel.io_uring_disabled=0"
        }
        Some(Errno::NOSYS) => "this kernel is built without it: use reactor=mmsg",
        Some(Errno::INVAL) => "this kernel is too old: Linux 6.1 or later is needed, 6.12 recommended",
        Some(Errno::NOMEM) => {
            "the limit on locked memory is too low: raise `ulimit -l` (LimitMEMLOCK, --ulimit memlock)"
        }
        Some(Errno::MFILE | Errno::NFILE) => "too many open files: raise `ulimit -n`",
        _ => "use reactor=mmsg if it stays so",
    }
}

/// One ring per shard.
pub struct RingReactor {
    // The ring first: fields are dropped in order, and what it points to must outlive it.
    ring: IoUring,
    /// Dropped by hand, as the pool: it has the buffer ring that the kernel reads the slots' addresses from.
    inbound: ManuallyDrop<Inbound>,
    outbound: Outbound,
    /// Dropped by hand, once the kernel has let go of the slots.
    pool: ManuallyDrop<RxPool>,
    sockets: Vec<Socket>,
    waker: Arc<Waker>,
    wake_armed: bool,
}

impl RingReactor {
    /// Sets up the ring and starts to receive. On refusal the setup comes back, for another reactor.
    ///
    /// # Errors
    /// [`RingError`], with what to do about it.
    pub fn new(setup: Setup) -> Result<RingReactor, Box<(RingError, Setup)>> {
        match Self::parts(&setup) {
            Ok((ring, pool, inbound)) => Ok(RingReactor {
                ring,
                inbound: ManuallyDrop::new(inbound),
                outbound: Outbound::new(setup.sockets.len(), setup.frames),
                pool: ManuallyDrop::new(pool),
                sockets: setup.sockets,
                waker: setup.waker,
                wake_armed: false,
            }),
            Err(error) => Err(Box::new((error, setup))),
        }
    }

    fn parts(setup: &Setup) -> Result<(IoUring, RxPool, Inbound), RingError> {
        setup.check().map_err(RingError::at("setup"))?;
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .dontfork()
            .build(CHUNK as u32)
            .map_err(RingError::at("io_uring_setup"))?;
        let udp = setup.sockets.len();
        let mut files: Vec<_> = setup.sockets.iter().map(Socket::raw).collect();
        files.extend(setup.frames.iter().map(|frames| frames.socket().raw()));
        ring.submitter().register_files(&files).map_err(RingError::at("register files"))?;
        let mut pool = RxPool::new(setup.slots).map_err(RingError::at("slots"))?;
        let inbound = Inbound::new(&ring, &mut pool, udp).map_err(RingError::at("register buffers"))?;
        Ok((ring, pool, inbound))
    }

    /// Hands every completion that is there to its owner; returns how many. No system call.
    fn reap(&mut self) -> usize {
        let mut count = 0;
        for completion in self.ring.completion() {
            count += 1;
            match Op::decode(completion.user_data()) {
                Some(Op::Receive(local)) => self.inbound.on_completion(local, &completion, &mut self.pool),
                Some(Op::Send { generation, index }) => {
                    self.outbound.on_completion(generation, index, completion.result());
                }
                Some(Op::Wake) => {
                    self.wake_armed = cqueue::more(completion.flags());
                    self.waker.clear();
                }
                None => {}
            }
        }
        count
    }

    /// Queues what must be in flight before the thread may sleep.
    fn arm(&mut self) -> io::Result<()> {
        self.inbound.refill(&mut self.pool);
        for local in self.inbound.unarmed() {
            let entry = self.inbound.arm(local);
            self.push(&entry)?;
        }
        if !self.wake_armed {
            self.wake_armed = true;
            let fd = Fd(rustix::fd::AsFd::as_fd(&*self.waker).as_raw_fd());
            let entry = opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(true).build();
            self.push(&entry.user_data(Op::Wake.encode()))?;
        }
        Ok(())
    }

    /// Queues one entry, submitting what is queued if there is no room.
    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: entries come from `Inbound::arm`, `Outbound::entry` and `arm` above. What they point to lives in
            // boxes of `inbound` and `outbound` or in the batch, and stays until the operation is over: receives are
            // cancelled before `inbound` goes, sends are executed within the `submit` that precedes any change.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            self.submit()?;
        }
    }

    /// Submits until nothing is queued.
    fn submit(&mut self) -> io::Result<()> {
        while !self.ring.submission().is_empty() {
            self.enter()?;
        }
        Ok(())
    }

    /// One `enter` without waiting: submits, and runs receives the kernel has put off.
    fn enter(&mut self) -> io::Result<()> {
        match self.ring.submit() {
            Ok(_) => Ok(()),
            Err(error) => self.forgive(error),
        }
    }

    /// Errors of `enter` that go away by themselves, or by reaping.
    fn forgive(&mut self, error: io::Error) -> io::Result<()> {
        match Errno::from_io_error(&error) {
            Some(Errno::INTR | Errno::TIME) => Ok(()),
            Some(Errno::BUSY | Errno::AGAIN) => {
                self.reap();
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// Waits for `want` completions or the end of `timeout`.
    fn wait_for(&mut self, want: usize, timeout: Option<Duration>) -> io::Result<()> {
        let result = match timeout.map(Timespec::from) {
            None => self.ring.submit_and_wait(want),
            Some(timeout) => {
                self.ring.submitter().submit_with_args(want, &SubmitArgs::new().timespec(&timeout))
            }
        };
        result.map(drop).or_else(|error| self.forgive(error))
    }

    /// Whether an `enter` has something to do: entries of ours, or work the kernel put off until we enter, which is more
    /// datagrams most likely.
    fn has_deferred(&mut self) -> bool {
        let queue = self.ring.submission();
        queue.taskrun() || queue.cq_overflow() || !queue.is_empty()
    }

    /// Whether a wait would find something at once.
    fn has_input(&mut self) -> bool {
        self.inbound.has_ready() || !self.ring.completion().is_empty()
    }

    /// Ends all that is in flight. `false`: the kernel did not let go in time.
    fn quiesce(&mut self) -> bool {
        let timeout = Timespec::from(FAREWELL);
        // Nothing in flight is an error too; the completions tell.
        let _ = self.ring.submitter().register_sync_cancel(Some(timeout), CancelBuilder::any());
        let mut rounds = 20;
        self.reap();
        while self.inbound.any_armed() || self.wake_armed {
            if rounds == 0 || self.wait_for(1, Some(FAREWELL / 20)).is_err() {
                return false;
            }
            rounds -= 1;
            self.reap();
        }
        true
    }
}

impl Reactor for RingReactor {
    fn name(&self) -> &'static str {
        "io_uring"
    }

    fn pool(&mut self) -> &mut RxPool {
        &mut self.pool
    }

    fn receive(&mut self, received: &mut Received) -> io::Result<()> {
        let mut entered = false;
        for _ in 0..MAX_ROUNDS {
            let reaped = self.reap();
            self.arm()?;
            self.inbound.hand_over(received);
            if let Some(errno) = self.inbound.fatal() {
                return Err(errno.into());
            }
            // An `enter` that brought nothing ends it: the kernel (6.18) may leave its flag up after the work is done.
            if received.is_full() || !self.has_deferred() || (entered && reaped == 0) {
                return Ok(());
            }
            self.enter()?;
            entered = true;
        }
        Ok(())
    }

    fn send(&mut self, tx: &TxBatch, turn: &mut Turn) -> io::Result<()> {
        let mut pieces = Pieces::default();
        self.outbound.begin();
        loop {
            let count = self.outbound.fill(tx, &mut pieces, &self.sockets);
            if count == 0 {
                return Ok(());
            }
            for i in 0..count {
                let entry = self.outbound.entry(i, tx);
                self.push(&entry)?;
            }
            self.submit()?;
            self.reap();
            self.outbound.settle(&self.sockets, tx, turn);
        }
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.arm()?;
        if self.has_input() {
            return Ok(());
        }
        self.wait_for(1, timeout)
    }

    fn pause(&mut self, time: Duration) -> io::Result<()> {
        self.arm()?;
        // More than can come: only the end of the timeout wakes us, and datagrams wait in their socket.
        self.wait_for(COMPLETIONS as usize, Some(time))
    }
}

impl Drop for RingReactor {
    fn drop(&mut self) {
        if !self.quiesce() {
            // The slots and the buffer ring stay for ever rather than be used by the kernel after something else moved
            // in: it tears the ring down after the descriptor is closed, in its own time.
            tracing::warn!(
                "the kernel holds receive buffers beyond the end of their ring; their memory is given up"
            );
            return;
        }
        let submitter = self.ring.submitter();
        // Both can fail only if they were not registered.
        let _ = submitter.unregister_buf_ring(0);
        let _ = submitter.unregister_files();
        // SAFETY: dropped here and nowhere else; no operation is in flight and no buffer registered, so the kernel has
        // no slot any more.
        unsafe { ManuallyDrop::drop(&mut self.pool) };
        // SAFETY: as above; the buffer ring is unregistered, and no receive reads the header.
        unsafe { ManuallyDrop::drop(&mut self.inbound) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_come_with_a_remedy() {
        for (errno, word) in [
            (libc::EPERM, "seccomp"),
            (libc::ENOSYS, "mmsg"),
            (libc::EINVAL, "6.1"),
            (libc::ENOMEM, "ulimit -l"),
            (libc::EMFILE, "ulimit -n"),
            (libc::EIO, "mmsg"),
        ] {
            let error = RingError::at("io_uring_setup")(io::Error::from_raw_os_error(errno));
            assert!(error.remedy().contains(word) && error.to_string().contains(word), "{error}");
        }
    }
}
