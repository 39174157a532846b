//! ICE-lite: we answer checks and let the peer choose (RFC 8445 §2.5), and we send only while it consents (RFC 7675).
//!
//! ```text
//! check authenticated ─▶ pair is valid (DTLS is accepted from it)
//! check with USE-CANDIDATE ─▶ pair is selected (we send there); the last one named wins
//! no authenticated check for 10 s ─▶ disconnected; for 30 s ─▶ expired
//! ```
//!
//! Left out: sending checks of our own, candidate priorities, TCP candidates.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::Pair;
use crate::prefetch::prefetch;
use crate::time::Timestamp;

/// Peers probe from every interface they have; more than this many addresses are not kept.
const MAX_VALID_PAIRS: usize = 8;
/// Chromium repeats a check every 2.5 s on the pair in use, Firefox every 5 s.
const DISCONNECTED_AFTER: Duration = Duration::from_secs(10);
/// RFC 7675 §5.1.
const EXPIRED_AFTER: Duration = Duration::from_secs(30);

/// How fresh the peer's consent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// No check came yet.
    Waiting,
    /// Checks come in.
    Fresh,
    /// None for some seconds: still sending.
    Late,
    /// None for 30 s: sending must stop.
    Expired,
}

/// What a valid check changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckOutcome {
    /// The pair was not valid before: route its datagrams here.
    pub added: Option<Pair>,
    /// A pair that had to make room: route it no longer.
    pub removed: Option<Pair>,
    /// We send to another pair from now on.
    pub selected: bool,
}

/// The state of one transport's ICE agent.
pub struct IceLite {
    ufrag: Box<str>,
    pwd: Box<str>,
    remote_ufrag: Option<Box<str>>,
    valid: Vec<(Pair, Timestamp)>,
    selected: Option<Pair>,
    nominated: bool,
    opened: Timestamp,
    last_check: Option<Timestamp>,
}

impl IceLite {
    /// An agent that answers checks for `ufrag` with `pwd`.
    pub fn new(now: Timestamp, ufrag: &str, pwd: &str) -> Self {
        Self {
            ufrag: ufrag.into(),
            pwd: pwd.into(),
            remote_ufrag: None,
            valid: Vec::with_capacity(MAX_VALID_PAIRS),
            selected: None,
            nominated: false,
            opened: now,
            last_check: None,
        }
    }

    /// Our user fragment.
    pub fn ufrag(&self) -> &str {
        &self.ufrag
    }

    /// Our password: the key of MESSAGE-INTEGRITY.
    pub fn pwd(&self) -> &str {
        &self.pwd
    }

    /// From now on USERNAME must end in `ufrag`.
    pub fn set_remote_ufrag(&mut self, ufrag: &str) {
        self.remote_ufrag = Some(ufrag.into());
    }

    /// Whether a check that names `remote` as the peer's ufrag can be meant for this agent.
    pub fn accepts_remote(&self, remote: &str) -> bool {
        self.remote_ufrag.as_deref().is_none_or(|expected| expected == remote)
    }

    /// Where to send.
    pub fn selected(&self) -> Option<Pair> {
        self.selected
    }

    /// Asks for where to send.
    #[inline]
    pub fn prefetch_selected(&self) {
        prefetch(&self.selected);
    }

