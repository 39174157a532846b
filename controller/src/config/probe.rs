//! What a value has to meet outside: a directory that can be written, a script that is there. Asked while the configuration
//! is checked, so that `POST /restart` refuses what the next start would fail on, and nothing is left behind.
#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::path::Path;

/// Whether a file can be written into `directory`, which need not exist if it can be made.
///
/// # Errors
/// The disk's.
pub fn writable(directory: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = directory.ancestors().take_while(|path| !path.exists()).collect();
    let file = directory.join(".weir-probe");
    let written = fs::create_dir_all(directory)
        .and_then(|()| fs::write(&file, b""))
        .and_then(|()| fs::remove_file(&file));
    for path in missing {
        // Whoever runs the check need not be who runs the server: it shall not own the directory.
        let _ = fs::remove_dir(path);
    }
    written
}

/// Whether there is a file.
pub fn is_file(path: &Path) -> bool {
    path.is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_leaves_nothing_behind() {
        let base = std::env::temp_dir().join(format!("weir-probe-{}", std::process::id()));
        fs::create_dir_all(&base).unwrap();
        writable(&base.join("a/b/")).unwrap();
        assert!(writable(&base).is_ok() && !base.join("a").exists());
        fs::write(base.join("file"), b"").unwrap();
        for bad in [base.join("file"), base.join("file/below"), "/proc/nowhere/cdr".into()] {
            assert!(writable(&bad).is_err(), "{}", bad.display());
        }
        assert_eq!(fs::read_dir(&base).unwrap().count(), 1);
        fs::remove_dir_all(&base).unwrap();
    }
}
