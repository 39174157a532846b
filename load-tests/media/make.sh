#!/usr/bin/env bash
# Makes the clip that publishers of the load test send: 4 s of a moving test picture and a wandering tone, coded once as a
# browser would code them live, so that anybody who joins a loaded session can look and listen.
#
#   picture.ivf  VP8 540x360, 30 frames/s, constant 800 kbit/s, no lag, key frames at 0 and 2 s
#   tone.opus    Opus mono, 20 ms frames, 32 kbit/s, in-band FEC
#
# Needs Debian's ffmpeg (with libvpx and libopus). Bytes differ between encoder versions; the files in the repository came from
# ffmpeg 5.1.9, libvpx 1.12, libopus 1.3.1.
set -euo pipefail
cd "$(dirname "$0")"

# The noise keeps the encoder at its target rate, as a camera's does.
ffmpeg -nostdin -hide_banner -loglevel warning -y \
    -f lavfi -i "testsrc2=size=540x360:rate=30:duration=4,noise=alls=14:allf=t,format=yuv420p" \
    -c:v libvpx -deadline realtime -cpu-used 4 -lag-in-frames 0 -auto-alt-ref 0 -error-resilient default \
    -b:v 800k -minrate 800k -maxrate 800k -bufsize 480k -undershoot-pct 100 -overshoot-pct 15 \
    -qmin 2 -qmax 56 -g 60 -keyint_min 60 -threads 1 \
    -flags +bitexact -fflags +bitexact -f ivf picture.ivf

ffmpeg -nostdin -hide_banner -loglevel warning -y \
    -f lavfi -i "aevalsrc=0.3*sin(2*PI*(330*t+20*sin(2*PI*t)))*(0.6+0.4*sin(2*PI*2*t)):s=48000:d=4" \
    -c:a libopus -application voip -frame_duration 20 -b:a 32k -vbr constrained -fec 1 -packet_loss 5 \
    -flags +bitexact -fflags +bitexact -f opus tone.opus
