//! The two containers of the clip: IVF for VP8, Ogg (RFC 3533) for Opus (RFC 7845). Only what `media/make.sh` writes is read.

use anyhow::{Context as _, Result, bail, ensure};

/// A cursor over a file in memory whose end is an error, not a panic.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count).context("the file ends early")?;
        self.0 = tail;
        Ok(head)
    }

    fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.take(2)?.try_into()?))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into()?))
    }
}

/// What an IVF file holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ivf {
    pub(super) width: u16,
    pub(super) height: u16,
    /// Frames per second.
    pub(super) fps: u32,
    pub(super) frames: Vec<Vec<u8>>,
}

/// Reads a VP8 IVF file: 32 bytes of header, then frames with 12 bytes in front of each.
pub(super) fn read_ivf(file: &[u8]) -> Result<Ivf> {
    let mut reader = Reader(file);
    ensure!(reader.take(4)? == b"DKIF", "not an IVF file");
    let _version = reader.u16()?;
    let header_bytes = reader.u16()?;
    ensure!(reader.take(4)? == b"VP80", "not VP8");
    let (width, height) = (reader.u16()?, reader.u16()?);
    let (rate, scale) = (reader.u32()?, reader.u32()?);
    ensure!(rate > 0 && scale > 0 && rate % scale == 0, "a frame rate of {rate}/{scale}");
    reader = Reader(file.get(usize::from(header_bytes)..).context("no frames")?);
    let mut frames = Vec::new();
    while !reader.0.is_empty() {
        let bytes = usize::try_from(reader.u32()?)?;
        let _pts = reader.take(8)?;
        ensure!(bytes > 0, "an empty frame");
        frames.push(reader.take(bytes)?.to_vec());
    }
    Ok(Ivf { width, height, fps: rate / scale, frames })
}

/// Reads the Opus packets of an Ogg file with one logical stream, without its two header packets.
pub(super) fn read_opus(file: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut reader = Reader(file);
    let mut packets = Vec::new();
    let mut open = Vec::new();
    while !reader.0.is_empty() {
        ensure!(reader.take(4)? == b"OggS", "not an Ogg page");
        let _version_flags_granule_serial_number_checksum = reader.take(22)?;
        let segments = usize::from(reader.take(1)?[0]);
        for &lacing in reader.take(segments)? {
            open.extend_from_slice(reader.take(usize::from(lacing))?);
            if lacing < 255 {
                packets.push(std::mem::take(&mut open));
            }
        }
    }
    ensure!(open.is_empty(), "the last packet is cut");
    match packets.first_chunk() {
        Some([head, tags]) if head.starts_with(b"OpusHead") && tags.starts_with(b"OpusTags") => {}
        _ => bail!("not Opus in Ogg"),
    }
    packets.drain(..2);
    Ok(packets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ivf(frames: &[&[u8]]) -> Vec<u8> {
        let mut file = b"DKIF\0\0\x20\0VP80".to_vec();
        file.extend_from_slice(&[0x1c, 2, 0x68, 1]);
        file.extend_from_slice(&30_u32.to_le_bytes());
        file.extend_from_slice(&1_u32.to_le_bytes());
        file.resize(32, 0);
        for frame in frames {
            file.extend_from_slice(&u32::try_from(frame.len()).expect("short").to_le_bytes());
            file.extend_from_slice(&[0; 8]);
            file.extend_from_slice(frame);
        }
        file
    }

    fn page(lacing: &[u8], body: &[u8]) -> Vec<u8> {
        let mut page = b"OggS".to_vec();
        page.resize(26, 0);
        page.push(u8::try_from(lacing.len()).expect("a page"));
        page.extend_from_slice(lacing);
        page.extend_from_slice(body);
        page
    }

    #[test]
    fn ivf_frames_come_back() {
        let read = read_ivf(&ivf(&[b"abc", b"d"])).expect("a good file");
        assert_eq!(
            read,
            Ivf { width: 540, height: 360, fps: 30, frames: vec![b"abc".to_vec(), b"d".to_vec()] }
        );
    }

    #[test]
    fn ogg_packets_cross_segments_and_pages() {
        let mut file = page(&[8], b"OpusHead");
        file.extend(page(&[8], b"OpusTags"));
        file.extend(page(&[2, 255], &[&b"xy"[..], &[7; 255]].concat()));
        file.extend(page(&[1, 0], &[7]));
        let packets = read_opus(&file).expect("a good file");
        assert_eq!(packets, vec![b"xy".to_vec(), vec![7; 256], Vec::new()]);
    }

    #[test]
    fn cut_and_foreign_files_are_errors() {
        let good = ivf(&[b"abc"]);
        for end in [0, 10, 31, 40, good.len() - 1] {
            assert!(read_ivf(&good[..end]).is_err(), "{end}");
        }
        assert!(read_opus(b"RIFF....").is_err());
        assert!(read_opus(&page(&[255], &[0; 255])).is_err());
        assert!(read_opus(&page(&[1, 1], b"ab")).is_err());
    }
}
