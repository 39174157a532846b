//! Signals: who gets them, and what they may cost.

use std::sync::Arc;

use serde_json::{Value, json};

use super::harness::{Bench, Member};
use crate::engine::{Input, Output, SignalRequest};

/// Params of a signal to these.
fn signal_to(to: &[&Member], data: &str) -> Value {
    let to: Vec<_> = to.iter().map(|member| member.id.as_str()).collect();
    json!({ "message": json!({ "to": to, "data": data, "type": "signal:x" }).to_string() })
}

#[test]
fn who_is_named_many_times_is_told_once() {
    let mut bench = Bench::new();
    let members = bench.room_of(3);
    let to = [&members[1], &members[0], &members[1], &members[1]];
    bench.ask(members[0].client, "sendMessage", signal_to(&to, "hi"));
    assert_eq!(bench.methods(members[0].client), ["sendMessage", "#result"]);
    assert_eq!(bench.methods(members[1].client), ["sendMessage"]);
    assert_eq!(bench.methods(members[2].client), [""; 0]);
    let told = json!([members[1].id, members[0].id]);
    assert_eq!(bench.records[0].fields["to"], told, "in the order in which they were named");

    let to = vec![members[2].id.clone(); 5];
    let signal = SignalRequest { session: "S".into(), to, signal_type: None, data: None };
    let mut out = Vec::new();
    bench.engine.send_signal(bench.now, &signal, &mut out).expect("sent");
    bench.carry_out(out);
    assert_eq!(bench.methods(members[2].client), ["sendMessage"]);
}

#[test]
fn recipients_share_one_text() {
    let mut bench = Bench::new();
    let members = bench.room_of(3);
    let params = signal_to(&[], &"x".repeat(100_000));
    let text = json!({ "jsonrpc": "2.0", "method": "sendMessage", "id": 1, "params": params }).to_string();
    let mut out = Vec::new();
    bench.engine.handle(bench.now, Input::SocketText { client: members[0].client, text }, &mut out);
    let long = |output: &Output| match output {
        Output::SocketText { text, .. } => Some(text.clone()).filter(|text| text.len() > 100_000),
        _ => None,
    };
    let texts: Vec<_> = out.iter().filter_map(long).collect();
    assert_eq!(texts.len(), 3);
    assert!(texts.iter().all(|text| Arc::ptr_eq(text, &texts[0])));
}
