//! CDR files over HTTP: the list at `/openvidu/cdr`, each file below it.

use std::path::Path;

use hyper::StatusCode;
use serde_json::Value;

use super::reply::{self, Reply};

/// JSON array of the names of CDR files, sorted; empty when there is no directory.
pub async fn list(directory: &Path) -> Reply {
    let mut names = Vec::new();
    if let Ok(mut entries) = tokio::fs::read_dir(directory).await {
        while let Ok(Some(entry)) = entries.next_entry().await {
            names.extend(entry.file_name().into_string().ok().filter(|name| is_cdr_name(name)));
        }
    }
    names.sort_unstable();
    reply::json(StatusCode::OK, &Value::from(names))
}

/// One CDR file, or 404.
pub async fn one(directory: &Path, name: &str) -> Reply {
    if !is_cdr_name(name) {
        return reply::empty(StatusCode::NOT_FOUND);
    }
    let opened = async {
        let file = tokio::fs::File::open(directory.join(name)).await?;
        let meta = file.metadata().await?;
        std::io::Result::Ok((file, meta))
    };
    match opened.await {
        Ok((file, meta)) if meta.is_file() => reply::file("text/plain; charset=utf-8", file, meta.len()),
        _ => reply::empty(StatusCode::NOT_FOUND),
    }
}

/// `CDR.<date and time>.log`: nothing else of the directory is shown, and no name leads out of it.
fn is_cdr_name(name: &str) -> bool {
    let middle = name.strip_prefix("CDR.").and_then(|rest| rest.strip_suffix(".log"));
    middle.is_some_and(|m| !m.is_empty() && m.bytes().all(|b| b.is_ascii_digit() || b == b'-' || b == b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_cdr_files_are_named() {
        for good in ["CDR.2026-11-22_23-59-59.log", "CDR.1.log"] {
            assert!(is_cdr_name(good), "{good}");
        }
        for bad in [
            "",
            "CDR..log",
            "CDR.log",
            "../CDR.1.log",
            "CDR./1.log",
            "CDR.a.log",
            "events.redb",
            "CDR.1.log.gz",
        ] {
            assert!(!is_cdr_name(bad), "{bad}");
        }
    }
}
