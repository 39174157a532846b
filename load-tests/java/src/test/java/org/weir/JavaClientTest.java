package org.weir;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.openvidu.java.client.Connection;
import io.openvidu.java.client.ConnectionProperties;
import io.openvidu.java.client.ConnectionType;
import io.openvidu.java.client.OpenVidu;
import io.openvidu.java.client.OpenViduHttpException;
import io.openvidu.java.client.OpenViduRole;
import io.openvidu.java.client.Session;
import io.openvidu.java.client.SessionProperties;
import io.openvidu.java.client.VideoCodec;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/** What an application server in Java does: the whole life of sessions and connections through the official client. */
class JavaClientTest {
  private static Weir weir;
  private static OpenVidu openvidu;

  @BeforeAll
  static void start() throws Exception {
    weir = Weir.start();
    openvidu = new OpenVidu(weir.url, Weir.SECRET);
  }

  @AfterAll
  static void stop() throws Exception {
    weir.close();
  }

  @Test
  void aSessionKeepsItsPropertiesAndEnds() throws Exception {
    SessionProperties wanted =
        new SessionProperties.Builder().customSessionId("java").forcedVideoCodec(VideoCodec.H264).allowTranscoding(false).build();
    Session session = openvidu.createSession(wanted);
    assertEquals("java", session.getSessionId());
    assertEquals(VideoCodec.H264, session.getProperties().forcedVideoCodec());
    assertTrue(session.createdAt() > 1_600_000_000_000L);

    openvidu.fetch();
    assertTrue(openvidu.getActiveSessions().stream().anyMatch(one -> one.getSessionId().equals("java")));
    // The same id again is the same session.
    assertEquals("java", openvidu.createSession(wanted).getSessionId());

    session.close();
    openvidu.fetch();
    assertTrue(openvidu.getActiveSessions().stream().noneMatch(one -> one.getSessionId().equals("java")));
  }

  @Test
  void connectionsAreMadeChangedAndTakenBack() throws Exception {
    Session session = openvidu.createSession();
    ConnectionProperties properties =
        new ConnectionProperties.Builder().type(ConnectionType.WEBRTC).role(OpenViduRole.SUBSCRIBER).data("Jane").record(false).build();
    Connection connection = session.createConnection(properties);
    assertTrue(connection.getToken().startsWith("ws://localhost:"), connection.getToken());
    assertEquals(OpenViduRole.SUBSCRIBER, connection.getRole());
    assertEquals("Jane", connection.getServerData());
    assertEquals("pending", connection.getStatus());
    assertNull(connection.activeAt());

    ConnectionProperties changed = new ConnectionProperties.Builder().role(OpenViduRole.PUBLISHER).build();
    assertEquals(OpenViduRole.PUBLISHER, session.updateConnection(connection.getConnectionId(), changed).getRole());
    assertFalse(session.fetch(), "nothing else changed");

    session.forceDisconnect(connection);
    OpenViduHttpException gone =
        assertThrows(OpenViduHttpException.class, () -> session.forceDisconnect(connection.getConnectionId()));
    assertEquals(404, gone.getStatus());
    session.close();
  }

  @Test
  void aWrongSecretIsRefused() throws Exception {
    OpenVidu stranger = new OpenVidu(weir.url, "wrong");
    OpenViduHttpException refused = assertThrows(OpenViduHttpException.class, stranger::createSession);
    assertEquals(401, refused.getStatus());
  }
}
