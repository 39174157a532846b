//! Media nodes started by the operator's scripts: `cluster.md` section 4.1, files in
//! `OPENVIDU_PRO_CLUSTER_PATH/<environment>/`.
//!
//! | script | input | output |
//! |---|---|---|
//! | `openvidu_launch_kms.sh` | `CUSTOM_INSTANCE_TYPE`, `CUSTOM_VOLUME_SIZE`, maybe empty | `{"id","ip"}` |
//! | `openvidu_drop.sh` | argument 1: the id | nothing |
//! | `openvidu_autodiscover.sh` | nothing | `[{"id","ip"}]` |
//!
//! Our own environment is passed on, for `AWS_*`. A script that does not end in time is killed with everything it started
//! in its process group.

use std::ffi::OsStr;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Deserialize;
use sfu_core::control::proto::DEFAULT_PORT;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::{LaunchError, LaunchRequest, LaunchedNode, Launcher};
use crate::config::cluster::LAUNCH_SCRIPT as LAUNCH;

const DROP: &str = "openvidu_drop.sh";
const DISCOVER: &str = "openvidu_autodiscover.sh";
/// Bytes kept of what a script writes; the rest is read and forgotten.
const MAX_OUTPUT: u64 = 256 * 1024;
/// Bytes of a script's own words that go into an error.
const MAX_REASON: usize = 500;

/// How long scripts may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScriptTimeouts {
    /// A machine has to boot.
    pub launch: Duration,
    /// A machine has to end.
    pub drop: Duration,
    /// A question to the provider.
    pub discover: Duration,
}

impl Default for ScriptTimeouts {
    fn default() -> Self {
        ScriptTimeouts {
            launch: Duration::from_secs(600),
            drop: Duration::from_secs(300),
            discover: Duration::from_secs(60),
        }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct ScriptLauncher {
    directory: PathBuf,
    timeouts: ScriptTimeouts,
}

/// A node as scripts write it.
#[derive(Deserialize)]
struct ScriptNode {
    id: String,
    ip: IpAddr,
}

impl ScriptLauncher {
    /// `directory`: where the scripts of the environment are.
    pub fn new(directory: impl Into<PathBuf>, timeouts: ScriptTimeouts) -> ScriptLauncher {
        ScriptLauncher { directory: directory.into(), timeouts }
    }

    /// Runs a script to its end; returns what it wrote to stdout.
    async fn run(
        &self,
        name: &str,
        arguments: &[&OsStr],
        environment: &[(&str, String)],
        limit: Duration,
    ) -> Result<String, LaunchError> {
        let path = self.directory.join(name);
        let what = path.display().to_string();
        let failed = |reason: String| LaunchError::Failed { what: what.clone(), reason };
        let mut child = Command::new(&path)
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (*name, value.as_str())))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let group = child.id();
        let Ok(ended) = timeout(limit, collect(&mut child)).await else {
            kill_group(group);
            return Err(LaunchError::TimedOut { what, after: limit });
        };
        let (status, stdout, stderr) = ended.map_err(|error| failed(error.to_string()))?;
        if status.success() { Ok(stdout) } else { Err(failed(format!("{status}: {}", brief(&stderr)))) }
    }

    fn parse<T: for<'a> Deserialize<'a>>(
        &self,
        name: &str,
        stdout: &str,
        wanted: &str,
    ) -> Result<T, LaunchError> {
        serde_json::from_str(stdout.trim()).map_err(|error| LaunchError::Failed {
            what: self.directory.join(name).display().to_string(),
            reason: format!("its output must be {wanted}: {error}: {}", brief(stdout)),
        })
    }
}

impl Launcher for ScriptLauncher {
    fn launch(&self, request: LaunchRequest) -> BoxFuture<'_, Result<LaunchedNode, LaunchError>> {
        Box::pin(async move {
            let environment = [
                ("CUSTOM_INSTANCE_TYPE", request.instance_type.unwrap_or_default()),
                ("CUSTOM_VOLUME_SIZE", request.volume_size.map(|gb| gb.to_string()).unwrap_or_default()),
            ];
            let stdout = self.run(LAUNCH, &[], &environment, self.timeouts.launch).await?;
            let node: ScriptNode = self.parse(LAUNCH, &stdout, "an object with \"id\" and \"ip\"")?;
            Ok(node.into())
        })
    }

    fn stop<'a>(&'a self, environment_id: &'a str) -> BoxFuture<'a, Result<(), LaunchError>> {
        Box::pin(async move {
            self.run(DROP, &[OsStr::new(environment_id)], &[], self.timeouts.drop).await.map(|_| ())
        })
    }

    fn can_discover(&self) -> bool {
        self.directory.join(DISCOVER).is_file()
    }

    fn discover(&self) -> BoxFuture<'_, Result<Vec<LaunchedNode>, LaunchError>> {
        Box::pin(async move {
            if !self.can_discover() {
                return Err(LaunchError::Unsupported("this environment has no openvidu_autodiscover.sh"));
            }
            let stdout = self.run(DISCOVER, &[], &[], self.timeouts.discover).await?;
            let nodes: Vec<ScriptNode> =
                self.parse(DISCOVER, &stdout, "an array of objects with \"id\" and \"ip\"")?;
            Ok(nodes.into_iter().map(Into::into).collect())
        })
    }
}

impl From<ScriptNode> for LaunchedNode {
    fn from(node: ScriptNode) -> LaunchedNode {
        let host = match node.ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        LaunchedNode { environment_id: node.id, uri: format!("ws://{host}:{DEFAULT_PORT}/kurento") }
    }
}

/// Waits for the end and for the beginning of both outputs.
async fn collect(child: &mut Child) -> std::io::Result<(ExitStatus, String, String)> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr) = tokio::try_join!(read(stdout), read(stderr))?;
    Ok((child.wait().await?, stdout, stderr))
}

