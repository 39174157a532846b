//! Why something ended: the `reason` of notifications and events.
#![forbid(unsafe_code)]

wire_enum!(
    /// End reasons (`events.md` section 6, `signaling.md` section 4).
    Reason {
        /// Client unsubscribed.
        Unsubscribe = "unsubscribe",
        /// Client unpublished.
        Unpublish = "unpublish",
        /// Client left.
        Disconnect = "disconnect",
        /// Moderator unpublished a stream.
        ForceUnpublishByUser = "forceUnpublishByUser",
        /// REST `DELETE stream`.
        ForceUnpublishByServer = "forceUnpublishByServer",
        /// Moderator evicted a participant.
        ForceDisconnectByUser = "forceDisconnectByUser",
        /// REST `DELETE connection`.
        ForceDisconnectByServer = "forceDisconnectByServer",
        /// Session is empty.
        LastParticipantLeft = "lastParticipantLeft",
        /// REST stop recording.
        RecordingStoppedByServer = "recordingStoppedByServer",
        /// REST stop broadcast.
        BroadcastStoppedByServer = "broadcastStoppedByServer",
        /// REST `DELETE session`.
        SessionClosedByServer = "sessionClosedByServer",
        /// Client lost.
        NetworkDisconnect = "networkDisconnect",
        /// Media node removed on purpose.
        MediaServerDisconnect = "mediaServerDisconnect",
        /// Media process restarted, node reconnected.
        MediaServerReconnect = "mediaServerReconnect",
        /// Media node lost.
        NodeCrashed = "nodeCrashed",
        /// Server stopped or restarted on purpose.
        OpenviduServerStopped = "openviduServerStopped",
        /// Recording auto-stop timeout.
        AutomaticStop = "automaticStop",
    }
);

impl Reason {
    /// The reason that `sessionDestroyed` carries when a participant's leaving for `self` left the session empty.
    pub fn of_emptied_session(self) -> Self {
        match self {
            Self::Disconnect
            | Self::ForceDisconnectByUser
            | Self::ForceDisconnectByServer
            | Self::NetworkDisconnect => Self::LastParticipantLeft,
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emptied_session_names_the_last_leaver_or_the_cause_for_all() {
        for (reason, expected) in [
            (Reason::Disconnect, Reason::LastParticipantLeft),
            (Reason::NetworkDisconnect, Reason::LastParticipantLeft),
            (Reason::ForceDisconnectByServer, Reason::LastParticipantLeft),
            (Reason::SessionClosedByServer, Reason::SessionClosedByServer),
            (Reason::NodeCrashed, Reason::NodeCrashed),
        ] {
            assert_eq!(reason.of_emptied_session(), expected);
        }
        assert_eq!(Reason::parse("nodeCrashed"), Some(Reason::NodeCrashed));
        assert_eq!(Reason::parse("NodeCrashed"), None);
    }
}
