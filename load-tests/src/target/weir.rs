//! Weir over REST and JSON-RPC.
