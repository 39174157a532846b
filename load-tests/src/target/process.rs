//! Child processes of targets: pinned, in a network namespace if wanted, their output kept for when they fail.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::process::{Child, Command};

/// How long a process may take to end after SIGTERM.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two questions whether it is ready.
const READY_INTERVAL: Duration = Duration::from_millis(100);
/// So much of its output is shown when it fails.
const TAIL_BYTES: usize = 2_000;

/// What to start and where.
pub(crate) struct Launch<'a> {
    /// The program.
    pub(crate) program: &'a Path,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    /// Cores it may run on.
    pub(crate) cores: &'a [usize],
    /// Network namespace to start in.
    pub(crate) netns: Option<&'a str>,
    pub(crate) nice: i32,
    /// Where its files are; they are there as long as the process is.
    pub(crate) scratch: &'a Arc<Scratch>,
    /// Name of the file for its output.
    pub(crate) log: &'a str,
}

/// A child process of ours; killed when dropped.
pub(crate) struct Process {
    child: Child,
    pid: u32,
    name: String,
    log: PathBuf,
    _scratch: Arc<Scratch>,
}

impl Process {
    /// Starts it. `ip netns exec`, `nice` and `taskset` replace themselves, so the process id is the program's.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(launch: Launch<'_>) -> Result<Process> {
        let name = launch.program.display().to_string();
        let cores: Vec<String> = launch.cores.iter().map(usize::to_string).collect();
        let mut words: Vec<String> = Vec::new();
        if let Some(netns) = launch.netns {
            words.extend(["ip", "netns", "exec", netns].map(str::to_owned));
        }
        if launch.nice != 0 {
            words.extend(["nice".to_owned(), "-n".to_owned(), launch.nice.to_string()]);
        }
        words.extend(["taskset".to_owned(), "--cpu-list".to_owned(), cores.join(","), name.clone()]);
        words.extend(launch.arguments);
        let log = launch.scratch.file(launch.log);
        let output = File::create(&log).with_context(|| log.display().to_string())?;
        let child = Command::new(&words[0])
            .args(&words[1..])
            .envs(launch.environment)
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("log")?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let pid = child.id().context("it ended at once")?;
        Ok(Process { child, pid, name, log, _scratch: launch.scratch.clone() })
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Fails with the process' last words when it is gone.
    fn check(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            status => anyhow::bail!("{} ended ({status:?}): {}", self.name, self.tail()),
        }
    }

    /// The end of its output.
    fn tail(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]).into_owned()
    }

    /// SIGTERM, and SIGKILL for one that does not listen.
    pub(crate) async fn stop(mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.pid as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        if tokio::time::timeout(END_TIMEOUT, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

/// Asks until the answer is no error: whether a server that consists of `processes` takes sessions.
///
/// # Errors
/// When a process ends or time is over, with the last words: of the one that ended, or of the last in the list.
pub(crate) async fn until_ready<A>(
    limit: Duration,
    processes: &mut [&mut Process],
    ask: impl Fn() -> A,
) -> Result<()>
where
    A: Future<Output = Result<()>>,
{
    let asking = async {
        loop {
            processes.iter_mut().try_for_each(|process| process.check())?;
            if ask().await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(READY_INTERVAL).await;
        }
    };
    if let Ok(outcome) = tokio::time::timeout(limit, asking).await {
        return outcome;
    }
    let (name, tail) =
        processes.last().map_or(("it", String::new()), |process| (&process.name, process.tail()));
    anyhow::bail!("{name} is not ready after {} s: {tail}", limit.as_secs())
}

/// A program on the path.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// A directory for a target's files, removed when dropped.
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// A fresh directory under the system's temporary one.
    pub(crate) fn new(name: &str) -> Result<Arc<Scratch>> {
        let unique = format!("load-tests-{name}-{}-{:08x}", std::process::id(), rand::random::<u32>());
        let path = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(&path).with_context(|| format!("{}", path.display()))?;
        Ok(Arc::new(Scratch { path }))
    }

    /// A file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_pinned_and_its_last_words_are_kept() {
        let scratch = Scratch::new("test").unwrap();
        let launch = |script: &str| Launch {
            program: Path::new("/bin/sh"),
            arguments: vec!["-c".into(), script.into()],
            environment: vec![("WORD".into(), "spoken".into())],
            cores: &[0],
            netns: None,
            nice: 5,
            scratch: &scratch,
            log: "log",
        };
        let mut process = Process::start(launch("echo $WORD; exit 3")).unwrap();
        process.child.wait().await.unwrap();
        let error = process.check().unwrap_err().to_string();
        assert!(error.contains("spoken"), "{error}");
        let limit = Duration::from_millis(300);
        let ended = until_ready(limit, &mut [&mut process], async || anyhow::bail!("no")).await;
        assert!(ended.unwrap_err().to_string().contains("spoken"));
        let mut process = Process::start(launch("exec sleep 60")).unwrap();
        process.check().unwrap();
        let silent = until_ready(limit, &mut [&mut process], async || anyhow::bail!("no")).await;
        assert!(silent.unwrap_err().to_string().contains("not ready"));
        until_ready(limit, &mut [&mut process], async || Ok(())).await.unwrap();
        let affinity =
            move |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let pid = process.pid();
        let mut pinned = false;
        for _ in 0..100 {
            pinned = affinity(pid).contains("Cpus_allowed_list:\t0\n");
            if pinned {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(pinned);
        process.stop().await;
    }
}
