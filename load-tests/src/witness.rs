//! Browsers that join a loaded session and report what they decoded.
