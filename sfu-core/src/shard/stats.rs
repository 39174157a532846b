//! Counters of a shard. The shard counts in plain integers; once a turn it copies them into [`Gauges`], which other
//! threads read without a lock.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use crate::drop_reason::DropReason;

macro_rules! counters {
    ($($(#[$meta:meta])* $name:ident,)*) => {
        /// Plain counters, owned by the shard. All of them only grow, but for the sizes at the end.
        #[derive(Clone, Debug)]
        pub struct Counters {
            $($(#[$meta])* pub $name: u64,)*
            /// Datagrams not forwarded, by reason.
            pub drops: [u64; DropReason::COUNT],
        }

        impl Default for Counters {
            fn default() -> Self {
                Self { $($name: 0,)* drops: [0; DropReason::COUNT] }
            }
        }

        /// The same figures for readers on other threads; on cache lines of their own.
        #[repr(align(128))]
        #[derive(Debug)]
        pub struct Gauges {
            $($name: AtomicU64,)*
            drops: [AtomicU64; DropReason::COUNT],
        }

        impl Default for Gauges {
            fn default() -> Self {
                Self { $($name: AtomicU64::new(0),)* drops: [const { AtomicU64::new(0) }; DropReason::COUNT] }
            }
        }

        impl Gauges {
            /// Publishes `counters`. Each figure is consistent by itself; together they may be one turn apart.
            pub fn publish(&self, counters: &Counters) {
                $(self.$name.store(counters.$name, Ordering::Relaxed);)*
                for (gauge, value) in self.drops.iter().zip(counters.drops) {
                    gauge.store(value, Ordering::Relaxed);
                }
            }

            /// Reads everything.
            pub fn snapshot(&self) -> Counters {
                let mut drops = [0; DropReason::COUNT];
                for (value, gauge) in drops.iter_mut().zip(&self.drops) {
                    *value = gauge.load(Ordering::Relaxed);
                }
                Counters { $($name: self.$name.load(Ordering::Relaxed),)* drops }
            }

            /// Names and values, for metrics.
            pub fn fields(counters: &Counters) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), counters.$name),)*]
            }
        }
    };
}

counters! {
    /// Nanoseconds in turns that had something to do.
    busy_ns,
    /// Nanoseconds since the shard began.
    wall_ns,
    /// Turns that had something to do.
    turns,
    /// Datagrams received.
    packets_in,
    /// UDP payload bytes received.
    bytes_in,
    /// Datagrams sent.
    packets_out,
    /// UDP payload bytes sent.
    bytes_out,
    /// Messages handed to the kernel: GSO runs.
    messages_out,
    /// Those of the messages that left as frames, by a packet socket.
    frames_out,
    /// RTP packets forwarded, copies counted one by one.
    rtp_forwarded,
    /// RTP packets received and authenticated.
    rtp_in,
    /// RTCP packets received and authenticated.
    rtcp_in,
    /// Packets sent again on a peer's NACK.
    resent,
    /// NACKed packets that were not in the cache any more.
    resend_missed,
    /// Packets not sent again because too many waited for that.
    resend_overflow,
    /// Sequence numbers we asked publishers to send again.
    nacked,
    /// Key frame requests sent to publishers.
    key_frame_requests,
    /// Packets that could not be kept for resending, for want of free slots.
    cache_skipped,
    /// Audio packets that waited for a frame to go behind.
    audio_held,
    /// How long those waited, together, microseconds.
    audio_held_us,
    /// STUN checks answered.
    stun_checks,
    /// DTLS handshakes completed.
    handshakes,
    /// DTLS handshakes that failed.
    handshakes_failed,
    /// Transports whose consent expired.
    consent_expired,
    /// Control datagrams dropped because the outbox was full.
    outbox_dropped,
    /// Events dropped because the control thread did not take them.
    events_dropped,
    /// Gather window in use, microseconds.
    gather_window_us,
    /// Free receive slots.
    slots_free,
    /// Open rooms.
    rooms,
    /// Open transports.
    transports,
    /// Publications.
    publications,
    /// Subscriptions.
    subscriptions,
}

impl Counters {
    /// Counts one datagram that was not forwarded.
    pub fn drop(&mut self, reason: DropReason) {
        self.drops[reason as usize] += 1;
    }

    /// Datagrams not forwarded for `reason`.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_read() {
        let mut counters = Counters { packets_in: 7, rooms: 2, ..Counters::default() };
        counters.drop(DropReason::Replayed);
        let gauges = Gauges::default();
        gauges.publish(&counters);
        let read = gauges.snapshot();
        assert_eq!((read.packets_in, read.rooms, read.dropped(DropReason::Replayed)), (7, 2, 1));
        assert!(Gauges::fields(&read).contains(&("packets_in", 7)));
    }
}
