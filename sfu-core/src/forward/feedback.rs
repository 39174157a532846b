//! RTCP that we originate: when to ask for key frames, when to report, and the reports themselves (RFC 3550 §6,
//! RFC 4585, RFC 5104).
//!
//! ```text
//! request ─▶ send ──── 500 ms ────┬─ asked again meanwhile, no key frame yet ─▶ send
//!              ▲                  │
//!              └────── 1 s ───────┴─ no key frame yet                   a key frame ends it at any time
//! ```
//!
//! A key frame costs a publisher some ten times an ordinary one, and with it every subscriber's bandwidth: the requests
//! of all subscribers are one request.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::ids::Ssrc;
use crate::time::Timestamp;
use crate::wire::WriteError;
use crate::wire::rtcp::{
    CompoundWriter, ReportBlock, SenderInfo, write_receiver_report, write_sdes_cname, write_sender_report,
};

/// Shortest time between two requests for a key frame of one track.
pub const KEY_FRAME_INTERVAL_MIN: Duration = Duration::from_millis(500);
/// A request that no key frame follows is sent again after this.
pub const KEY_FRAME_RETRY: Duration = Duration::from_secs(1);

/// Requests for key frames of one track, on their way to its publisher.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeyFrameRequests {
    last_sent: Option<Timestamp>,
    due: Option<Timestamp>,
    sent: u64,
}

impl KeyFrameRequests {
    /// Nothing asked for.
    pub fn new() -> KeyFrameRequests {
        KeyFrameRequests::default()
    }

    /// Somebody needs a key frame.
    pub fn request(&mut self, now: Timestamp) {
        let allowed = self.last_sent.map_or(now, |at| now.max(at + KEY_FRAME_INTERVAL_MIN));
        self.due = Some(self.due.map_or(allowed, |due| due.min(allowed)));
    }

    /// A key frame begins: whoever asked before has it.
    #[inline]
    pub fn on_key_frame(&mut self, _now: Timestamp) {
        self.due = None;
    }

    /// When [`KeyFrameRequests::poll`] has something to send.
    #[inline]
    pub fn next_timeout(&self) -> Option<Timestamp> {
        self.due
    }

    /// Whether to send a request now. If so, it counts as sent, and is repeated until a key frame comes.
    pub fn poll(&mut self, now: Timestamp) -> bool {
        if self.due.is_none_or(|due| due > now) {
            return false;
        }
        self.last_sent = Some(now);
        self.due = Some(now + KEY_FRAME_RETRY);
        self.sent += 1;
        true
    }

    /// Requests sent so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }
}

/// Mean time between two reports to one peer.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Before the first report: a browser aligns audio and video only after it has a sender report of both.
pub const REPORT_FIRST: Duration = Duration::from_millis(200);

/// When one peer gets its reports. Times are spread, so that peers which joined together do not stay together
/// (RFC 3550 §6.3).
#[derive(Clone, Copy, Debug)]
pub struct ReportSchedule {
    due: Timestamp,
    random: u64,
}

impl ReportSchedule {
    /// `seed`: another one for each peer.
    pub fn new(now: Timestamp, seed: u64) -> ReportSchedule {
        let mut schedule = ReportSchedule { due: now, random: seed };
        schedule.due = now + schedule.spread(REPORT_FIRST);
        schedule
    }

    /// When the next reports are due.
    pub fn next_timeout(&self) -> Timestamp {
        self.due
    }

    /// Whether to report now; if so, the next time is drawn.
    pub fn poll(&mut self, now: Timestamp) -> bool {
        if now < self.due {
            return false;
        }
        self.due = now + self.spread(REPORT_INTERVAL);
        true
    }

    /// `mean` times 0.5 to 1.5, evenly.
    fn spread(&mut self, mean: Duration) -> Duration {
        // SplitMix64: any seed will do, zero included.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        mean / 2 + mean * ((mixed >> 48) as u32) / 0x1_0000
    }
}