async fn read(stream: Option<impl AsyncRead + Unpin>) -> std::io::Result<String> {
    let mut stream = stream.expect("it is piped");
    let mut kept = Vec::new();
    (&mut stream).take(MAX_OUTPUT).read_to_end(&mut kept).await?;
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    Ok(String::from_utf8_lossy(&kept).into_owned())
}

fn kill_group(group: Option<u32>) {
    let group = group.and_then(|pid| rustix::process::Pid::from_raw(pid as i32));
    if let Some(group) = group
        && let Err(error) = rustix::process::kill_process_group(group, rustix::process::Signal::KILL)
    {
        tracing::debug!(%error, "a script that took too long could not be killed");
    }
}

/// The beginning of a script's words.
fn brief(text: &str) -> &str {
    let text = text.trim();
    let end = (0..=MAX_REASON.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A directory with scripts, removed at the end.
    struct Scripts(PathBuf);

    impl Scripts {
        fn new(name: &str, scripts: &[(&str, &str)]) -> Scripts {
            let directory = std::env::temp_dir().join(format!("weir-scripts-{name}-{}", std::process::id()));
            fs::create_dir_all(&directory).expect("writable");
            for (name, body) in scripts {
                let path = directory.join(name);
                fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("writable");
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("ours");
            }
            Scripts(directory)
        }

        fn launcher(&self) -> ScriptLauncher {
            ScriptLauncher::new(&self.0, ScriptTimeouts::default())
        }
    }

    impl Drop for Scripts {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[tokio::test]
    async fn launches_drops_and_discovers() {
        let scripts = Scripts::new(
            "good",
            &[
                (
                    LAUNCH,
                    r#"echo "{\"id\": \"i-$CUSTOM_INSTANCE_TYPE-$CUSTOM_VOLUME_SIZE\", \"ip\": \"10.0.0.7\"}""#,
                ),
                (DROP, r#"test "$1" = i-1 || { echo "no such instance: $1" >&2; exit 1; }"#),
                (DISCOVER, r#"echo '[{"id":"i-1","ip":"10.0.0.8"},{"id":"i-2","ip":"fd00::9"}]'"#),
            ],
        );
        let launcher = scripts.launcher();
        for (instance_type, volume_size, id) in [(Some("big"), Some(20), "i-big-20"), (None, None, "i--")] {
            let request = LaunchRequest { instance_type: instance_type.map(str::to_owned), volume_size };
            let node = launcher.launch(request).await.expect("launches");
            assert_eq!((node.environment_id.as_str(), node.uri.as_str()), (id, "ws://10.0.0.7:8888/kurento"));
        }
        launcher.stop("i-1").await.expect("drops");
        let refused = launcher.stop("i-9").await.expect_err("unknown").to_string();
        assert!(refused.ends_with("openvidu_drop.sh: exit status: 1: no such instance: i-9"), "{refused}");
        let found = launcher.discover().await.expect("discovers");
        let uris: Vec<_> = found.iter().map(|node| node.uri.as_str()).collect();
        assert_eq!(uris, ["ws://10.0.0.8:8888/kurento", "ws://[fd00::9]:8888/kurento"]);
    }

    #[tokio::test]
    async fn says_what_a_script_did_wrong() {
        let empty = Scripts::new("empty", &[]);
        let missing = empty.launcher().launch(LaunchRequest::default()).await.expect_err("no script");
        assert!(missing.to_string().contains(LAUNCH), "{missing}");
        assert!(matches!(empty.launcher().discover().await, Err(LaunchError::Unsupported(_))));
        for (name, body, part) in [
            ("words", "echo 'instance is up'", "instance is up"),
            ("no-ip", r#"echo '{"id":"i-1"}'"#, "ip"),
            ("bad-ip", r#"echo '{"id":"i-1","ip":"host"}'"#, "host"),
            ("fails", "echo 'no capacity' >&2; exit 7", "exit status: 7: no capacity"),
        ] {
            let scripts = Scripts::new(name, &[(LAUNCH, body)]);
            let error =
                scripts.launcher().launch(LaunchRequest::default()).await.expect_err(name).to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[tokio::test]
    async fn ends_a_script_that_hangs_and_what_it_started() {
        let scripts =
            Scripts::new("hangs", &[(DISCOVER, "sleep 60 & echo $! > \"$(dirname \"$0\")/pid\"; wait")]);
        let limit = Duration::from_millis(500);
        let timeouts = ScriptTimeouts { discover: limit, ..ScriptTimeouts::default() };
        let error = ScriptLauncher::new(&scripts.0, timeouts).discover().await.expect_err("hangs");
        assert!(matches!(error, LaunchError::TimedOut { after, .. } if after == limit), "{error}");
        let pid = fs::read_to_string(scripts.0.join("pid")).expect("it had begun");
        let stat = format!("/proc/{}/stat", pid.trim());
        let gone = async {
            while fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(10), gone).await.expect("killed with its script");
    }

    #[tokio::test]
    async fn output_beyond_the_limit_is_not_kept_and_does_not_block() {
        let scripts = Scripts::new("loud", &[(DISCOVER, "head -c 1000000 /dev/zero | tr '\\0' x; exit 1")]);
        let error = scripts.launcher().discover().await.expect_err("fails");
        assert!(error.to_string().len() < 1_000, "{error}");
    }

    #[test]
    fn words_are_cut_at_a_character() {
        let long = "ä".repeat(MAX_REASON);
        assert_eq!(brief(&long).len(), MAX_REASON);
        assert_eq!(brief(&format!("x{long}")).len(), MAX_REASON - 1);
        assert_eq!(brief("  short \n"), "short");
    }
}
