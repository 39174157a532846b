//! ICE-lite: we answer checks and let the peer choose (RFC 8445 §2.5), and we send only while it consents (RFC 7675).
//!
//! ```text
//! check authenticated ─▶ pair is valid (DTLS is accepted from it)
//! check with USE-CANDIDATE ─▶ pair is selected (we send there); the last one named wins
//! selected pair without a check for 6 s, another one with ─▶ that one is selected
//! selected pair without a check for 10 s ─▶ disconnected; for 30 s ─▶ expired
//! ```
//!
//! Consent is the selected pair's own: a check from elsewhere says nothing about who gets our media. Only Chromium nominates
//! with each of its checks; behind a NAT that has given Firefox another port, a check from the new one is all there is to see.
//!
//! Left out: sending checks of our own, candidate priorities, TCP candidates.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::Pair;
use crate::prefetch::prefetch;
use crate::time::Timestamp;

/// Peers probe from every interface they have; more than this many addresses are not kept.
const MAX_VALID_PAIRS: usize = 8;
/// Chromium repeats a check every 2.5 s on the pair in use; others every 5 s, a fifth more or less (RFC 7675 §5.1). A pair
/// that missed this is left for one that did not.
const SILENT_AFTER: Duration = Duration::from_millis(6_500);
/// Silence of the selected pair when no other one is checked.
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
    /// The pair is valid, perhaps since long: route its datagrams here.
    pub valid: Option<Pair>,
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
    /// Pairs and their last check.
    valid: Vec<(Pair, Timestamp)>,
    /// One of them.
    selected: Option<Pair>,
    opened: Timestamp,
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
            opened: now,
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

    /// Whether `pair` was checked so lately that it is this agent's, whoever else claims it. Everybody in a call knows a
    /// password of their own, and can write another's address on a datagram.
    pub fn holds(&self, now: Timestamp, pair: Pair) -> bool {
        self.checked(pair).is_some_and(|at| now.since(at) < SILENT_AFTER)
    }

    /// Records a check whose integrity was verified.
    pub fn on_check(&mut self, now: Timestamp, pair: Pair, use_candidate: bool) -> CheckOutcome {
        let mut outcome = CheckOutcome { valid: Some(pair), ..CheckOutcome::default() };
        match self.valid.iter_mut().find(|(known, _)| *known == pair) {
            Some((_, seen)) => *seen = now,
            None => {
                outcome.removed = self.make_room();
                self.valid.push((pair, now));
            }
        }
        // Before any nomination the first valid pair serves, so that our DTLS flight has somewhere to go.
        if use_candidate || self.selected.is_none() {
            outcome.selected = self.select(pair);
        }
        outcome.selected |= self.leave_silent(now);
        outcome
    }

    /// Selects the pair that was checked last when the selected one has gone silent. Returns whether we send elsewhere from
    /// now on.
    pub fn leave_silent(&mut self, now: Timestamp) -> bool {
        if self.selected.is_none_or(|pair| self.holds(now, pair)) {
            return false;
        }
        let freshest = self.valid.iter().max_by_key(|(_, seen)| *seen).map(|(pair, _)| *pair);
        freshest.filter(|pair| self.holds(now, *pair)).is_some_and(|pair| self.select(pair))
    }

    /// How fresh the peer's consent is at `now`.
    pub fn consent(&self, now: Timestamp) -> Consent {
        let (since, waiting) = self.last_check();
        match now.since(since) {
            silent if silent >= EXPIRED_AFTER => Consent::Expired,
            _ if waiting => Consent::Waiting,
            silent if silent >= DISCONNECTED_AFTER => Consent::Late,
            _ => Consent::Fresh,
        }
    }

    /// When [`IceLite::consent`] or [`IceLite::leave_silent`] can change something next without a check.
    pub fn next_timeout(&self, now: Timestamp) -> Timestamp {
        let (since, waiting) = self.last_check();
        let silent = now.since(since);
        if !waiting && silent < SILENT_AFTER && self.valid.len() > 1 {
            since + SILENT_AFTER
        } else if !waiting && silent < DISCONNECTED_AFTER {
            since + DISCONNECTED_AFTER
        } else {
            since + EXPIRED_AFTER
        }
    }

    /// The last check of the selected pair; when the agent was made and `true`, if there is none.
    fn last_check(&self) -> (Timestamp, bool) {
        let at = self.selected.and_then(|pair| self.checked(pair));
        (at.unwrap_or(self.opened), at.is_none())
    }

    fn checked(&self, pair: Pair) -> Option<Timestamp> {
        self.valid.iter().find(|(known, _)| *known == pair).map(|(_, seen)| *seen)
    }

    fn select(&mut self, pair: Pair) -> bool {
        self.selected.replace(pair) != Some(pair)
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
    fn a_silent_pair_is_left_for_the_freshest_of_the_others() {
        let at = Timestamp::from_millis;
        let mut ice = agent();
        ice.on_check(at(0), pair(1), true);
        ice.on_check(at(1_000), pair(2), false);
        ice.on_check(at(2_000), pair(3), false);
        assert_eq!(ice.next_timeout(at(2_000)), at(6_500));
        assert!(!ice.leave_silent(at(6_499)));
        assert!(ice.leave_silent(at(6_500)));
        assert_eq!(ice.selected(), Some(pair(3)));
        // Nobody is checked any more: the last one stays until consent expires.
        assert!(!ice.leave_silent(at(20_000)));
        assert_eq!(ice.consent(at(31_999)), Consent::Late);
        assert_eq!(ice.consent(at(32_000)), Consent::Expired);
        // A check from anywhere is where the peer is now.
        assert!(ice.on_check(at(20_000), pair(1), false).selected);
        assert_eq!(ice.consent(at(20_000)), Consent::Fresh);
    }

    #[test]
    fn a_check_from_elsewhere_is_no_consent_for_the_selected_pair() {
        let mut ice = agent();
        ice.on_check(Timestamp::ZERO, pair(1), false);
        // Nominated once, in somebody else's name.
        ice.on_check(Timestamp::ZERO, pair(2), true);
        assert_eq!(ice.selected(), Some(pair(2)));
        for ms in [2_500, 5_000] {
            assert!(!ice.on_check(Timestamp::from_millis(ms), pair(1), false).selected);
        }
        assert!(ice.on_check(Timestamp::from_millis(7_500), pair(1), false).selected);
        assert_eq!(ice.selected(), Some(pair(1)));
    }

    #[test]
    fn a_pair_is_held_for_as_long_as_it_is_not_silent() {
        let mut ice = agent();
        ice.on_check(Timestamp::ZERO, pair(1), true);
        assert!(ice.holds(Timestamp::from_millis(6_499), pair(1)));
        assert!(!ice.holds(Timestamp::from_millis(6_500), pair(1)));
        assert!(!ice.holds(Timestamp::ZERO, pair(2)));
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
