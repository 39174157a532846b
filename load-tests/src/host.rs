//! This machine: cores, CPU time, memory, limits, as Linux tells them.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Whether this machine has these cores.
///
/// # Errors
/// The first that it has not.
pub(crate) fn check_cores(cores: &[usize]) -> Result<()> {
    let online =
        fs::read_to_string("/sys/devices/system/cpu/online").context("reading which cores there are")?;
    let online = online.trim();
    match cores.iter().find(|core| !in_ranges(online, **core)) {
        Some(core) => anyhow::bail!("there is no core {core}, only {online}"),
        None => Ok(()),
    }
}

/// Whether ranges as Linux writes them (`0-3,8`) hold a number.
fn in_ranges(ranges: &str, number: usize) -> bool {
    ranges.split(',').any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        matches!((first.parse(), last.parse()), (Ok(first), Ok(last)) if (first..=last).contains(&number))
    })
}

/// Pins the calling thread; without permission it stays where it is.
pub(crate) fn pin_this_thread(cores: &[usize]) {
    let mut set = rustix::thread::CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        eprintln!("load-tests: cannot pin a thread to cores {cores:?}: {error}");
    }
}

/// Sets this thread's niceness; threads and children that it makes afterwards inherit it.
pub(crate) fn set_nice(nice: i32) -> Result<()> {
    rustix::process::setpriority_process(None, nice).with_context(|| format!("--nice {nice}"))
}

/// Sets the niceness of this login session's group of tasks, where the kernel weighs such groups against each other before it
/// looks at the niceness of each task (`sched_autogroup_enabled`). Browsers begin a group of their own.
pub(crate) fn set_group_nice(nice: i32) {
    let _ = fs::write("/proc/self/autogroup", nice.to_string());
}

/// Allows as many open files as the system grants; how many that are.
pub(crate) fn raise_file_limit() -> Result<u64> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("reading the file limit")?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raising the file limit")?;
    }
    Ok(hard)
}

/// Name and CPU seconds (from the scheduler, to the nanosecond) of each thread of this process.
pub(crate) fn own_threads() -> Vec<(String, f64)> {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    tasks.filter_map(|task| thread_cpu(&task.ok()?.path())).collect()
}

fn thread_cpu(task: &Path) -> Option<(String, f64)> {
    let name = fs::read_to_string(task.join("comm")).ok()?.trim().to_owned();
    Some((name, schedstat_s(&fs::read_to_string(task.join("schedstat")).ok()?)?))
}

/// CPU seconds of a process from its threads' scheduler statistics: finer than the ticks of `/proc/PID/stat`. Threads that
/// ended are not in it; media servers keep theirs.
pub(crate) fn process_cpu_s(pid: u32) -> Option<f64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let seconds = |path: &Path| schedstat_s(&fs::read_to_string(path.join("schedstat")).ok()?);
    Some(tasks.filter_map(|task| seconds(&task.ok()?.path())).sum())
}

fn schedstat_s(text: &str) -> Option<f64> {
    Some(text.split_ascii_whitespace().next()?.parse::<f64>().ok()? / 1e9)
}

/// Resident memory of a process, bytes.
pub(crate) fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_ascii_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// Busy and total ticks of a core since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct CoreTime {
    pub(crate) busy: f64,
    pub(crate) total: f64,
}

/// Times of one core; everything that runs there counts, interrupts and stolen time too.
pub(crate) fn core_time(core: usize) -> Option<CoreTime> {
    core_of_stat(&fs::read_to_string("/proc/stat").ok()?, core)
}

fn core_of_stat(stat: &str, core: usize) -> Option<CoreTime> {
    let name = format!("cpu{core}");
    let line = stat.lines().find(|line| line.split(' ').next() == Some(&name))?;
    let ticks: Vec<f64> = line.split(' ').skip(1).filter_map(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest time is part of user.
    let counted = ticks.get(..8)?;
    let idle = counted[3] + counted[4];
    let total: f64 = counted.iter().sum();
    Some(CoreTime { busy: total - idle, total })
}

/// "AMD EPYC 9354, 2 cores" without the number.
pub(crate) fn cpu_name() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| "unknown CPU".to_owned(), |(_, name)| name.trim().to_owned())
}

/// CPUs of this machine that are switched on.
pub(crate) fn cores() -> u32 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let cpus = stat.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "));
    cpus.count() as u32
}

/// `uname -r`.
pub(crate) fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// Memory of the machine, bytes.
pub(crate) fn memory_bytes() -> u64 {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes = line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

/// Commit of the tree this was built from, `+` when files were changed; `None` outside of one.
pub(crate) fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = std::process::Command::new("git")
            .args(arguments)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .ok()
            .filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| !text.is_empty());
    Some(if changed { commit + "+" } else { commit })
}

/// Seconds since the epoch as RFC 3339, UTC.
pub(crate) fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to a date in the proleptic Gregorian calendar, years beginning in March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_795_853_589), "2026-11-28T08:13:09Z");
    }

    #[test]
    fn cores_that_are_not_there_are_named() {
        for (number, there) in [(0, true), (3, true), (4, false), (8, true), (1_024, false)] {
            assert_eq!(in_ranges("0-3,8", number), there, "{number}");
        }
        let error = check_cores(&[0, 5_000]).expect_err("no such core").to_string();
        assert!(error.starts_with("there is no core 5000, only 0"), "{error}");
    }

    #[test]
    fn busy_time_of_a_core() {
        let stat = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu1 1 2 3 100 10 4 5 6 1 0\n";
        assert_eq!(core_of_stat(stat, 1), Some(CoreTime { busy: 21.0, total: 131.0 }));
        assert_eq!(core_of_stat(stat, 0), None);
    }

    #[test]
    fn own_threads_and_memory_are_seen() {
        assert!(!own_threads().is_empty());
        assert!(process_cpu_s(std::process::id()).is_some_and(|seconds| seconds > 0.0));
        assert!(resident_bytes(std::process::id()).is_some_and(|bytes| bytes > 1 << 20));
    }
}