    /// Every pair that routes here.
    pub fn valid_pairs(&self) -> impl Iterator<Item = Pair> + '_ {
        self.valid.iter().map(|(pair, _)| *pair)
    }

    /// Records a check whose integrity was verified.
    pub fn on_check(&mut self, now: Timestamp, pair: Pair, use_candidate: bool) -> CheckOutcome {
        let mut outcome = CheckOutcome::default();
        self.last_check = Some(now);
        match self.valid.iter_mut().find(|(known, _)| *known == pair) {
            Some((_, seen)) => *seen = now,
            None => {
                outcome.removed = self.make_room();
                self.valid.push((pair, now));
                outcome.added = Some(pair);
            }
        }
        // Before any nomination the first valid pair serves, so that our DTLS flight has somewhere to go.
        let select = use_candidate || (!self.nominated && self.selected.is_none());
        if select && self.selected != Some(pair) {
            self.selected = Some(pair);
            outcome.selected = true;
        }
        self.nominated |= use_candidate;
        outcome
    }

    /// How fresh the peer's consent is at `now`.
    pub fn consent(&self, now: Timestamp) -> Consent {
        let silent = now.since(self.last_check.unwrap_or(self.opened));
        match self.last_check {
            _ if silent >= EXPIRED_AFTER => Consent::Expired,
            None => Consent::Waiting,
            Some(_) if silent >= DISCONNECTED_AFTER => Consent::Late,
            Some(_) => Consent::Fresh,
        }
    }

    /// When [`IceLite::consent`] can change next without a check.
    pub fn next_timeout(&self, now: Timestamp) -> Timestamp {
        let since = self.last_check.unwrap_or(self.opened);
        if self.consent(now) == Consent::Fresh { since + DISCONNECTED_AFTER } else { since + EXPIRED_AFTER }
    }

    fn make_room(&mut self) -> Option<Pair> {
        if self.valid.len() < MAX_VALID_PAIRS {
            return None;
        }
        let selected = self.selected;
        let (oldest, _) = self
            .valid
            .iter()
            .enumerate()
            .filter(|(_, (pair, _))| Some(*pair) != selected)
            .min_by_key(|(_, (_, seen))| *seen)?;
        Some(self.valid.swap_remove(oldest).0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::LocalId;

    fn pair(port: u16) -> Pair {
        Pair { remote: ([192, 0, 2, 1], port).into(), local: LocalId(0) }
    }

    fn agent() -> IceLite {
        IceLite::new(Timestamp::ZERO, "abcd", "0123456789012345678901")
    }

    #[test]
    fn first_pair_serves_until_one_is_nominated() {
        let mut ice = agent();
        assert!(ice.on_check(Timestamp::ZERO, pair(1), false).selected);
        assert!(!ice.on_check(Timestamp::ZERO, pair(2), false).selected);
        assert!(ice.on_check(Timestamp::ZERO, pair(2), true).selected);
        assert!(!ice.on_check(Timestamp::ZERO, pair(1), false).selected);
        assert_eq!(ice.selected(), Some(pair(2)));
    }

    #[test]
    fn pairs_are_bounded_and_the_selected_one_stays() {
        let mut ice = agent();
        ice.on_check(Timestamp::ZERO, pair(1), true);
        for port in 2..=8 {
            assert_eq!(
                ice.on_check(Timestamp::from_millis(u64::from(port)), pair(port), false).removed,
                None
            );
        }
        let outcome = ice.on_check(Timestamp::from_millis(20), pair(9), false);
        assert_eq!(outcome.removed, Some(pair(2)));
        assert_eq!(ice.valid_pairs().count(), MAX_VALID_PAIRS);
        assert!(ice.valid_pairs().any(|p| p == pair(1)));
    }

    #[test]
    fn consent_goes_late_and_expires() {
        let mut ice = agent();
        assert_eq!(ice.consent(Timestamp::from_millis(9_000)), Consent::Waiting);
        assert_eq!(ice.consent(Timestamp::from_millis(30_000)), Consent::Expired);
        ice.on_check(Timestamp::from_millis(1_000), pair(1), true);
        for (ms, expected) in [(10_999, Consent::Fresh), (11_000, Consent::Late), (31_000, Consent::Expired)]
        {
            assert_eq!(ice.consent(Timestamp::from_millis(ms)), expected, "{ms}");
        }
        assert_eq!(ice.next_timeout(Timestamp::from_millis(2_000)), Timestamp::from_millis(11_000));
        assert_eq!(ice.next_timeout(Timestamp::from_millis(12_000)), Timestamp::from_millis(31_000));
    }
}
