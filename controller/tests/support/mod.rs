//! A `weir` process that can be killed and started again, and HTTP clients for it.

#![allow(dead_code, reason = "each test uses its part")]

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// Long enough for a debug build on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A port that is free now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A process of ours, ended with its handle.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts `weir` with these arguments and nothing but these variables.
    pub(crate) fn start(arguments: &[&str], variables: &[(String, String)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        command.args(arguments).current_dir(std::env::temp_dir()).env_clear();
        command.envs(variables.iter().map(|(name, value)| (name, value))).stdout(Stdio::null());
        if std::env::var_os("WEIR_TEST_LOG").is_none() {
            command.stderr(Stdio::null());
        }
        Self { child: command.spawn().unwrap() }
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A directory that goes with its handle.
pub(crate) struct Dir(pub(crate) PathBuf);

impl Dir {
    /// An empty one.
    pub(crate) fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("weir-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    /// A path in it, as text.
    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One kept connection to the REST API.
pub(crate) struct Rest {
    sender: SendRequest<Full<Bytes>>,
}

impl Rest {
    /// `None` while nobody listens.
    pub(crate) async fn connect(port: u16) -> Option<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        Some(Self { sender })
    }

    /// Status and body; `None` when the server is gone before it answered.
    pub(crate) async fn ask(
        &mut self,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Option<(u16, Value)> {
        let request = Request::builder()
            .method(method)
            .uri(format!("/openvidu/api/{path}"))
            .header("host", "localhost")
            // OPENVIDUAPP:MY_SECRET
            .header("authorization", "Basic T1BFTlZJRFVBUFA6TVlfU0VDUkVU")
            .header("content-type", "application/json")
            .body(Full::new(body.map(|body| body.to_string().into()).unwrap_or_default()))
            .unwrap();
        self.sender.ready().await.ok()?;
        let (parts, body) = self.sender.send_request(request).await.ok()?.into_parts();
        let bytes = body.collect().await.ok()?.to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Some((parts.status.as_u16(), body))
    }
}

/// Waits until `ready` gives a value.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ready: impl FnMut() -> F) -> T {
    let found = timeout(PATIENCE, async {
        loop {
            if let Some(value) = ready().await {
                return value;
            }
            sleep(Duration::from_millis(30)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}

/// Waits until the API answers.
pub(crate) async fn listening(port: u16) -> Rest {
    until("the REST API", || async {
        let mut rest = Rest::connect(port).await?;
        rest.ask("GET", "status", None).await.filter(|(status, _)| *status == 200).map(|_| rest)
    })
    .await
}
