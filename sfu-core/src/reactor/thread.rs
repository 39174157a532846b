//! A named thread on one CPU.

use std::io;
use std::thread::JoinHandle;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Timer slack of a shard thread in nanoseconds. The kernel's 50 us would be a sixth of a short gather window.
const TIMER_SLACK_NS: u64 = 1_000;

/// Starts a thread called `name` (the kernel keeps 15 bytes) that runs `body`, pinned to the kernel's CPU number `cpu`
/// if one is given. A CPU that cannot be had costs a warning, not the shard.
///
/// # Errors
/// No thread to be had.
pub fn spawn<T, F>(name: &str, cpu: Option<usize>, body: F) -> io::Result<JoinHandle<T>>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let label = name.to_owned();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        if let Some(cpu) = cpu
            && let Err(error) = pin(cpu)
        {
            tracing::warn!(thread = label, cpu, %error, "cannot pin thread, it runs on any CPU");
        }
        set_timer_slack();
        body()
    })
}

/// Pins the calling thread to the kernel's CPU number `cpu`.
///
/// # Errors
/// `EINVAL`: no such CPU, or the container's CPU set forbids it.
pub fn pin(cpu: usize) -> io::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// The kernel's numbers of the CPUs this thread may run on, in order.
///
/// # Errors
/// The kernel's answer.
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect())
}

fn set_timer_slack() {
    // Best effort: without it waits are up to 50 us longer.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(TIMER_SLACK_NS));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_named_on_the_cpu_it_was_given() {
        let cpu = *allowed_cpus().unwrap().last().unwrap();
        let seen = spawn("shard-t", Some(cpu), || {
            (std::thread::current().name().map(str::to_owned), allowed_cpus().unwrap())
        });
        assert_eq!(seen.unwrap().join().unwrap(), (Some("shard-t".to_owned()), vec![cpu]));
    }

    #[test]
    fn a_cpu_that_is_not_there_is_an_error_not_a_panic() {
        assert!(pin(usize::MAX).is_err());
        let alive = spawn("shard-u", Some(CpuSet::MAX_CPU - 1), || 7).unwrap();
        assert_eq!(alive.join().unwrap(), 7);
    }
}
