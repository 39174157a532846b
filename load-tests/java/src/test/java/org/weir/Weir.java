package org.weir;

import java.io.IOException;
import java.net.ServerSocket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Base64;
import java.util.concurrent.TimeUnit;

/** A `weir` of its own on a free port, as an operator starts it. */
final class Weir implements AutoCloseable {
  static final String SECRET = "java-tests";
  private static final long READY_MS = 20_000;

  final String url;
  private final Process process;
  private final Path log;

  static Weir start() throws Exception {
    String binary = System.getenv("WEIR_BIN");
    if (binary == null) throw new IllegalStateException("WEIR_BIN names the binary to test");
    Path directory = Files.createTempDirectory("weir-java-");
    Path log = directory.resolve("log");
    int port = freePort();
    ProcessBuilder builder =
        new ProcessBuilder(binary, "--listen", "127.0.0.1:" + port, "--data-dir", directory.resolve("data").toString());
    builder.environment().put("OPENVIDU_SECRET", SECRET);
    builder.environment().put("WEIR_MEDIA_ADDRESSES", "127.0.0.1");
    builder.environment().put("WEIR_MEDIA_PORT", String.valueOf(freePort()));
    Weir weir = new Weir("http://127.0.0.1:" + port, builder.redirectErrorStream(true).redirectOutput(log.toFile()).start(), log);
    weir.waitUntilReady();
    return weir;
  }

  private Weir(String url, Process process, Path log) {
    this.url = url;
    this.process = process;
    this.log = log;
  }

  private static int freePort() throws IOException {
    try (ServerSocket socket = new ServerSocket(0)) {
      return socket.getLocalPort();
    }
  }

  private void waitUntilReady() throws Exception {
    String basic = Base64.getEncoder().encodeToString(("OPENVIDUAPP:" + SECRET).getBytes(StandardCharsets.UTF_8));
    HttpRequest health =
        HttpRequest.newBuilder(URI.create(url + "/openvidu/api/health")).header("Authorization", "Basic " + basic).build();
    HttpClient client = HttpClient.newHttpClient();
    long end = System.currentTimeMillis() + READY_MS;
    while (System.currentTimeMillis() < end && process.isAlive()) {
      try {
        if (client.send(health, HttpResponse.BodyHandlers.discarding()).statusCode() == 200) return;
      } catch (IOException notListeningYet) {
        // Asked again below.
      }
      Thread.sleep(100);
    }
    close();
    throw new IllegalStateException("weir is not ready:\n" + Files.readString(log));
  }

  @Override
  public void close() throws InterruptedException {
    process.destroy();
    if (!process.waitFor(10, TimeUnit.SECONDS)) process.destroyForcibly();
  }
}