/// Writes the reports for one peer as a compound packet and returns its length.
///
/// `reports`: what we send to the peer; without any, a receiver report of `sender` stands in front. `blocks`: what we
/// receive from it, 31 at most. Each SSRC comes with its CNAME (RFC 3550 §6.1).
/// # Errors
/// `NoSpace`: give fewer at a time. `OutOfRange`: more than 31 blocks, or a CNAME above 255 bytes.
pub fn write_reports(
    out: &mut [u8],
    sender: Ssrc,
    cname: &str,
    reports: &[(Ssrc, SenderInfo)],
    blocks: &[ReportBlock],
) -> Result<usize, WriteError> {
    let mut compound = CompoundWriter::new(out);
    let Some(((first, info), others)) = reports.split_first() else {
        compound.push(|out| write_receiver_report(out, sender, blocks))?;
        compound.push(|out| write_sdes_cname(out, sender, cname))?;
        return Ok(compound.len());
    };
    compound.push(|out| write_sender_report(out, *first, info, blocks))?;
    for (ssrc, info) in others {
        compound.push(|out| write_sender_report(out, *ssrc, info, &[]))?;
    }
    for (ssrc, _) in reports {
        compound.push(|out| write_sdes_cname(out, *ssrc, cname))?;
    }
    Ok(compound.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::NtpTime;
    use crate::wire::rtcp::{Compound, Message};

    fn ms(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    #[derive(Clone, Copy, Debug)]
    enum At {
        Request(u64),
        KeyFrame(u64),
    }
    use At::{KeyFrame, Request};

    /// When requests go out, until 3 s.
    fn sent(events: &[At]) -> Vec<u64> {
        let mut requests = KeyFrameRequests::new();
        let mut events = events.iter().peekable();
        (0..3_000)
            .filter(|now| {
                let due = |at: &u64| at == now;
                while let Some(event) = events.next_if(|event| match event {
                    Request(at) | KeyFrame(at) => due(at),
                }) {
                    match event {
                        Request(_) => requests.request(ms(*now)),
                        KeyFrame(_) => requests.on_key_frame(ms(*now)),
                    }
                }
                requests.poll(ms(*now))
            })
            .collect()
    }

    #[test]
    fn key_frame_requests_are_merged_and_repeated() {
        let cases: &[(&[At], &[u64])] = &[
            (&[], &[]),
            (&[KeyFrame(5)], &[]),
            (&[Request(10)], &[10, 1010, 2010]),
            (&[Request(10), KeyFrame(60)], &[10]),
            // Inside the window: once, at its end, unless a key frame comes before.
            (&[Request(10), Request(20), Request(400), KeyFrame(600)], &[10, 510]),
            (&[Request(10), Request(20), KeyFrame(300)], &[10]),
            // A key frame does not shorten the window.
            (&[Request(10), KeyFrame(60), Request(70), KeyFrame(520)], &[10, 510]),
            (&[Request(10), KeyFrame(60), Request(800), KeyFrame(850)], &[10, 800]),
            // Between window and retry: at once.
            (&[Request(10), Request(700), KeyFrame(750)], &[10, 700]),
        ];
        for (events, expected) in cases {
            assert_eq!(sent(events), *expected, "{events:?}");
        }
    }

    #[test]
    fn reports_are_spread_around_a_second() {
        for seed in [0, 1, u64::MAX] {
            let mut schedule = ReportSchedule::new(ms(0), seed);
            assert!((100..=300).contains(&schedule.next_timeout().as_millis()));
            let mut gaps = Vec::new();
            for _ in 0..1000 {
                let at = schedule.next_timeout();
                assert!(!schedule.poll(at - Duration::from_nanos(1)));
                assert!(schedule.poll(at));
                gaps.push(schedule.next_timeout().since(at).as_millis() as u64);
            }
            assert!(gaps.iter().all(|gap| (500..=1500).contains(gap)));
            let mean = gaps.iter().sum::<u64>() / 1000;
            assert!((950..=1050).contains(&mean), "{mean}");
        }
        assert_ne!(
            ReportSchedule::new(ms(0), 1).next_timeout(),
            ReportSchedule::new(ms(0), 2).next_timeout()
        );
    }

    /// The messages as one word each.
    fn kinds(bytes: &[u8]) -> Vec<String> {
        let compound = Compound::parse(bytes).unwrap();
        let kind = |message| match message {
            Message::SenderReport(sr) => format!("SR {} {}", sr.ssrc, sr.blocks().count()),
            Message::ReceiverReport(rr) => format!("RR {} {}", rr.ssrc, rr.blocks().count()),
            Message::Sdes(sdes) => {
                let chunk = sdes.chunks().next().unwrap();
                format!("SDES {} {}", chunk.ssrc, String::from_utf8_lossy(chunk.cname().unwrap()))
            }
            Message::Pli(pli) => format!("PLI {} {}", pli.sender, pli.media),
            other => format!("{other:?}"),
        };
        compound.messages().map(|message| kind(message.unwrap())).collect()
    }

    #[test]
    fn compounds_begin_with_a_report_and_name_every_source() {
        let info = SenderInfo { ntp: NtpTime(1), rtp_timestamp: 2, packets: 3, octets: 4 };
        let blocks = [ReportBlock { ssrc: Ssrc(9), ..ReportBlock::default() }; 2];
        let mut out = [0; 400];
        let mut written = |reports: &[(Ssrc, SenderInfo)], blocks: &[ReportBlock]| {
            let len = write_reports(&mut out, Ssrc(1), "c", reports, blocks).unwrap();
            kinds(&out[..len])
        };
        assert_eq!(written(&[], &blocks), ["RR 1 2", "SDES 1 c"]);
        assert_eq!(
            written(&[(Ssrc(5), info), (Ssrc(6), info)], &blocks),
            ["SR 5 2", "SR 6 0", "SDES 5 c", "SDES 6 c"]
        );
        assert_eq!(
            write_reports(&mut out[..36], Ssrc(1), "c", &[(Ssrc(5), info)], &[]),
            Err(WriteError::NoSpace)
        );
    }
}
